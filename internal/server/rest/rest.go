// Package rest speaks the control plane API at /v1 (contract msb-0.6 §3), so that every client of it works unmodified with this server.
// An organisation is a namespace. What clients of ours may ask besides is in the routes of extension.go; what the API is as a whole
// says openapi.json.
package rest

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Handler answers the requests of one server.
type Handler struct {
	server  *server.Server
	backend backend.Backend
	events  *events
	calls   calls
}

// New returns the handler of a server.
func New(s *server.Server) *Handler {
	h := &Handler{server: s, backend: s.Backend(), events: &events{log: s.Config().AuditFile}, calls: calls{all: map[string]map[string]*call{}}}
	s.ObserveAudit(h.events.add)
	return h
}

// answer is what a request gets: a value that becomes JSON, or an error.
type answer func(r *request) (any, error)

// request is one, and whose sandboxes it is about.
type request struct {
	*http.Request
	w         http.ResponseWriter
	namespace string
}

// streamed is the value of an answer that was written by its handler.
var streamed = new(struct{})

// route makes a route of an operation.
func (h *Handler) route(pattern, op string, f answer) server.Route {
	return server.Route{Pattern: pattern, Fail: refuse, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, op, f) })}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, op string, f answer) {
	server.Operation(r.Context(), "rest."+op)
	ns, err := namespaceOf(r)
	var v any
	if err == nil {
		v, err = f(&request{Request: r, w: w, namespace: ns})
	}
	switch {
	case err != nil:
		fail(w, r, err)
	case v != streamed:
		server.WriteJSON(w, http.StatusOK, v)
	}
}

// namespaceOf is whose sandboxes a request is about: those of the key's namespace. A key for all may say which.
func namespaceOf(r *http.Request) (string, error) {
	c := server.CallerOf(r.Context())
	ns := r.Header.Get(cloudapi.NamespaceHeader)
	switch {
	case ns == "" && c.All():
		ns = sandbox.DefaultNamespace
	case ns == "":
		ns = c.Namespace
	}
	if err := (sandbox.Ref{Namespace: ns, Name: "x"}).Validate(); err != nil {
		return "", err
	}
	return ns, c.Check(ns)
}

// fail writes an error.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	status, e := envelopeOf(err)
	if f := failureOf(err); f != nil {
		f.Headers(w.Header())
	}
	server.WriteJSON(w, status, e)
}

// envelopeOf is the answer that is an error, and its status.
func envelopeOf(err error) (int, cloudapi.Envelope) {
	f := failureOf(err)
	if f == nil {
		return cloudapi.Body(err)
	}
	code, message := codes[f.Status], f.Message
	if code == "" {
		code = cloudapi.CodeInternal
	}
	if code == cloudapi.CodeKey {
		message = "Invalid API key"
	}
	e := cloudapi.Envelope{Error: cloudapi.ErrorBody{Code: code, Message: message}}
	if f.Hint != "" {
		e.Error.Details = &cloudapi.Details{Hint: f.Hint}
	}
	return f.Status, e
}

// failureOf is what an error is that has a status of its own, nil if it has none.
func failureOf(err error) *server.Failure {
	var f *server.Failure
	var big *http.MaxBytesError
	if !errors.As(err, &f) && errors.As(err, &big) {
		f = server.FailureOf(big)
	}
	return f
}

// codes are those of what the server itself refuses.
var codes = map[int]string{http.StatusUnauthorized: cloudapi.CodeKey, http.StatusForbidden: cloudapi.CodeDenied, http.StatusTooManyRequests: cloudapi.CodeBusy,
	http.StatusRequestEntityTooLarge: cloudapi.CodeTooLarge, http.StatusBadRequest: cloudapi.CodeInvalid, http.StatusNotFound: "not_found",
	http.StatusMethodNotAllowed: "method_not_allowed", http.StatusConflict: cloudapi.CodeState, http.StatusRequestTimeout: "request_timeout", http.StatusUpgradeRequired: cloudapi.CodeInvalid, http.StatusBadGateway: cloudapi.CodeFailed}

func refuse(w http.ResponseWriter, r *http.Request, f *server.Failure) { fail(w, r, f) }

// body reads a JSON object; an empty body is an empty one. Kind: InvalidArgument.
func (r *request) body(into any) error {
	data, err := server.ReadBody(r.Request, "content") // of a file, as a list of bytes (contract msb-0.6 §3.4)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "the body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	return nil
}

func invalid(message string) error {
	return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: message}
}

// maxCreate is the longest body of a create, in bytes: it may have scripts and the content of files, each byte of which is up to four.
const maxCreate = 32 << 20

