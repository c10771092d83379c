package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/jsonrpc"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// tool is one of them.
type tool struct {
	name, title, description string
	failure                  string // what an error's message begins with
	properties               []property
	readOnly, idempotent     bool
	call                     call
}

// call does what a tool is for. The result becomes JSON, before the more that there is.
type call func(ctx context.Context, req *mcp.CallToolRequest, args json.RawMessage) (result any, more []mcp.Content, err error)

// property is one parameter.
type property struct {
	name, description string
	schema            map[string]any
	required          bool
}

func (t tool) schema() map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, p := range t.properties {
		s := map[string]any{"description": p.description}
		for k, v := range p.schema {
			s[k] = v
		}
		properties[p.name] = s
		if p.required {
			required = append(required, p.name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

func (t tool) annotations() *mcp.ToolAnnotations {
	no := false
	a := &mcp.ToolAnnotations{Title: t.title, ReadOnlyHint: t.readOnly, IdempotentHint: t.idempotent}
	if t.readOnly {
		a.DestructiveHint, a.OpenWorldHint = &no, &no
	}
	return a
}

var (
	text    = map[string]any{"type": "string"}
	integer = map[string]any{"type": "integer"}
	texts   = map[string]any{"type": "array", "items": map[string]any{"type": "string"}}

	sandboxName = property{"sandbox", "Name of the sandbox: letters, digits, hyphens and underscores", text, true}
	namespace   = property{"namespace", `Namespace of the sandbox; "default" unless told otherwise`, text, true}
	filePath    = property{"path", "Absolute path in the sandbox", text, true}
	timeout     = property{"timeout", "Seconds after which it is ended", integer, false}
)

// tools are those of contract server-v0.2 §1.10, and then ours.
func (h *Handler) tools() []tool {
	config := property{"config", "What the sandbox is made of; without it the sandbox is started as it was", map[string]any{"type": "object", "properties": map[string]any{
		"image":   map[string]any{"type": "string", "description": "Image; microsandbox/python and microsandbox/node have interpreters", "examples": []string{"microsandbox/python", "microsandbox/node"}},
		"memory":  map[string]any{"type": "integer", "description": "Memory in MiB"},
		"cpus":    map[string]any{"type": "integer", "description": "Number of CPUs"},
		"volumes": map[string]any{"type": "array", "items": text, "description": "Volumes: NAME:/path keeps a directory under a name"},
		"ports":   map[string]any{"type": "array", "items": text, "description": "Ports to publish: HOST:GUEST"},
		"envs":    map[string]any{"type": "array", "items": text, "description": "Environment variables: KEY=VALUE"},
		"workdir": map[string]any{"type": "string", "description": "Directory in which commands run"},
	}}, false}
	return []tool{
		{name: "sandbox_start", title: "Start a sandbox", failure: "Sandbox start failed", idempotent: true, properties: []property{sandboxName, namespace, config}, call: h.start,
			description: "Start a sandbox, and make it if there is none of that name. It is ready when this returns. Call it before any other tool uses the sandbox, and call sandbox_stop when you are done with it."},
		{name: "sandbox_stop", title: "Stop a sandbox", failure: "Sandbox stop failed", idempotent: true, properties: []property{sandboxName, namespace}, call: h.stop,
			description: "Stop a running sandbox. Its files stay for its next start. Always stop sandboxes that you do not need any more."},
		{name: "sandbox_run_code", title: "Run code", properties: []property{sandboxName, namespace,
			{"code", "Code to run; the value of a last expression is printed", text, true}, {"language", "Language of the code: python, node or bash", text, true}, timeout}, call: h.code,
			description: "Run code in a running sandbox and wait for its end. Variables and imports stay for the next call."},
		{name: "sandbox_run_command", title: "Run a command", properties: []property{sandboxName, namespace, {"command", "Program to run; no shell reads it", text, true},
			{"args", "Its arguments", texts, false}, timeout}, call: h.command,
			description: "Run a program in a running sandbox and wait for its end. For pipes and the like run sh with the arguments -c and a script."},
		{name: "sandbox_get_metrics", title: "Get metrics", failure: "Get metrics failed", readOnly: true, properties: []property{{"sandbox", "Only this sandbox", text, false},
			{"namespace", "Namespace, or * for all", text, true}}, call: h.metrics,
			description: "Get which sandboxes run, and what CPU, memory and disk they use."},
		{name: "sandbox_list", title: "List sandboxes", readOnly: true, properties: []property{{"namespace", "Namespace, or * for all", text, true}}, call: h.list,
			description: "List the sandboxes of a namespace with their images and states."},
		{name: "sandbox_read_file", title: "Read a file", readOnly: true, properties: []property{sandboxName, namespace, filePath}, call: in(h, readFile),
			description: "Read a file of a running sandbox, of at most 1 MiB. What is not text comes as base64."},
		{name: "sandbox_write_file", title: "Write a file", idempotent: true, properties: []property{sandboxName, namespace, filePath, {"content", "What the file is to have", text, true},
			{"encoding", "base64 if content is that; text otherwise", map[string]any{"type": "string", "enum": []string{"text", "base64"}}, false}}, call: on(h.writeFile),
			description: "Write a file of a running sandbox, in place of what was there. Directories on the way are made."},
		{name: "sandbox_list_files", title: "List files", readOnly: true, properties: []property{sandboxName, namespace, filePath}, call: in(h, listFiles),
			description: "List the files in a directory of a running sandbox."},
		{name: "sandbox_get_logs", title: "Get logs", readOnly: true, properties: []property{sandboxName, namespace, {"tail", "How many entries, counted from the last; 100 unless given", integer, false}}, call: on(h.logs),
			description: "Get what programs in a sandbox printed, also when it does not run any more."},
		{name: "sandbox_list_ports", title: "List ports", readOnly: true, properties: []property{sandboxName, namespace, {"port", "A port on which a program in the sandbox listens: get a URL for it", integer, false}}, call: on(h.ports),
			description: "List the ports that a sandbox publishes; for any port of the sandbox get a URL that a browser can open for an hour."},
	}
}

// handler calls a tool for a caller.
func (h *Handler) handler(t tool, caller server.Caller, url string) mcp.ToolHandler {
	return func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		ctx = server.WithCaller(ctx, caller)
		ctx = context.WithValue(ctx, urlKey{}, url)
		server.Operation(ctx, t.name)
		args := req.Params.Arguments
		if len(args) == 0 {
			args = json.RawMessage("{}")
		}
		result, more, err := t.call(ctx, req, args)
		if err != nil {
			return failed(t, err), nil
		}
		pretty, err := indent(result)
		if err != nil {
			return failed(t, err), nil
		}
		return &mcp.CallToolResult{Content: append([]mcp.Content{&mcp.TextContent{Text: pretty}}, more...)}, nil
	}
}

type urlKey struct{}

func indent(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// failed is the result of a tool that could not do it, with what may help.
func failed(t tool, err error) *mcp.CallToolResult {
	f := server.FailureOf(err)
	message := f.Message
	if t.failure != "" {
		message = t.failure + ": " + message
	}
	hint := f.Hint
	switch kind := sandbox.KindOf(err); {
	case f.Status == 403:
		hint = "use the namespace that your key is for"
	case kind == sandbox.NotFound, kind == sandbox.NotRunning:
		hint = "start the sandbox with sandbox_start first"
	}
	if f.Retry > 0 {
		hint = strings.TrimSpace(fmt.Sprintf("%s; try again after %d seconds", hint, int(f.Retry.Seconds())))
	}
	if hint != "" {
		message += "\nHint: " + hint
	}
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "Error: " + message}}}
}

