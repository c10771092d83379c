// Package mcp offers sandboxes to agents as tools of the Model Context Protocol: at /mcp over streamable HTTP, and over standard input
// and output (msb mcp). The tools that microsandbox 0.2 had keep their names, parameters and results (contract server-v0.2 §1.10);
// what fails in them is a result that a model can act on.
package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/jsonrpc"
	"github.com/microsandbox-go/microsandbox/internal/version"
)

// Config says what to offer. Server and Service are needed.
type Config struct {
	Server  *server.Server
	Service *jsonrpc.Service
	// Preview makes a URL at which a browser reaches a port of a sandbox; nil: there are none.
	Preview func(ctx context.Context, namespace, name string, port uint16) (string, error)
	// Options and Extend change each protocol server before and after it is made; nil changes nothing.
	Options func(*mcp.ServerOptions)
	Extend  func(*mcp.Server)
	// Sessions keeps the state of clients in this process between requests, for tools that ask their client something. Ours do not;
	// and without sessions a client notices nothing of a restart, and no key can use the session of another.
	Sessions bool
	// Events keeps what was sent in sessions, so that streams can be gone on with; nil: they cannot.
	Events mcp.EventStore
}

// Handler is what answers.
type Handler struct {
	cfg    Config
	cache  *mcp.SchemaCache
	stream *mcp.StreamableHTTPHandler
	plain  *mcp.StreamableHTTPHandler // for clients that take JSON only
}

// maxBody is the longest request, in bytes: a file may be in it.
const maxBody = 16 << 20

// New returns a handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, cache: mcp.NewSchemaCache()}
	get := func(r *http.Request) *mcp.Server { return h.protocol(server.CallerOf(r.Context()), base(r)) }
	options := func(json bool) *mcp.StreamableHTTPOptions {
		// The names and the pages that ask were looked at before.
		return &mcp.StreamableHTTPOptions{Stateless: !cfg.Sessions, EventStore: cfg.Events, JSONResponse: json, DisableLocalhostProtection: true, MaxRequestBodyBytes: maxBody, PropagateRequestCancellation: true}
	}
	h.stream, h.plain = mcp.NewStreamableHTTPHandler(get, options(false)), mcp.NewStreamableHTTPHandler(get, options(true))
	return h
}

// base is how the client calls this server.
func base(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// Routes are the endpoint.
func (h *Handler) Routes() []server.Route {
	return []server.Route{{Pattern: "/mcp", Handler: h, MaxBody: maxBody}}
}

// ServeHTTP answers one request. Clients of old say nothing of what they take, or JSON.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	server.Operation(r.Context(), "mcp")
	if r.Method == http.MethodPost {
		body, err := server.ReadBody(r, "")
		if err != nil {
			server.WriteFailure(w, r, server.FailureOf(err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		t := &translator{ResponseWriter: w, request: body}
		defer t.end()
		w = t
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if r.Method != http.MethodPost || strings.Contains(accept, "text/event-stream") {
		h.stream.ServeHTTP(w, r)
		return
	}
	r = r.Clone(r.Context())
	r.Header.Set("Accept", "application/json, text/event-stream")
	h.plain.ServeHTTP(w, r)
}

// translator makes an error of JSON-RPC of what the library refuses with plain text: a method that is not there.
type translator struct {
	http.ResponseWriter
	request []byte
	refused bool
	text    bytes.Buffer
}

// Unwrap is for http.ResponseController.
func (t *translator) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// WriteHeader holds back a refusal.
func (t *translator) WriteHeader(status int) {
	if status == http.StatusBadRequest && !strings.HasPrefix(t.Header().Get("Content-Type"), "application/json") {
		t.refused = true
		return
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *translator) Write(p []byte) (int, error) {
	if t.refused {
		return t.text.Write(p)
	}
	return t.ResponseWriter.Write(p)
}

// Flush sends what there is.
func (t *translator) Flush() { _ = http.NewResponseController(t.ResponseWriter).Flush() }

func (t *translator) end() {
	if !t.refused {
		return
	}
	var call struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	message := strings.TrimSpace(t.text.String())
	if json.Unmarshal(t.request, &call) != nil || len(call.ID) == 0 {
		t.ResponseWriter.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(t.ResponseWriter, message+"\n")
		return
	}
	code, status := -32600, http.StatusBadRequest
	if strings.Contains(message, "not handled") {
		code, status, message = -32601, http.StatusOK, "method not found: "+strconv.Quote(call.Method)
	}
	t.Header().Del("X-Content-Type-Options")
	server.WriteJSON(t.ResponseWriter, status, map[string]any{"jsonrpc": "2.0", "id": call.ID, "error": map[string]any{"code": code, "message": message}})
}

// Stdio speaks with one client over in and out until it goes, as somebody who may do everything.
func (h *Handler) Stdio(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	return h.protocol(server.Caller{Namespace: server.AllNamespaces}, "").Run(ctx, draining{&mcp.IOTransport{Reader: in, Writer: out}})
}

// instructions tell a model what all this is for.
const instructions = `Sandboxes run untrusted code and commands, each with its own files, processes and network policy. Start one with sandbox_start, ` +
	`use it as long as you need it (its files stay when it is stopped), and stop it with sandbox_stop when you are done. ` +
	`Unless told otherwise, use the namespace "default".`

// protocol is a server of the protocol for one caller. Whatever session it is in, it acts for nobody else.
func (h *Handler) protocol(caller server.Caller, url string) *mcp.Server {
	options := &mcp.ServerOptions{Instructions: instructions, SchemaCache: h.cache,
		Capabilities: &mcp.ServerCapabilities{Logging: &mcp.LoggingCapabilities{}, Tools: &mcp.ToolCapabilities{}, Prompts: &mcp.PromptCapabilities{}}}
	if h.cfg.Options != nil {
		h.cfg.Options(options)
	}
	s := mcp.NewServer(&mcp.Implementation{Name: "microsandbox-server", Title: "microsandbox", Version: version.Version}, options)
	for _, t := range h.tools() {
		s.AddTool(&mcp.Tool{Name: t.name, Title: t.title, Description: t.description, InputSchema: t.schema(), Annotations: t.annotations()}, h.handler(t, caller, url))
	}
	for _, p := range prompts {
		s.AddPrompt(p.prompt(), p.get)
	}
	if h.cfg.Extend != nil {
		h.cfg.Extend(s)
	}
	return s
}

// progress passes on what a long call does to a client that wants to know.
func progress(ctx context.Context, req *mcp.CallToolRequest) func(backend.Event) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return nil
	}
	step := 0.0
	return func(e backend.Event) {
		step++
		p := &mcp.ProgressNotificationParams{ProgressToken: token, Progress: step, Message: e.Text}
		if e.Pull != nil {
			p.Message = "image: " + string(e.Pull.Phase)
		}
		_ = req.Session.NotifyProgress(ctx, p) // who has gone needs none
	}
}
