// Package jsonrpc speaks the API of microsandbox 0.2 at /api/v1/rpc (contract server-v0.2 §1.3 to §1.8, §2): the envelopes, words and
// status codes that its clients know. A [Service] does what the methods say; package mcp has the same ones as tools.
package jsonrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Routes are the endpoints of the API.
func (v *Service) Routes() []server.Route {
	return []server.Route{
		{Pattern: "GET /api/v1/health", Public: true, Handler: http.HandlerFunc(health)},
		{Pattern: "POST /api/v1/rpc", Handler: http.HandlerFunc(v.rpc)},
	}
}

func health(w http.ResponseWriter, r *http.Request) {
	server.WriteJSON(w, http.StatusOK, map[string]string{"message": "Service is healthy"})
}

// The codes of JSON-RPC.
const (
	codeInvalidRequest = -32600
	codeNoMethod       = -32601
)

// request is a call. What has no id is answered, too.
type request struct {
	version, method string
	params          json.RawMessage
	id              json.RawMessage // nil: none
}

// response is the envelope. What is absent is left out.
type response struct {
	Version string          `json:"jsonrpc"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
	ID      json.RawMessage `json:"id,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (v *Service) rpc(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	body, err := server.ReadBody(r, "")
	if err != nil {
		server.WriteFailure(w, r, server.FailureOf(err))
		return
	}
	if caller := server.CallerOf(ctx); !caller.All() {
		if err := checkNamespace(caller, body); err != nil {
			server.WriteFailure(w, r, server.FailureOf(err))
			return
		}
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		plain(w, http.StatusUnsupportedMediaType, "Expected request with `Content-Type: application/json`")
		return
	}
	req, status, err := parse(body)
	if err != nil {
		plain(w, status, err.Error())
		return
	}
	if req.version != "2.0" {
		server.WriteJSON(w, http.StatusBadRequest, response{Version: "2.0", Error: &rpcError{codeInvalidRequest, "Invalid or missing jsonrpc version field"}, ID: req.id})
		return
	}
	method, ok := v.methods()[req.method]
	if !ok {
		server.WriteJSON(w, http.StatusNotFound, response{Version: "2.0", Error: &rpcError{codeNoMethod, "Method not found: " + req.method}, ID: req.id})
		return
	}
	server.Operation(ctx, req.method)
	result, err := method(ctx, req.params)
	if err != nil {
		server.WriteFailure(w, r, server.FailureOf(err))
		return
	}
	server.WriteJSON(w, http.StatusOK, response{Version: "2.0", Result: result, ID: req.id})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json"))
}

// checkNamespace refuses a call for another namespace than the caller's, whatever it is for (contract server-v0.2 §1.4). What each
// method does is checked again where it is done.
func checkNamespace(caller server.Caller, body []byte) error {
	var call object
	if err := json.Unmarshal(body, &call); err != nil {
		return server.Invalid("Invalid JSON-RPC request: %v", err)
	}
	params, ok := call["params"]
	if !ok {
		return server.Invalid("Missing 'params' field in JSON-RPC request")
	}
	method, namespace := "unknown", ""
	_ = json.Unmarshal(call["method"], &method)
	var p object
	if json.Unmarshal(params, &p) != nil || p["namespace"] == nil || json.Unmarshal(p["namespace"], &namespace) != nil || isNull(p["namespace"]) {
		return server.Invalid("Missing or invalid 'namespace' in params for method '%s'", clip(method))
	}
	return caller.Check(namespace)
}

// parse reads a call, or says what status its error has (contract server-v0.2 §1.3).
func parse(body []byte) (request, int, error) {
	if err := syntax(body); err != nil {
		return request{}, http.StatusBadRequest, fmt.Errorf("Failed to parse the request body as JSON: %w", err)
	}
	fail := func(format string, args ...any) (request, int, error) {
		return request{}, http.StatusUnprocessableEntity, fmt.Errorf("Failed to deserialize the JSON body into the target type: "+format, args...)
	}
	var call object
	if err := json.Unmarshal(body, &call); err != nil || call == nil {
		return fail("expected an object")
	}
	var req request
	for _, f := range []struct {
		name string
		into *string
	}{{"jsonrpc", &req.version}, {"method", &req.method}} {
		raw, ok := call[f.name]
		if !ok {
			return fail("missing field `%s`", f.name)
		}
		if isNull(raw) || json.Unmarshal(raw, f.into) != nil {
			return fail("%s: invalid type, expected a string", f.name)
		}
	}
	req.params = call["params"]
	if id := call["id"]; id != nil && !isNull(id) {
		req.id = id
	}
	return req, 0, nil
}

// syntax is the error of what is not one JSON value.
func syntax(body []byte) error {
	if json.Valid(body) {
		return nil
	}
	var any json.RawMessage
	if err := json.Unmarshal(body, &any); err != nil {
		return err
	}
	return errors.New("invalid JSON")
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// object is a JSON object. Its keys are told apart by case, as those of clients are: encoding/json does not.
type object map[string]json.RawMessage

// take decodes a member, if it is there and not null.
func (o object) take(name string, into any) error {
	raw, ok := o[name]
	if !ok || isNull(raw) {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		var t *json.UnmarshalTypeError
		if errors.As(err, &t) {
			return fmt.Errorf("%s: invalid type: %s", name, t.Value)
		}
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// text decodes a member that has to be a string.
func (o object) text(name string) (string, error) {
	raw, ok := o[name]
	if !ok {
		return "", fmt.Errorf("missing field `%s`", name)
	}
	var s string
	if isNull(raw) || json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("%s: invalid type, expected a string", name)
	}
	return s, nil
}

// namespace is the one that is asked for; clients of 0.3 name none (contract server-v0.2 §9).
func (o object) namespace() (string, error) {
	if raw, ok := o["namespace"]; !ok || isNull(raw) {
		return sandbox.DefaultNamespace, nil
	}
	return o.text("namespace")
}

// method is one of the API. Its result becomes JSON.
type method func(ctx context.Context, params json.RawMessage) (any, error)

func (v *Service) methods() map[string]method {
	return map[string]method{
		"sandbox.start":           v.rpcStart,
		"sandbox.stop":            v.rpcStop,
		"sandbox.metrics.get":     v.rpcMetrics,
		"sandbox.repl.run":        v.rpcCode,
		"sandbox.command.run":     v.rpcCommand,
		"sandbox.command.execute": v.rpcCommand, // 0.2.0 and 0.2.1
	}
}

func clip(s string) string {
	const most = 200
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