func (h *Handler) start(ctx context.Context, req *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	p, err := jsonrpc.ParseStart(args)
	if err != nil {
		return nil, nil, server.Invalid("Validation error: %v", err)
	}
	p.Progress = progress(ctx, req)
	r, err := h.cfg.Service.Start(ctx, p)
	return r, nil, err
}

func (h *Handler) stop(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	ns, name, err := jsonrpc.ParseNames(args)
	if err != nil {
		return nil, nil, server.Invalid("Validation error: %v", err)
	}
	r, err := h.cfg.Service.Stop(ctx, ns, name)
	return r, nil, err
}

func (h *Handler) metrics(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	ns, name, err := jsonrpc.ParseMetrics(args)
	if err != nil {
		return nil, nil, server.Invalid("Validation error: %v", err)
	}
	r, err := h.cfg.Service.Metrics(ctx, ns, name)
	return r, nil, err
}

func (h *Handler) command(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	p, err := jsonrpc.ParseCommand(args)
	if err != nil {
		return nil, nil, err
	}
	p.MaxOutput = maxPrinted
	r, err := h.cfg.Service.Command(ctx, p)
	return r, nil, err
}

func (h *Handler) code(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
	p, err := jsonrpc.ParseCode(args)
	if err != nil {
		return nil, nil, err
	}
	p.MaxOutput = maxPrinted
	var more []mcp.Content
	size := 0
	p.Display = func(b *agentclient.Bundle) {
		for _, f := range b.Forms {
			if size += len(f.Data); size > maxShown || server.Hold(ctx, 2*len(f.Data)) != nil {
				return
			}
			switch {
			case strings.HasPrefix(f.MIME, "image/") && f.MIME != "image/svg+xml":
				more = append(more, &mcp.ImageContent{Data: bytes.Clone(f.Data), MIMEType: f.MIME})
			case f.MIME != "text/plain": // that was printed
				more = append(more, &mcp.EmbeddedResource{Resource: &mcp.ResourceContents{URI: fmt.Sprintf("display://%d", len(more)), MIMEType: f.MIME, Text: strings.ToValidUTF8(string(f.Data), "\uFFFD")}})
			}
		}
	}
	r, err := h.cfg.Service.Code(ctx, p)
	return r, more, err
}

