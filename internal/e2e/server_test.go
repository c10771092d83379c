package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write what was answered into the golden conversations")

// service is a server that runs in a world.
type service struct {
	w    *world
	url  string
	pid  int
	all  string // a key for everything; "" in development mode
	team string // a key for the namespace team-a
}

// client asks without keeping connections, so that none is left when a server is killed.
var client = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// secret is what servers of tests sign keys with: that of the vectors of contract server-v0.2 §1.4.
const serverSecret = "0123456789abcdefghijklmnopqrstuv"

// serve starts a server that asks for keys, or with --dev one that does not.
func (w *world) serve(flags ...string) *service {
	w.t.Helper()
	s := &service{w: w}
	if !strings.Contains(strings.Join(flags, " "), "--dev") {
		w.write(filepath.Join(w.home, "server.key"), serverSecret, 0o600)
	}
	w.t.Cleanup(func() {
		if r := w.run("server", "stop"); r.code != 0 && !strings.Contains(r.err, "not running") && !strings.Contains(r.err, "not found") {
			w.t.Errorf("server stop: %s", r.err)
		}
	})
	s.start(flags...)
	if !strings.Contains(strings.Join(flags, " "), "--dev") {
		s.all, s.team = s.key("*"), s.key("team-a")
	}
	return s
}

// start starts the server, or starts it again.
func (s *service) start(flags ...string) {
	w := s.w
	w.t.Helper()
	r := w.run(append([]string{"server", "start", "--detach", "--port", "0", "--allow-host-image"}, flags...)...)
	if r.code != 0 {
		log, _ := os.ReadFile(filepath.Join(w.home, "logs", "server.log"))
		w.t.Fatalf("server start: %s\n%s", r.err, log)
	}
	var state struct {
		URL string
		PID int
	}
	data, err := os.ReadFile(filepath.Join(w.home, "server.json"))
	w.must(err)
	w.must(json.Unmarshal(data, &state))
	s.url, s.pid = state.URL, state.PID
}

// kill kills the server, and waits until another one can take its place.
func (s *service) kill() {
	s.w.t.Helper()
	s.w.must(syscall.Kill(s.pid, syscall.SIGKILL))
	f, err := os.Open(filepath.Join(s.w.home, "server.pid"))
	s.w.must(err)
	defer f.Close()
	if !until(patience, func() bool { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil }) {
		s.w.t.Fatal("the server that was killed is still there")
	}
}

func (s *service) key(namespace string) string {
	s.w.t.Helper()
	var out struct{ Token string }
	s.w.must(json.Unmarshal([]byte(s.w.ok("server", "keygen", "-n", namespace, "--format", "json")), &out))
	return out.Token
}

// answer is what was answered.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends one request.
func (s *service) ask(method, path string, header map[string]string, body string) answer {
	s.w.t.Helper()
	a, err := s.try(method, path, header, body)
	s.w.must(err)
	return a
}

func (s *service) try(method, path string, header map[string]string, body string) (answer, error) {
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		if k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

// call calls a method of JSON-RPC with the key for everything and returns its result as JSON.
func (s *service) call(method, params string) string {
	s.w.t.Helper()
	a := s.rpc(s.all, method, params)
	var r struct{ Result json.RawMessage }
	if err := json.Unmarshal([]byte(a.body), &r); err != nil || a.status != 200 || r.Result == nil {
		s.w.t.Fatalf("%s %s: %d %s", method, clip(params), a.status, clip(a.body))
	}
	return string(r.Result)
}

func (s *service) rpc(key, method, params string) answer {
	s.w.t.Helper()
	return s.ask("POST", "/api/v1/rpc", keyed(key), `{"jsonrpc":"2.0","method":"`+method+`","params":`+params+`,"id":"1"}`)
}

func keyed(key string) map[string]string {
	h := map[string]string{"Content-Type": "application/json"}
	if key != "" {
		h["Authorization"] = "Bearer " + key
	}
	return h
}

// served runs a test in a world that may keep what a server leaves on purpose, as an ordinary user.
func served(t *testing.T, test func(w *world)) {
	test(newWorld(t, true, keptByServer...))
}

// asSelf runs it as who the tests run as.
func asSelf(t *testing.T, test func(w *world)) {
	test(newWorld(t, os.Geteuid() != 0, keptByServer...))
}

var keptByServer = []string{"server.key", "server.keys.json", "server.keys.lock", "logs/*", "namespaces"}

// exchange is one request of a golden file, where its answer is below it:
//
//	> POST /api/v1/rpc
//	> Authorization: Bearer $ALL
//	{"jsonrpc":"2.0", …}
//	< 200 application/json
//	{"jsonrpc":"2.0", …}
type exchange struct {
	request []string // its line and its headers; nil: there is only a comment
	body    string
	comment string
}

var requestLine = regexp.MustCompile(`^[A-Z]+ /`)

// conversation reads a golden file, and returns its text, too.
func conversation(t *testing.T, path string) (all []exchange, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	answered := true
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		rest, request := strings.CutPrefix(line, "> ")
		last := len(all) - 1
		switch {
		case strings.HasPrefix(line, "# "):
			all = append(all, exchange{comment: line})
			answered = true
		case request && requestLine.MatchString(rest):
			all = append(all, exchange{request: []string{rest}})
			answered = false
		case request:
			all[last].request = append(all[last].request, rest)
		case strings.HasPrefix(line, "< "):
			answered = true
		case !answered && line != "":
			all[last].body = line
		}
	}
	return all, string(data)
}

