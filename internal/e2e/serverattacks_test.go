package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// attack is one request that is to be refused.
type attack struct {
	method, path, body string
	header             map[string]string
}

// refuse makes a request, and looks for what it has to be answered with.
func (s *service) refuse(what string, x attack, key string, status int, part string) {
	s.w.t.Helper()
	header := keyed(key)
	for k, v := range x.header {
		header[k] = v
	}
	if a := s.ask(x.method, x.path, header, x.body); a.status != status || !strings.Contains(a.body, part) {
		s.w.t.Errorf("%s: %s %s %s: %d %s; want %d %s", what, x.method, x.path, clip(x.body), a.status, clip(a.body), status, part)
	}
}

// rpcBody is a call of JSON-RPC, and toolBody one of a tool of MCP.
func rpcBody(method, params string) string {
	return `{"jsonrpc":"2.0","method":"` + method + `","params":` + params + `,"id":1}`
}

func toolBody(tool, arguments string) string {
	return rpcBody("tools/call", `{"name":"`+tool+`","arguments":`+arguments+`}`)
}

// victim makes a sandbox and a volume of team-a.
func (s *service) victim() (id, volume string) {
	s.w.t.Helper()
	var v struct{ ID string }
	a := s.ask("POST", "/v1/sandboxes?start=true", keyed(s.team), `{"name":"victim","image":{"type":"oci","reference":"host"},"resources":{"memory_mib":256}}`)
	if json.Unmarshal([]byte(a.body), &v) != nil || a.status != 200 {
		s.w.t.Fatalf("%d %s", a.status, a.body)
	}
	id = v.ID
	a = s.ask("POST", "/v1/volumes", keyed(s.team), `{"name":"victim"}`)
	if json.Unmarshal([]byte(a.body), &v) != nil || a.status != 200 {
		s.w.t.Fatalf("%d %s", a.status, a.body)
	}
	s.w.t.Cleanup(func() {
		if a := s.ask("DELETE", "/v1/volumes/"+v.ID, keyed(s.team), ""); a.status != 200 {
			s.w.t.Errorf("%d %s", a.status, a.body)
		}
	})
	return id, v.ID
}

// TestServerStrangers goes for the sandbox and the volume of another namespace by every route that there is.
func TestServerStrangers(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		id, volume := s.victim()
		stranger := s.key("team-b")

		var doc struct {
			Paths map[string]map[string]any
		}
		w.must(json.Unmarshal([]byte(s.ask("GET", "/v1/openapi.json", nil, "").body), &doc))
		routes := 0
		for path, methods := range doc.Paths {
			if !strings.Contains(path, "{id}") && !strings.Contains(path, "{name}") || strings.HasPrefix(path, "/v1/events") || strings.HasPrefix(path, "/v1/requests") {
				continue
			}
			which := id
			if strings.HasPrefix(path, "/v1/volumes") {
				which = volume
			}
			at := strings.NewReplacer("{id}", which, "{name}", "victim", "{language}", "bash", "{session}", "x").Replace(path)
			for method := range methods {
				x := attack{method: strings.ToUpper(method), path: at, body: `{"code":"echo","from":"a","to":"b"}`, header: map[string]string{"X-Msb-File-Path": "YQ"}}
				s.refuse("not found", x, stranger, 404, "not_found")
				x.header["X-Msb-Namespace"] = "team-a"
				s.refuse("named", x, stranger, 403, "access_denied")
				delete(x.header, "X-Msb-Namespace")
				s.refuse("nobody", x, "", 401, "invalid_api_key")
				routes++
			}
		}
		if routes < 40 {
			t.Errorf("the API has %d routes", routes)
		}
		const mine = `{"sandbox":"victim","namespace":"team-a","code":"1","language":"python","command":"ls","config":{"image":"host"}}`
		for _, method := range []string{"sandbox.start", "sandbox.stop", "sandbox.metrics.get", "sandbox.repl.run", "sandbox.command.run", "sandbox.command.execute"} {
			s.refuse("JSON-RPC", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody(method, mine)}, stranger, 403, `"code":3001`)
		}
		for _, tool := range []string{"sandbox_start", "sandbox_stop", "sandbox_run_code", "sandbox_run_command", "sandbox_get_metrics", "sandbox_list", "sandbox_read_file",
			"sandbox_write_file", "sandbox_list_files", "sandbox_get_logs", "sandbox_list_ports"} {
			body := toolBody(tool, `{"sandbox":"victim","namespace":"team-a","code":"1","language":"python","command":"ls","path":"/etc/passwd","content":"","config":{"image":"host"}}`)
			s.refuse("MCP", attack{method: "POST", path: "/mcp", body: body}, stranger, 200, "Access denied")
		}
		for _, method := range []string{"GET", "POST", "DELETE"} {
			s.refuse("proxy", attack{method: method, path: "/proxy/team-a/victim/8000/"}, stranger, 403, `"code":3001`)
		}
		s.refuse("metrics", attack{method: "GET", path: "/metrics"}, stranger, 403, `"code":3001`)
		for _, path := range []string{"/v1/sandboxes", "/v1/volumes", "/v1/events", "/v1/metrics", "/v1/billing/usage/sandbox", "/v1/billing/usage/storage"} {
			if a := s.ask("GET", path, keyed(stranger), ""); a.status != 200 || strings.Contains(a.body, id) || strings.Contains(a.body, volume) || strings.Contains(a.body, "victim") {
				t.Errorf("%s of a stranger: %d %s", path, a.status, a.body)
			}
		}
		if a := s.ask("GET", "/v1/sandboxes/"+id, keyed(s.team), ""); a.status != 200 || !strings.Contains(a.body, `"status":"running"`) {
			t.Errorf("the victim: %d %s", a.status, a.body)
		}
	})
}