// maxShown is how much of what code shows one call returns besides its text, in bytes.
const maxShown = 8 << 20

// maxPrinted is how much of what is printed one call returns, in bytes of JSON, which becomes a text in JSON again.
const maxPrinted = 4 << 20

// params are the parameters that tools of ours have.
type params struct {
	Sandbox   string  `json:"sandbox"`
	Namespace *string `json:"namespace"`
}

func (p *params) namespace() string {
	if p.Namespace == nil {
		return sandbox.DefaultNamespace
	}
	return *p.Namespace
}

// ref is the sandbox that is meant, which the caller has to be allowed to use.
func (p *params) ref(ctx context.Context) (sandbox.Ref, error) {
	return jsonrpc.Ref(ctx, p.namespace(), p.Sandbox)
}

// fileParams are those of tools that are about a file.
type fileParams struct {
	params
	Path string `json:"path"`
}

func (p *fileParams) ref(ctx context.Context) (sandbox.Ref, error) {
	if !strings.HasPrefix(p.Path, "/") {
		return sandbox.Ref{}, server.Invalid("Validation error: path: want an absolute path")
	}
	return p.params.ref(ctx)
}

func parse(args json.RawMessage, into any) error {
	if err := json.Unmarshal(args, into); err != nil {
		return server.Invalid("Validation error: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// named is a pointer to parameters that name a sandbox.
type named[P any] interface {
	*P
	ref(context.Context) (sandbox.Ref, error)
}

// on makes a tool of what is done to a sandbox: it reads the parameters and finds the sandbox that they name.
func on[P any, T named[P]](do func(ctx context.Context, ref sandbox.Ref, p T) (any, error)) call {
	return func(ctx context.Context, _ *mcp.CallToolRequest, args json.RawMessage) (any, []mcp.Content, error) {
		p := T(new(P))
		if err := parse(args, p); err != nil {
			return nil, nil, err
		}
		ref, err := p.ref(ctx)
		if err != nil {
			return nil, nil, err
		}
		result, err := do(ctx, ref, p)
		return result, nil, err
	}
}

// in makes a tool of what is done in a running sandbox.
func in[P any, T named[P]](h *Handler, do func(ctx context.Context, client *agentclient.Client, p T) (any, error)) call {
	return on(func(ctx context.Context, ref sandbox.Ref, p T) (any, error) {
		client, release, err := h.cfg.Server.Agent(ctx, ref)
		if err != nil {
			return nil, err
		}
		defer release()
		return do(ctx, client, p)
	})
}

var errTooLarge = errors.New("the file is larger than 1 MiB: read a part of it with sandbox_run_command, for example head -c")