var (
	measured = regexp.MustCompile(`"(cpu_usage|memory_usage|disk_usage)":[0-9.]+`)
	bigBody  = regexp.MustCompile(`\$SPACES\((\d+)\)`)
)

// TestServerConversations holds the golden conversations of contract server-v0.2 §1.2 to §1.8.
func TestServerConversations(t *testing.T) {
	paths, err := filepath.Glob("testdata/server/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			served(t, func(w *world) {
				s := w.serve()
				if strings.HasSuffix(path, "dev.txt") {
					w.ok2("server", "stop")
					s.start("--dev")
				}
				replace := strings.NewReplacer("$ALL", s.all, "$TEAM", s.team)
				all, want := conversation(t, path)
				var got strings.Builder
				for _, x := range all {
					if x.request == nil {
						fmt.Fprintln(&got, x.comment)
						continue
					}
					method, target, _ := strings.Cut(x.request[0], " ")
					header := map[string]string{}
					for _, h := range x.request[1:] {
						k, v, _ := strings.Cut(h, ": ")
						header[k] = replace.Replace(v)
					}
					for _, line := range x.request {
						fmt.Fprintln(&got, ">", line)
					}
					if x.body != "" {
						fmt.Fprintln(&got, x.body)
					}
					body := bigBody.ReplaceAllStringFunc(x.body, func(m string) string {
						var n int
						fmt.Sscanf(m, "$SPACES(%d)", &n)
						return strings.Repeat(" ", n)
					})
					a := s.ask(method, target, header, body)
					fmt.Fprintf(&got, "< %d", a.status)
					for _, name := range []string{"Content-Type", "Allow", "Retry-After", "Access-Control-Allow-Origin"} {
						if v := a.header.Get(name); v != "" {
							fmt.Fprintf(&got, " %s", v)
						}
					}
					fmt.Fprintf(&got, "\n%s\n\n", measured.ReplaceAllString(a.body, `"$1":N`))
				}
				if *update {
					w.must(os.WriteFile(path, []byte(got.String()), 0o644))
				} else if got.String() != want {
					t.Errorf("%s: have\n%s", path, diff(want, got.String()))
				}
			})
		})
	}
}

// ok2 runs msb, which has to succeed whatever it says on stderr.
func (w *world) ok2(args ...string) {
	w.t.Helper()
	if r := w.run(args...); r.code != 0 {
		w.t.Fatalf("msb %s: %s", strings.Join(args, " "), r.err)
	}
}

// diff shows the lines in which two texts differ.
func diff(want, have string) string {
	a, b := strings.Split(want, "\n"), strings.Split(have, "\n")
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			fmt.Fprintf(&out, "line %d: %s\n  want: %s\n", i+1, clip(y), clip(x))
		}
	}
	return out.String()
}