// Routes are the endpoints.
func (h *Handler) Routes() []server.Route {
	upload := h.route("PUT /v1/volumes/{id}/files/content", "files.write", h.writeFile)
	upload.MaxBody = -1
	create := h.route("POST /v1/sandboxes", "create", h.create)
	create.MaxBody = maxCreate
	routes := []server.Route{
		h.route("GET /v1/sandboxes", "list", h.list),
		create,
		// by-name/NAME and ID/OPERATION have the same form.
		h.route("/v1/sandboxes/{id}", "sandbox", h.one),
		h.route("/v1/sandboxes/{id}/{op}", "sandbox", h.two),
		h.route("/v1/sandboxes/{id}/{name}/{op}", "sandbox", h.three),
		h.route("GET /v1/volumes", "volumes.list", h.volumes),
		h.route("POST /v1/volumes", "volumes.create", h.createVolume),
		h.route("GET /v1/volumes/default", "volumes.default", h.defaultVolume),
		h.route("GET /v1/volumes/{id}", "volumes.get", h.getVolume),
		h.route("PATCH /v1/volumes/{id}", "volumes.update", h.updateVolume),
		h.route("DELETE /v1/volumes/{id}", "volumes.remove", h.removeVolume),
		h.route("GET /v1/volumes/{id}/files", "files.list", h.listFiles),
		h.route("DELETE /v1/volumes/{id}/files", "files.remove", h.removeFile),
		h.route("GET /v1/volumes/{id}/files/stat", "files.stat", h.statFile),
		h.route("GET /v1/volumes/{id}/files/exists", "files.exists", h.fileExists),
		h.route("GET /v1/volumes/{id}/files/content", "files.read", h.readFile),
		upload,
		h.route("POST /v1/volumes/{id}/files/mkdir", "files.mkdir", h.makeDir),
		h.route("POST /v1/volumes/{id}/files/copy", "files.copy", h.copyFile),
		h.route("POST /v1/volumes/{id}/files/rename", "files.rename", h.renameFile),
		h.route("GET /v1/quotas", "quotas", h.quotas),
		h.route("GET /v1/events", "events", h.listEvents),
		h.route("GET /v1/events/{id}", "events.get", h.getEvent),
		h.route("GET /v1/me/org", "org", h.org),
		h.route("GET /v1/members", "members", h.members),
		h.route("GET /v1/billing/usage", "usage", h.usage),
		h.route("GET /v1/billing/usage/sandbox", "usage.sandbox", h.sandboxUsage),
		h.route("GET /v1/billing/usage/storage", "usage.storage", h.storageUsage),
		// Ours:
		h.route("GET /v1/capabilities", "capabilities", h.capabilities),
		h.route("GET /v1/metrics", "metrics.all", h.allMetrics),
		h.route("GET /v1/sandboxfile", "export", h.export),
		h.route("DELETE /v1/requests/{id}", "revoke", h.revoke),
		h.route("GET /v1/images", "images.list", h.listImages),
		h.route("DELETE /v1/images", "images.remove", h.removeImage),
		h.route("GET /v1/images/inspect", "images.inspect", h.inspectImage),
		h.route("POST /v1/images/pull", "images.pull", h.pullImage),
		h.route("POST /v1/images/prune", "images.prune", h.pruneImages),
	}
	routes = append(routes, h.interpreterRoutes()...)
	routes = append(routes, server.Route{Pattern: "GET /v1/openapi.json", Public: true, Fail: refuse, Handler: http.HandlerFunc(describe)})
	unknown := h.route("/v1/", "unknown", func(*request) (any, error) {
		return nil, &server.Failure{Status: http.StatusNotFound, Message: "there is no such route"}
	})
	return append(routes, unknown)
}

// operations are what may be done to one sandbox, by method and word.
func (h *Handler) operation(r *request, word string, info sandbox.Info) (any, error) {
	ops := map[string]func(*request, sandbox.Info) (any, error){
		"GET ": h.get, "DELETE ": h.remove, "PATCH ": h.rename,
		"POST start": h.start, "POST stop": h.stop, "GET logs": h.logs, "GET agent": h.agent,
		"POST drain": h.drain, "GET metrics": h.metrics, "POST modify": h.modify, "GET network": h.network, "PUT network": h.setNetwork, "PUT spec": h.redefine,
		"GET interpreters": h.interpreters,
	}
	f := ops[r.Method+" "+word]
	if f == nil {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if ops[method+" "+word] != nil {
				return nil, &server.Failure{Status: http.StatusMethodNotAllowed, Message: "not with " + r.Method}
			}
		}
		return nil, &server.Failure{Status: http.StatusNotFound, Message: "there is no such route"}
	}
	if word != "" {
		server.Operation(r.Context(), "rest."+word)
	}
	return f(r, info)
}

func (h *Handler) one(r *request) (any, error) {
	info, err := h.byID(r, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return h.operation(r, "", info)
}

func (h *Handler) two(r *request) (any, error) {
	if r.PathValue("id") == "by-name" {
		return h.named(r, r.PathValue("op"), "")
	}
	info, err := h.byID(r, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return h.operation(r, r.PathValue("op"), info)
}

func (h *Handler) three(r *request) (any, error) {
	if r.PathValue("id") != "by-name" {
		return nil, &server.Failure{Status: http.StatusNotFound, Message: "there is no such route"}
	}
	return h.named(r, r.PathValue("name"), r.PathValue("op"))
}

func (h *Handler) named(r *request, name, op string) (any, error) {
	info, err := h.byName(r, name)
	if err != nil {
		return nil, err
	}
	return h.operation(r, op, info)
}

// byName finds a sandbox by its name in the request's namespace.
func (h *Handler) byName(r *request, name string) (sandbox.Info, error) {
	ref := sandbox.Ref{Namespace: r.namespace, Name: sandbox.Name(name)}
	if err := ref.Validate(); err != nil {
		return sandbox.Info{}, &sandbox.Error{Ref: ref, Kind: sandbox.NotFound, Message: "there is no sandbox of that name, which is none"}
	}
	return h.backend.Get(r.Context(), ref)
}

// byID finds a sandbox by its ID among those that the caller may use.
func (h *Handler) byID(r *request, id string) (sandbox.Info, error) {
	missing := &sandbox.Error{Kind: sandbox.NotFound, Message: "there is no sandbox with this id"}
	finder, ok := h.backend.(backend.Finder)
	if !ok {
		return sandbox.Info{}, missing
	}
	info, err := finder.Find(r.Context(), id)
	if sandbox.KindOf(err) == sandbox.NotFound || err == nil && !server.CallerOf(r.Context()).May(info.Ref.Namespace) {
		return sandbox.Info{}, missing
	}
	return info, err
}
