package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// oldClient uses the API as the Go SDK of 0.2 did: requests without an id, nil for no arguments, the timeout of its HTTP client in
// nanoseconds, and strict types in what comes back.
type oldClient struct {
	url, key, namespace, name string
	http                      *http.Client
}

type oldRequest struct {
	Version string         `json:"jsonrpc"`
	Method  string         `json:"method"`
	Params  map[string]any `json:"params"`
	ID      *string        `json:"id,omitempty"`
}

type oldMetrics struct {
	Name   string  `json:"name"`
	Up     bool    `json:"running"`
	CPU    float64 `json:"cpu_usage"`
	Memory int     `json:"memory_usage"`
	Disk   int     `json:"disk_usage"`
}

var errRPC = errors.New("RPC error")

func (c *oldClient) call(method string, params map[string]any, result any) error {
	params["sandbox"], params["namespace"] = c.name, c.namespace
	if strings.HasSuffix(method, ".run") && c.http.Timeout > 0 {
		params["timeout"] = c.http.Timeout
	}
	body, err := json.Marshal(oldRequest{Version: "2.0", Method: method, Params: params})
	if err != nil {
		return err
	}
	req, err := http.NewRequest("POST", c.url+"/api/v1/rpc", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("request failed: status %d: %s", resp.StatusCode, text)
	}
	var r struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Message string `json:"message"`
		} `json:"error"`
		ID *string `json:"id"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return err
	}
	if r.Error != nil {
		return fmt.Errorf("%w: %s", errRPC, r.Error.Message)
	}
	return json.Unmarshal(r.Result, result)
}

func (c *oldClient) run(command string, args []string) (out string, code int, err error) {
	var r struct {
		Output []struct{ Stream, Text string }
		Code   int `json:"exit_code"`
	}
	err = c.call("sandbox.command.run", map[string]any{"command": command, "args": args}, &r)
	for _, l := range r.Output {
		out += l.Text + "\n"
	}
	return out, r.Code, err
}

func (c *oldClient) start(image string) error {
	var text string
	err := c.call("sandbox.start", map[string]any{"config": map[string]any{"image": image, "memory": 256, "cpus": 1}}, &text)
	if err == nil && text != "Sandbox "+c.name+" started successfully" {
		err = errors.New(text)
	}
	return err
}

func (c *oldClient) metrics() (oldMetrics, error) {
	var r struct{ Sandboxes []oldMetrics }
	if err := c.call("sandbox.metrics.get", map[string]any{}, &r); err != nil || len(r.Sandboxes) != 1 {
		return oldMetrics{}, fmt.Errorf("%d sandboxes: %w", len(r.Sandboxes), err)
	}
	return r.Sandboxes[0], nil
}

func (s *service) old(name string) *oldClient {
	return &oldClient{s.url, s.all, "default", name, client}
}

// TestServerOldGoClient makes every call of the Go SDK of 0.2 but that for code.
func TestServerOldGoClient(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		c := s.old("old")
		for range 2 {
			w.must(c.start("host"))
		}
		if out, code, err := c.run("pwd", nil); out != "/\n" || code != 0 || err != nil {
			t.Errorf("pwd: %q %d %v", out, code, err)
		}
		if out, code, err := c.run("sh", []string{"-c", "echo a; echo b >&2; exit 7"}); len(out) != 4 || code != 7 || err != nil {
			t.Errorf("sh: %q %d %v", out, code, err)
		}
		if _, _, err := c.run("nothing", nil); err == nil || !strings.HasPrefix(err.Error(), "request failed: status 500: ") {
			t.Errorf("nothing: %v", err)
		}
		if m, err := c.metrics(); err != nil || !m.Up || m.Memory <= 0 {
			t.Errorf("metrics: %+v %v", m, err)
		}
		var text string
		w.must(c.call("sandbox.stop", map[string]any{}, &text))
		if m, err := c.metrics(); err != nil || m.Up || m.Memory != 0 {
			t.Errorf("metrics of a stopped one: %+v %v", m, err)
		}
	})
}

// TestServerStartsKeepWhatIsThere starts sandboxes again, with the same and with another configuration: files stay.
func TestServerStartsKeepWhatIsThere(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		start := func(config string) {
			t.Helper()
			s.call("sandbox.start", `{"sandbox":"a","namespace":"team-a"`+config+`}`)
		}
		run := func(script string) string {
			t.Helper()
			var r struct{ Output []struct{ Text string } }
			w.must(json.Unmarshal([]byte(s.call("sandbox.command.run", `{"sandbox":"a","namespace":"team-a","command":"sh","args":["-c","`+script+`"]}`)), &r))
			var lines []string
			for _, l := range r.Output {
				lines = append(lines, l.Text)
			}
			return strings.Join(lines, "\n")
		}
		start(`,"config":{"image":"host","memory":256,"envs":["V=1"],"exec":"echo began >> /began"}`)
		if !until(tidy, func() bool { return run("cat /began 2>/dev/null") == "began" }) {
			t.Error("the start command did not run")
		}
		if out := run("echo kept > /file; echo $V"); out != "1" {
			t.Errorf("it has V=%s", out)
		}
		file := filepath.Join(w.home, "namespaces", "team-a", "Sandboxfile")
		text, err := os.ReadFile(file)
		w.must(err)
		w.must(os.WriteFile(file, []byte("# mine\n"+strings.Replace(string(text), "memory: 256", "memory: 300 # enough", 1)+"  # what follows\n  other:\n    image: host # the other\n"), 0o644))
		s.call("sandbox.stop", `{"sandbox":"a","namespace":"team-a"}`)
		start("") // as the file says now
		if out := run("cat /file; echo $V; wc -l < /began"); out != "kept\n1\n2" {
			t.Errorf("after another start: %q", out)
		}
		s.call("sandbox.stop", `{"sandbox":"a","namespace":"team-a"}`)
		start(`,"config":{"image":"host","memory":280,"envs":["V=2"],"depends_on":["other"]}`)
		if out := run("cat /file; echo $V"); out != "kept\n2" {
			t.Errorf("with another configuration: %q", out)
		}
		text, err = os.ReadFile(file)
		w.must(err)
		want := "# mine\n# Sandbox configurations\nsandboxes:\n  a:\n    image: host\n    memory: 280 # enough\n    envs:\n      - V=2\n    depends_on:\n      - other\n  # what follows\n  other:\n    image: host # the other\n"
		if string(text) != want {
			t.Errorf("the Sandboxfile is\n%s", diff(want, string(text)))
		}
		if out := s.call("sandbox.metrics.get", `{"sandbox":"other","namespace":"team-a"}`); !strings.Contains(out, `"running":true`) {
			t.Errorf("what it depends on: %s", out)
		}
	})
}

// TestServerConcurrentStarts has many start one sandbox, and many start their own: nothing is lost.
func TestServerConcurrentStarts(t *testing.T) {
	n := soak(8, 64)
	served(t, func(w *world) {
		s := w.serve()
		errs := make([]error, 2*n)
		var wait sync.WaitGroup
		for i := range n {
			wait.Go(func() { errs[i] = s.old("shared").start("host") })
			wait.Go(func() { errs[n+i] = s.old(fmt.Sprintf("own-%d", i)).start("host") })
		}
		wait.Wait()
		for i, err := range errs {
			if err != nil {
				t.Errorf("start %d: %v", i, err)
			}
		}
		file, err := os.ReadFile(filepath.Join(w.home, "namespaces", "default", "Sandboxfile"))
		w.must(err)
		for i := range n {
			if !strings.Contains(string(file), fmt.Sprintf("\n  own-%d:\n    image: host\n", i)) {
				t.Errorf("the Sandboxfile has lost own-%d:\n%s", i, file)
			}
			c := s.old(fmt.Sprintf("own-%d", i))
			if out, _, err := c.run("hostname", nil); err != nil || out != c.name+"\n" {
				t.Errorf("%s: %q %v", c.name, out, err)
			}
		}
	})
}

// TestServerLimits has a namespace that may have two sandboxes.
func TestServerLimits(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve("--dev", "--max-sandboxes", "2")
		for _, name := range []string{"a", "b", "a"} {
			w.must(s.old(name).start("host"))
		}
		a := s.rpc("", "sandbox.start", `{"sandbox":"c","namespace":"default","config":{"image":"host"}}`)
		if a.status != 429 || a.header.Get("Retry-After") == "" || a.body != `{"code":4291,"error":"namespace default may have 2 sandboxes at the same time"}` {
			t.Errorf("one more: %d %q %s", a.status, a.header.Get("Retry-After"), a.body)
		}
		if a := s.rpc("", "sandbox.start", `{"sandbox":"c","namespace":"other","config":{"image":"host"}}`); a.status != 200 {
			t.Errorf("another namespace: %d %s", a.status, a.body)
		}
		s.call("sandbox.stop", `{"sandbox":"a","namespace":"default"}`)
		if err := s.old("c").start("host"); err != nil {
			t.Errorf("after one stopped: %v", err)
		}
	})
}

// TestServerKillNine kills the server in the middle of everything. Sandboxes live on, and the next server knows them.
func TestServerKillNine(t *testing.T) {
	rounds := soak(2, 30)
	served(t, func(w *world) {
		s := w.serve()
		w.must(s.old("steady").start("host"))
		if out, _, err := s.old("steady").run("sh", []string{"-c", "sleep 100000 >/dev/null 2>&1 & echo $! > /tmp/pid; echo $!"}); err != nil || out == "" {
			t.Fatalf("%q %v", out, err)
		}
		at := s.on("steady") + "/interpreters/bash/kept"
		for round := range rounds {
			s.runCell(s.all, at, fmt.Sprintf("ROUND=%d", round), "")
			var wait sync.WaitGroup
			for i := range 6 {
				wait.Go(func() { // what becomes of these nobody promises
					c := s.old(fmt.Sprintf("round-%d-%d", round, i))
					if c.start("host") == nil {
						_, _, _ = c.run("sleep", []string{"60"})
					}
				})
			}
			time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond) // somewhere in it
			s.kill()
			wait.Wait()
			s.start()
			if out, _, err := s.old("steady").run("sh", []string{"-c", "kill -0 $(cat /tmp/pid) && echo alive"}); err != nil || out != "alive\n" {
				t.Errorf("round %d: %q %v", round, out, err)
			}
			if r := s.runCell(s.all, at, "echo $ROUND", ""); r.Fresh || len(r.Outputs) != 1 || r.Outputs[0].Text != fmt.Sprintf("%d\n", round) {
				t.Errorf("round %d: what an interpreter had is %+v", round, r)
			}
			for i := range 6 {
				c := s.old(fmt.Sprintf("round-%d-%d", round, i))
				if err := c.start("host"); err != nil {
					t.Errorf("round %d: %s: %v", round, c.name, err)
				} else if out, _, err := c.run("echo", []string{"here"}); err != nil || out != "here\n" {
					t.Errorf("round %d: %s: %q %v", round, c.name, out, err)
				}
				w.ok2("rm", "-f", "-q", c.name)
			}
		}
	})
}

// TestServerRevocation revokes a key while the server runs.
func TestServerRevocation(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		ask := func() int { return s.rpc(s.team, "sandbox.stop", `{"sandbox":"a","namespace":"team-a"}`).status }
		if got := ask(); got != 400 {
			t.Errorf("a good key: %d", got)
		}
		var keys []struct{ ID, Namespace, State string }
		w.must(json.Unmarshal([]byte(w.ok("server", "keys", "list", "--format", "json")), &keys))
		for _, k := range keys {
			if k.Namespace == "team-a" {
				w.ok2("server", "keys", "revoke", k.ID)
			}
		}
		if got := ask(); got != 401 {
			t.Errorf("a revoked key: %d", got)
		}
		if a := s.rpc(s.all, "sandbox.metrics.get", `{"namespace":"*"}`); a.status != 200 {
			t.Errorf("another key: %d", a.status)
		}
	})
}

// bearer adds a key to each request.
type bearer struct{ key string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.key)
	return client.Transport.RoundTrip(r)
}

// TestServerMCP uses every tool with the official client, over HTTP and over standard input and output.
func TestServerMCP(t *testing.T) {
	for _, over := range []string{"http", "stdio"} {
		t.Run(over, func(t *testing.T) {
			served(t, func(w *world) {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				var transport mcp.Transport
				if over == "http" {
					s := w.serve()
					transport = &mcp.StreamableClientTransport{Endpoint: s.url + "/mcp", HTTPClient: &http.Client{Transport: bearer{s.team}}}
				} else {
					transport = &mcp.CommandTransport{Command: w.msb("mcp")}
				}
				var steps atomic.Int64
				c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { steps.Add(1) }})
				session, err := c.Connect(ctx, transport, nil)
				w.must(err)
				defer session.Close()
				useTools(t, ctx, session, over == "http")
				if steps.Load() == 0 {
					t.Error("no progress was told")
				}
				w.must(session.Close())
			})
		})
	}
}

func useTools(t *testing.T, ctx context.Context, session *mcp.ClientSession, limited bool) {
	t.Helper()
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, tool := range tools.Tools {
		var schema struct{ Required []string }
		data, _ := json.Marshal(tool.InputSchema)
		if err := json.Unmarshal(data, &schema); err != nil || tool.Description == "" {
			t.Errorf("%s: %v", tool.Name, err)
		}
		required[tool.Name] = strings.Join(schema.Required, " ")
	}
	for name, want := range map[string]string{"sandbox_start": "sandbox namespace", "sandbox_stop": "sandbox namespace", "sandbox_run_code": "sandbox namespace code language",
		"sandbox_run_command": "sandbox namespace command", "sandbox_get_metrics": "namespace", "sandbox_read_file": "sandbox namespace path",
		"sandbox_write_file": "sandbox namespace path content", "sandbox_list_files": "sandbox namespace path", "sandbox_get_logs": "sandbox namespace",
		"sandbox_list": "namespace", "sandbox_list_ports": "sandbox namespace"} {
		if have, ok := required[name]; !ok || have != want {
			t.Errorf("%s needs %q, want %q", name, have, want)
		}
	}
	call := func(name string, args map[string]any) (string, bool) {
		t.Helper()
		if args["namespace"] == nil {
			args["namespace"] = "team-a"
		}
		if args["sandbox"] == nil && name != "sandbox_list" {
			args["sandbox"] = "agent"
		}
		p := &mcp.CallToolParams{Name: name, Arguments: args}
		p.SetProgressToken(name)
		r, err := session.CallTool(ctx, p)
		if err != nil || len(r.Content) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		return r.Content[0].(*mcp.TextContent).Text, r.IsError
	}
	for _, c := range []struct {
		tool   string
		args   map[string]any
		failed bool
		want   string // a part of the answer
	}{
		{"sandbox_run_command", map[string]any{"command": "ls"}, true, "Error: sandbox not found: agent\nHint: start the sandbox with sandbox_start first"},
		{"sandbox_start", map[string]any{"config": map[string]any{"image": "host", "memory": 256}}, false, `"Sandbox agent started successfully"`},
		{"sandbox_start", map[string]any{"sandbox": "../x"}, true, "Error: Sandbox start failed: Sandbox name can only contain"},
		{"sandbox_start", map[string]any{"config": map[string]any{"image": "host", "cpus": "many"}}, true, "Error: Sandbox start failed: Validation error: config.cpus"},
		{"sandbox_run_command", map[string]any{"command": "sh", "args": []string{"-c", "echo $((40+2))"}}, false, `"text": "42"`},
		{"sandbox_run_command", map[string]any{"command": "sleep", "args": []string{"9"}, "timeout": 1}, true, "Command timeout after 1 seconds"},
		{"sandbox_write_file", map[string]any{"path": "/w/o/r/k.txt", "content": "what is written"}, false, `"size": 15`},
		{"sandbox_read_file", map[string]any{"path": "/w/o/r/k.txt"}, false, `"content": "what is written"`},
		{"sandbox_write_file", map[string]any{"path": "/w/bytes", "content": "/wA=", "encoding": "base64"}, false, `"size": 2`},
		{"sandbox_read_file", map[string]any{"path": "/w/bytes"}, false, `"content": "/wA="`},
		{"sandbox_read_file", map[string]any{"path": "/nothing"}, true, "o such file"},
		{"sandbox_read_file", map[string]any{"path": "relative"}, true, "want an absolute path"},
		{"sandbox_list_files", map[string]any{"path": "/w"}, false, `"name": "bytes"`},
		{"sandbox_get_logs", map[string]any{}, false, "42"},
		{"sandbox_list", map[string]any{}, false, `"status": "running"`},
		{"sandbox_list_ports", map[string]any{"port": 8000}, false, `"published": []`},
		{"sandbox_get_metrics", map[string]any{}, false, `"running": true`},
		{"sandbox_stop", map[string]any{}, false, `"Sandbox agent stopped successfully"`},
		{"sandbox_run_command", map[string]any{"command": "ls"}, true, "Hint: start the sandbox"},
	} {
		if text, failed := call(c.tool, c.args); failed != c.failed || !strings.Contains(text, c.want) {
			t.Errorf("%s %v: error %v, %s; want %v, %s", c.tool, c.args, failed, text, c.failed, c.want)
		}
	}
	if limited {
		for _, tool := range []string{"sandbox_start", "sandbox_stop", "sandbox_run_code", "sandbox_run_command", "sandbox_get_metrics", "sandbox_list", "sandbox_read_file",
			"sandbox_write_file", "sandbox_list_files", "sandbox_get_logs", "sandbox_list_ports"} {
			text, failed := call(tool, map[string]any{"namespace": "team-b", "path": "/x", "command": "x", "code": "1", "language": "python", "content": ""})
			if !failed || !strings.Contains(text, "Access denied") {
				t.Errorf("%s of another namespace: %v %s", tool, failed, text)
			}
		}
	}
	if _, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "no_such_tool"}); err == nil {
		t.Error("a tool that is not there was called")
	}
	prompts, err := session.ListPrompts(ctx, nil)
	if err != nil || len(prompts.Prompts) != 2 {
		t.Errorf("prompts: %v", err)
	}
	p, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: "create_python_sandbox", Arguments: map[string]string{"sandbox_name": "x", "namespace": "y"}})
	if err != nil || !strings.Contains(p.Messages[0].Content.(*mcp.TextContent).Text, "microsandbox/python") {
		t.Errorf("prompt: %v", err)
	}
}