// TestServerKeepsSecrets looks for the server's key where others could read it: in arguments, environments and files' modes.
func TestServerKeepsSecrets(t *testing.T) {
	served(t, func(w *world) {
		const secret = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
		s := &service{w: w}
		w.t.Cleanup(func() { w.run("server", "stop") })
		// Who starts it is there until it answers, without the key.
		starter := w.msb("server", "start", "--detach", "--port", "0", "--allow-host-image", "--key", secret)
		w.must(starter.Start())
		ended := make(chan error, 1)
		go func() { ended <- starter.Wait() }()
		var seen []byte
		for over := false; !over; {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", starter.Process.Pid)); err == nil && len(data) > 0 {
				seen = data
			}
			select {
			case err := <-ended:
				w.must(err)
				over = true
			default:
			}
		}
		if !bytes.Contains(seen, []byte("--detach")) || bytes.Contains(seen, []byte(secret)) {
			t.Errorf("the arguments of who started it were at last %q", seen)
		}
		w.ok2("server", "stop")
		s.start("--key", secret)
		info, err := os.Stat(filepath.Join(w.home, "server.key"))
		w.must(err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("the key's mode is %v", info.Mode())
		}
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.pid, file))
			w.must(err)
			if len(data) == 0 || bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s of the server is %q", file, data)
			}
		}
		w.ok2("server", "stop")

		// In the foreground its own arguments had it.
		cmd := w.msb("server", "start", "--port", "0", "--allow-host-image", "--key", secret)
		out, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		line := make([]byte, 256)
		if n, err := out.Read(line); err != nil || !strings.Contains(string(line[:n]), "Server listening on 127.0.0.1:") {
			t.Errorf("it says %q, %v", line[:n], err)
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
		w.must(err)
		if !bytes.Contains(data, []byte("--port")) || bytes.Contains(data, []byte(secret)) {
			t.Errorf("its arguments are %q", data)
		}
		w.must(cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// TestServerAlone has one server of a home at a time, and none hindered by what a dead one left.
func TestServerAlone(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve("--dev")
		r := w.run("server", "start", "--dev", "--detach", "--port", "0")
		if want := fmt.Sprintf("A sandbox server is already running (PID: %d) - Use msb server stop to stop it\n", s.pid); r.code != 0 || r.err != want {
			t.Errorf("a second server: exit code %d, %q", r.code, r.err)
		}
		_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
		w.must(err)
		s.kill()
		s.start("--dev") // on another port, and the PID file was there
		if a := s.ask("GET", "/api/v1/health", nil, ""); a.status != 200 || a.body != `{"message":"Service is healthy"}` {
			t.Errorf("health is %+v", a)
		}
		w.ok2("server", "stop")
		for want, args := range map[string][]string{
			"Server failed to stop: server is not running (PID file not found)":          {"server", "stop"},
			"listen on 127.0.0.1:" + port:                                                nil,
			"a server in development mode, which asks nobody for a key, does not listen": {"server", "start", "--dev", "--detach", "--host", "0.0.0.0", "--port", "0"},
			"Invalid host address: nowhere":                                              {"server", "start", "--dev", "--host", "nowhere"},
		} {
			if args == nil {
				l, err := net.Listen("tcp", "127.0.0.1:"+port)
				w.must(err)
				defer l.Close()
				args = []string{"server", "start", "--dev", "--detach", "--port", port}
			}
			r := w.run(args...)
			if line := w.errorLine(r); !strings.Contains(line, want) || r.code != 1 {
				t.Errorf("msb %s: exit code %d, %q; want %q", strings.Join(args, " "), r.code, line, want)
			}
		}
		w.must(os.WriteFile(filepath.Join(w.home, "server.pid"), []byte("999999999"), 0o644))
		w.own(filepath.Join(w.home, "server.pid"))
		if line := w.errorLine(w.run("server", "stop")); line != "Server failed to stop: server process not found (stale PID file removed)" {
			t.Errorf("a stale PID file: %q", line)
		}
	})
}

// TestServerOldNodeClient runs a program that uses the API as the JavaScript SDK of 0.2 did.
func TestServerOldNodeClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node")
	}
	served(t, func(w *world) {
		s := w.serve()
		w.ok2("server", "stop")
		s.start()
		script, err := filepath.Abs("testdata/server/client.mjs")
		w.must(err)
		cmd := exec.Command(node, script)
		cmd.Env = append(os.Environ(), "MSB_SERVER_URL="+s.url, "MSB_API_KEY="+s.all, "MSB_IMAGE=host")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		want := `start: Sandbox old-node started successfully
again: Sandbox old-node started successfully
command: hello 3 true 0
failing: 2 false
missing: error
timeout: error
after: still here
metrics: number number boolean
stop: Sandbox old-node stopped successfully
stopped: false null
`
		if string(out) != want {
			t.Errorf("%s", diff(want, string(out)))
		}
	})
}
