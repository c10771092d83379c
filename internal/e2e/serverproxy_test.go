package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// echoServer answers with what it was asked on port 8000: "METHOD PATH HEADERS BODY"; upgrades it echoes WebSocket frames of text.
const echoServer = `
import base64, hashlib, http.server, socketserver
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def answer(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers()
            while True:
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 15 == 8: break
                n = head[1] & 127
                mask = self.rfile.read(4); data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(n)))
                self.wfile.write(bytes([0x81, n]) + data); self.wfile.flush()
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = ("%s %s auth=%s prefix=%s %d\n" % (self.command, self.path, self.headers.get("Authorization"), self.headers.get("X-Forwarded-Prefix"), len(body))).encode()
        if self.path == "/move":
            self.send_response(302); self.send_header("Location", "/to"); self.send_header("Set-Cookie", "a=b"); self.send_header("Content-Length", "0"); self.end_headers()
            return
        self.send_response(200); self.send_header("Content-Length", str(len(out))); self.end_headers(); self.wfile.write(out)
    do_GET = do_POST = do_PUT = do_DELETE = answer
class S(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
S(("127.0.0.1", 8000), H).serve_forever()
`

var previewURL = regexp.MustCompile(`"url\\": \\"(http://[^\\]+)`)

// TestServerPreviews reaches a port of a sandbox by key and by signed URL, and by nothing else.
func TestServerPreviews(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		program, err := json.Marshal("#!/usr/bin/python3\n" + echoServer)
		w.must(err)
		s.call("sandbox.start", `{"sandbox":"p","namespace":"team-a","config":{"image":"host","memory":256,"scripts":{"web":`+string(program)+`},"exec":"exec web"}}`)
		path := "/proxy/team-a/p/8000"
		if !until(patience, func() bool { return s.ask("GET", path+"/", keyed(s.team), "").status == 200 }) {
			t.Fatal("the program in the sandbox does not listen")
		}
		for _, c := range []struct{ method, path, body, want string }{
			{"GET", "/a/b?q=1", "", "GET /a/b?q=1 auth=None prefix=" + path + " 0\n"},
			{"GET", "/a%2Fb%20c", "", "GET /a%2Fb%20c auth=None prefix=" + path + " 0\n"},
			{"POST", "/x", strings.Repeat("x", 5<<20), fmt.Sprintf("POST /x auth=None prefix=%s %d\n", path, 5<<20)},
			{"DELETE", "/", "", "DELETE / auth=None prefix=" + path + " 0\n"},
		} {
			if a := s.ask(c.method, path+c.path, keyed(s.team), c.body); a.status != 200 || a.body != c.want {
				t.Errorf("%s %s: %d %q, want %q", c.method, c.path, a.status, clip(a.body), c.want)
			}
		}
		a := s.ask("POST", "/mcp", keyed(s.team), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"sandbox_list_ports","arguments":{"sandbox":"p","namespace":"team-a","port":8000}}}`)
		found := previewURL.FindStringSubmatch(a.body)
		if found == nil {
			t.Fatalf("no URL: %s", a.body)
		}
		signed := strings.TrimPrefix(found[1], s.url)
		if a := s.ask("GET", signed+"page", nil, ""); a.status != 200 || !strings.HasPrefix(a.body, "GET /page ") ||
			!strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox ") || a.header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("signed: %d %q %v", a.status, a.body, a.header)
		}
		// Its own page has no origin, and may ask; another sandbox's path needs another signature.
		if a := s.ask("POST", signed, map[string]string{"Origin": "null"}, "x"); a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("the page itself: %d %v", a.status, a.header)
		}
		noFollow := *client
		noFollow.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, err := noFollow.Get(s.url + signed + "move")
		w.must(err)
		resp.Body.Close()
		if resp.Header.Get("Location") != signed+"to" || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("a redirection: %v", resp.Header)
		}
		for name, bad := range map[string]string{
			"another port":      strings.Replace(signed, "/8000~", "/8001~", 1),
			"another sandbox":   strings.Replace(signed, "/p/", "/q/", 1),
			"another namespace": strings.Replace(signed, "/team-a/", "/team-b/", 1),
			"a later end":       strings.Replace(signed, "~", "~z", 1),
			"no signature":      signed[:strings.LastIndex(signed, "~")] + "~/",
		} {
			if a := s.ask("GET", bad, nil, ""); a.status != 403 {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		for path, want := range map[string]int{"/proxy/team-a/p/9/": 502, "/proxy/team-a/q/80/": 404, "/proxy/team-a/p/0/": 400, "/proxy/team-a/p/x/": 400, "/proxy/team-b/p/8000/": 403} {
			if a := s.ask("GET", path, keyed(s.team), ""); a.status != want {
				t.Errorf("%s: %d %s", path, a.status, a.body)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, url := range []string{s.url + signed, s.url + path + "/"} {
			ws, _, err := websocket.Dial(ctx, strings.Replace(url, "http", "ws", 1), &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + s.team}}, CompressionMode: websocket.CompressionDisabled})
			w.must(err)
			for _, text := range []string{"one", "two"} {
				w.must(ws.Write(ctx, websocket.MessageText, []byte(text)))
				if _, got, err := ws.Read(ctx); err != nil || string(got) != text {
					t.Errorf("the echo of %s is %q, %v", text, got, err)
				}
			}
			_ = ws.CloseNow()
		}
		s.call("sandbox.stop", `{"sandbox":"p","namespace":"team-a"}`)
		if a := s.ask("GET", signed, nil, ""); a.status != 503 {
			t.Errorf("of a stopped one: %d %s", a.status, a.body)
		}
	})
}

// TestServerMetrics reads what is counted.
func TestServerMetrics(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		w.must(s.old("a").start("host"))
		_, _, _ = s.old("a").run("true", nil)
		stray := filepath.Join(w.home, "sandboxes", "default", "stray")
		w.mkdir(stray)
		a := s.ask("GET", "/metrics", keyed(s.all), "")
		for _, want := range []string{
			"\nmsb_sandboxes{status=\"running\"} 1\n", "\nmsb_actions_total{action=\"start\",outcome=\"ok\"} 1\n", "\nmsb_actions_total{action=\"command\",outcome=\"ok\"} 1\n",
			"\nmsb_request_duration_seconds_count{operation=\"sandbox.start\",status=\"2xx\"} 1\n", "\nmsb_agent_connections 1\n",
			"\nmsb_leaks{area=\"sandboxes\"} 1\n", "\nmsb_leaks{area=\"runs\"} 0\n", "\nmsb_image_pulls_total{outcome=\"ok\"} 0\n",
		} {
			if a.status != 200 || !strings.Contains(a.body, want) {
				t.Errorf("no %q in %s", want, clip(a.body))
			}
		}
		w.must(os.RemoveAll(stray))
		sample := regexp.MustCompile(`^[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? [0-9.e+-]+\n$|^# (HELP|TYPE) [a-z_]+ .+\n$`)
		for line := range strings.Lines(a.body) {
			if !sample.MatchString(line) {
				t.Errorf("not the text format: %q", line)
			}
		}
		for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`, "/version": `{"version":"`, "/openapi.json": `{"components":`} {
			if a := s.ask("GET", path, nil, ""); a.status != 200 || !strings.HasPrefix(a.body, want) {
				t.Errorf("%s: %d %s", path, a.status, clip(a.body))
			}
		}
	})
}