// TestServerKeys comes with keys that are forged, expired, of no algorithm and revoked, and with none, by every protocol.
func TestServerKeys(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		now := time.Now().Unix()
		sign := func(method jwt.SigningMethod, key any, exp int64) string {
			token, err := jwt.NewWithClaims(method, jwt.MapClaims{"exp": exp, "iat": now, "namespace": "*"}).SignedString(key)
			w.must(err)
			return "msb_" + token
		}
		revoked := s.key("team-c")
		var keys []struct{ ID, Namespace string }
		w.must(json.Unmarshal([]byte(w.ok("server", "keys", "list", "--format", "json")), &keys))
		at := slices.IndexFunc(keys, func(k struct{ ID, Namespace string }) bool { return k.Namespace == "team-c" })
		w.ok2("server", "keys", "revoke", keys[at].ID)
		good := sign(jwt.SigningMethodHS256, []byte(serverSecret), now+600)
		routes := []attack{
			{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.metrics.get", `{"namespace":"*"}`)},
			{method: "POST", path: "/mcp", body: rpcBody("tools/list", "{}")},
			{method: "GET", path: "/v1/sandboxes"},
			{method: "POST", path: "/v1/sandboxes", body: `{"name":"x","image":{"type":"oci","reference":"host"}}`},
			{method: "GET", path: "/v1/sandboxes/by-name/x/agent"},
			{method: "POST", path: "/v1/sandboxes/by-name/x/interpreters/python/x/run", body: `{"code":"1"}`},
			{method: "PUT", path: "/v1/volumes/x/files/content", body: "x"},
			{method: "GET", path: "/proxy/team-c/x/80/"},
			{method: "GET", path: "/metrics"},
		}
		for name, key := range map[string]string{
			"forged": sign(jwt.SigningMethodHS256, []byte("another secret, as long as it"), now+600), "expired": sign(jwt.SigningMethodHS256, []byte(serverSecret), now-61),
			"alg none": sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, now+600), "HS384": sign(jwt.SigningMethodHS384, []byte(serverSecret), now+600),
			"revoked": revoked, "none": "", "the secret": serverSecret, "cut": good[:len(good)-2], "bare": strings.TrimPrefix(good, "msb_"),
		} {
			for _, x := range routes {
				s.refuse(name, x, key, 401, "nvalid")
			}
		}
		if a := s.ask("GET", "/v1/sandboxes", keyed(good), ""); a.status != 200 {
			t.Errorf("a good key: %d %s", a.status, a.body)
		}
	})
}

// TestServerNames has names that lead elsewhere on the server's machine, of sandboxes, namespaces, scripts and files.
func TestServerNames(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		outside := filepath.Join(w.top, "outside")
		w.mkdir(outside)
		before := tree(t, w.top)
		quote := func(v string) string { b, _ := json.Marshal(v); return string(b) }
		for _, name := range []string{"../x", "../../outside/x", "a/b", "/etc", ".", "..", "", "a\x00b", "a\nb", "%2e%2e", strings.Repeat("a", 129), "-a", "é"} {
			q, config := quote(name), `,"config":{"image":"host","memory":256}}`
			s.refuse("JSON-RPC", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.start", `{"namespace":"team-a","sandbox":`+q+config)}, s.all, 400, `"code":2001`)
			s.refuse("JSON-RPC", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.start", `{"sandbox":"x","namespace":`+q+config)}, s.all, 400, `"code":2001`)
			s.refuse("JSON-RPC", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.stop", `{"sandbox":"x","namespace":`+q+`}`)}, s.all, 400, `"code":2001`)
			s.refuse("MCP", attack{method: "POST", path: "/mcp", body: toolBody("sandbox_start", `{"namespace":"team-a","sandbox":`+q+config)}, s.all, 200, `"isError":true`)
			s.refuse("REST", attack{method: "POST", path: "/v1/sandboxes?start=true", body: `{"name":` + q + `,"image":{"type":"oci","reference":"host"}}`}, s.all, 400, "invalid")
			s.refuse("REST", attack{method: "POST", path: "/v1/volumes", body: `{"name":` + q + `}`}, s.all, 400, "invalid")
			if name != "" && !strings.ContainsAny(name, "\n\x00é") {
				s.refuse("REST", attack{method: "GET", path: "/v1/sandboxes", header: map[string]string{"X-Msb-Namespace": name}}, s.all, 400, "invalid")
			}
		}
		for _, path := range []string{"/v1/sandboxes/by-name/..%2Fx", "/v1/sandboxes/by-name/%2E%2E%2Fx/logs", "/v1/sandboxes/..%2F..%2Fx", "/v1/sandboxes/by-name/..%2Fx/interpreters"} {
			s.refuse("path", attack{method: "GET", path: path}, s.all, 404, "sandbox_not_found")
		}
		for path, status := range map[string]int{"/proxy/..%2F../x/80/": 400, "/proxy/team-a/..%2Fx/80/": 400, "/proxy/*/x/80/": 400} {
			s.refuse("proxy", attack{method: "GET", path: path}, s.all, status, "error")
		}
		for _, script := range []string{"../evil", "../../../../../../../../../tmp/evil", "/tmp/evil", "a/b", "..", ".", "", "a\x00"} {
			scripts := `{` + quote(script) + `:"echo evil"}`
			s.refuse("JSON-RPC", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.start", `{"sandbox":"x","namespace":"team-a","config":{"image":"host","scripts":`+scripts+`}}`)}, s.team, 400, `"code":2001`)
			s.refuse("MCP", attack{method: "POST", path: "/mcp", body: toolBody("sandbox_start", `{"sandbox":"x","namespace":"team-a","config":{"image":"host","scripts":`+scripts+`}}`)}, s.team, 200, `"isError":true`)
			s.refuse("REST", attack{method: "POST", path: "/v1/sandboxes?start=true", body: `{"name":"x","image":{"type":"oci","reference":"host"},"runtime":{"scripts":` + scripts + `}}`}, s.team, 400, "invalid")
		}
		for _, volume := range []string{"/etc:/x", outside + ":/x", "../../outside:/x", "./a/../../../../../outside:/x"} {
			s.refuse("a directory", attack{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.start", `{"sandbox":"x","namespace":"team-a","config":{"image":"host","volumes":[`+quote(volume)+`]}}`)}, s.team, 400, `"code":2001`)
		}
		if after := tree(t, w.top); !slices.Equal(before, after) {
			t.Errorf("files before:\n%s\nand after:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	})
}

// tree lists what is in a directory but what a server writes at any request.
func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); err == nil && !strings.HasPrefix(rel, "h/logs") && !strings.HasPrefix(rel, "h/db") && !strings.HasPrefix(rel, "h/run") {
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestServerPages has pages of other sites ask, by their own name for this machine and by its own, whether a key is needed or not.
func TestServerPages(t *testing.T) {
	for _, dev := range []bool{false, true} {
		t.Run(fmt.Sprintf("dev=%v", dev), func(t *testing.T) {
			served(t, func(w *world) {
				flags := []string{}
				if dev {
					flags = append(flags, "--dev")
				}
				s := w.serve(flags...)
				posts := []attack{
					{method: "POST", path: "/api/v1/rpc", body: rpcBody("sandbox.metrics.get", `{"namespace":"*"}`)},
					{method: "POST", path: "/mcp", body: rpcBody("tools/list", "{}")},
					{method: "POST", path: "/v1/sandboxes", body: `{}`},
					{method: "POST", path: "/v1/sandboxes/by-name/x/interpreters/python/x/run", body: `{"code":"1"}`},
					{method: "DELETE", path: "/v1/sandboxes/by-name/x"},
					{method: "PUT", path: "/v1/volumes/x/files/content", body: "x"},
					{method: "POST", path: "/proxy/default/x/80/"},
					{method: "GET", path: "/v1/sandboxes/by-name/x/agent", header: map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="}},
				}
				for _, x := range posts {
					for _, from := range []map[string]string{{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}} {
						y := x
						y.header = map[string]string{}
						for _, more := range []map[string]string{x.header, from} {
							for k, v := range more {
								y.header[k] = v
							}
						}
						s.refuse("cross-site", y, s.all, 403, "another site")
					}
				}
				for _, x := range append(posts, attack{method: "GET", path: "/v1/sandboxes"}, attack{method: "GET", path: "/api/v1/health"}, attack{method: "GET", path: "/metrics"}, attack{method: "GET", path: "/nothing"}) {
					x.header = map[string]string{"Host": "evil.example:5555"}
					s.refuse("rebinding", x, s.all, 421, "this server is not evil.example")
				}
				a := s.ask("OPTIONS", "/api/v1/rpc", map[string]string{"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, "")
				if a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("preflight: %d %v", a.status, a.header)
				}
				if a := s.ask("GET", "/v1/sandboxes", map[string]string{"Origin": "https://evil.example", "Authorization": "Bearer " + s.all}, ""); a.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("a page may read: %v", a.header)
				}
			})
		})
	}
}

// TestServerBodies sends 100 MB to every sort of route, with a length and in chunks, all of it before it reads: each is answered with what it
// is, and the server's memory does not grow with it.
func TestServerBodies(t *testing.T) {
	const length = 100_000_000
	served(t, func(w *world) {
		s := w.serve()
		_, volume := s.victim()
		s.ask("POST", "/api/v1/rpc", keyed(s.all), rpcBody("sandbox.metrics.get", `{"namespace":"*"}`))
		before := peakMemory(t, s.pid)
		sent := 0
		for _, x := range []struct {
			method, path, key string
			want              int
		}{
			{"POST", "/api/v1/rpc", s.all, 413},
			{"POST", "/api/v1/rpc", s.team, 413},
			{"POST", "/api/v1/rpc", "", 401},
			{"POST", "/mcp", s.all, 413},
			{"POST", "/v1/sandboxes", s.all, 413},
			{"POST", "/v1/sandboxes/by-name/victim/stop", s.team, 413},
			{"POST", "/v1/sandboxes/by-name/victim/interpreters/python/x/run", s.team, 413},
			{"POST", "/v1/volumes", s.all, 413},
			{"PUT", "/v1/volumes/none/files/content", s.all, 404},
			{"PUT", "/v1/volumes/" + volume + "/files/content", s.team, 400}, // there is no header that names the file
			{"POST", "/proxy/team-a/none/80/", s.all, 404},
			{"GET", "/api/v1/health", "", 413},
			{"POST", "/nothing", "", 404},
		} {
			for _, chunked := range []bool{false, true} {
				want := x.want
				if chunked && x.path == "/api/v1/health" {
					want = 200 // which does not look at it
				}
				if status := s.flood(x.method, x.path, x.key, length, chunked); status != want {
					t.Errorf("%s %s, in chunks: %v: %d, want %d", x.method, x.path, chunked, status, want)
				}
				sent += length
			}
		}
		after := peakMemory(t, s.pid)
		t.Logf("%d MB were sent; the server's memory was at most %d MiB before and %d MiB after", sent/1_000_000, before, after)
		// The longest body that a route takes is one of 32 MiB, which is read as a whole.
		if after > before+200 {
			t.Errorf("the server's memory was at most %d MiB before and %d MiB after", before, after)
		}
	})
}

// flood sends a body and then reads the status of the answer.
func (s *service) flood(method, path, key string, length int, chunked bool) int {
	t := s.w.t
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	s.w.must(err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	w := bufio.NewWriterSize(conn, 256<<10)
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\n", method, path, key)
	chunk := []byte(strings.Repeat("[", 1<<18)) // as deep as JSON can be
	if chunked {
		fmt.Fprint(w, "Transfer-Encoding: chunked\r\n\r\n")
	} else {
		fmt.Fprintf(w, "Content-Length: %d\r\n\r\n", length)
	}
	for left := length; left > 0; left -= len(chunk) {
		chunk = chunk[:min(left, len(chunk))]
		if chunked {
			fmt.Fprintf(w, "%x\r\n", len(chunk))
		}
		_, _ = w.Write(chunk)
		if chunked {
			_, _ = io.WriteString(w, "\r\n")
		}
	}
	if chunked {
		_, _ = io.WriteString(w, "0\r\n\r\n")
	}
	if err := w.Flush(); err != nil {
		t.Errorf("%s %s, in chunks: %v: the body was not taken: %v", method, path, chunked, err)
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("%s %s, in chunks: %v: %v", method, path, chunked, err)
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}
