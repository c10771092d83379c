package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cellResult is what POST …/interpreters/LANGUAGE/SESSION/run answers.
type cellResult struct {
	Status   string
	ExitCode int `json:"exit_code"`
	Cell     int
	Fresh    bool
	Lost     bool   `json:"state_lost"`
	Dropped  uint64 `json:"dropped_bytes"`
	Error    *struct{ Name, Value string }
	Outputs  []cellOutput
}

type cellOutput struct {
	Stream, Text string
	Result       map[string]any
}

// on is a sandbox's path in the control plane API.
func (s *service) on(name string) string { return "/v1/sandboxes/by-name/" + name }

// runCell runs code in a session and returns what it did.
func (s *service) runCell(key, at, code, more string) cellResult {
	s.w.t.Helper()
	body, err := json.Marshal(code)
	s.w.must(err)
	a := s.ask("POST", at+"/run", keyed(key), `{"code":`+string(body)+more+`}`)
	var r cellResult
	if err := json.Unmarshal([]byte(a.body), &r); err != nil || a.status != 200 {
		s.w.t.Fatalf("%s: %d %s", clip(code), a.status, clip(a.body))
	}
	return r
}

// cellStream is code that runs, of which is heard what it does.
type cellStream struct {
	t     *testing.T
	lines *bufio.Scanner
	close func() error
}

// streamCell runs code in a session, and is there when its turn has come.
func (s *service) streamCell(key, at, code string) *cellStream {
	s.w.t.Helper()
	body, err := json.Marshal(map[string]string{"code": code})
	s.w.must(err)
	req, err := http.NewRequest("POST", s.url+at+"/run", strings.NewReader(string(body)))
	s.w.must(err)
	for k, v := range keyed(key) {
		req.Header.Set(k, v)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := client.Do(req)
	s.w.must(err)
	s.w.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.w.t.Fatalf("%s: %s %v", clip(code), resp.Status, resp.Header)
	}
	c := &cellStream{s.w.t, bufio.NewScanner(resp.Body), resp.Body.Close}
	c.next("started", nil)
	return c
}

// next reads an event, which has to be of that name.
func (c *cellStream) next(event string, into any) {
	c.t.Helper()
	var have string
	for c.lines.Scan() {
		line := c.lines.Text()
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			have = name
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if have != event {
				c.t.Fatalf("the event %s %s, want %s", have, data, event)
			}
			if into != nil {
				if err := json.Unmarshal([]byte(data), into); err != nil {
					c.t.Fatalf("%s: %v", data, err)
				}
			}
			return
		}
	}
	c.t.Fatalf("the stream ended, want %s: %v", event, c.lines.Err())
}

// TestServerInterpreters runs code in sessions over the control plane API: collected, streamed, interrupted, given up and bounded.
func TestServerInterpreters(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("there is no python3")
	}
	served(t, func(w *world) {
		s := w.serve()
		a := s.ask("POST", "/v1/sandboxes?start=true", keyed(s.team), `{"name":"i","image":{"type":"oci","reference":"host"},"runtime":{"workdir":"/usr"},"env":[{"key":"GREETING","value":"hi"}]}`)
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		at := s.on("i") + "/interpreters"
		py, sh := at+"/python/one", at+"/bash/two"

		r := s.runCell(s.team, py, "import os\nx = 41\nprint(os.getcwd(), os.environ['GREETING'], 'é')\nclass T:\n    def _repr_html_(self): return '<b>t</b>'\nT()", "")
		if r.Status != "ok" || !r.Fresh || r.Cell != 1 || len(r.Outputs) != 2 || r.Outputs[0].Text != "/usr hi é\n" || r.Outputs[0].Stream != "stdout" ||
			r.Outputs[1].Result["text/html"] != "<b>t</b>" || r.Outputs[1].Result["text/plain"] == nil {
			t.Errorf("%+v", r)
		}
		if r := s.runCell(s.team, py, "1/0", ""); r.Status != "error" || r.ExitCode != 1 || r.Error == nil || r.Error.Name != "ZeroDivisionError" || len(r.Outputs) != 1 || r.Outputs[0].Stream != "stderr" {
			t.Errorf("%+v", r)
		}
		if r := s.runCell(s.team, py, "print('x' * 1000)", `,"max_output_bytes":100`); r.Dropped != 901 {
			t.Errorf("%+v", r)
		}
		if r := s.runCell(s.team, py, "while True: pass", `,"timeout_ms":300`); r.Status != "timeout" || r.Lost {
			t.Errorf("%+v", r)
		}
		if r := s.runCell(s.team, sh, "V=1; exit 3", ""); r.Status != "exit" || r.ExitCode != 3 || !r.Lost {
			t.Errorf("%+v", r)
		}

		// What is printed comes while the code runs: it goes on only when it was read.
		c := s.streamCell(s.team, py, "import time\nprint('first')\nwhile not os.path.exists('/tmp/go'): time.sleep(0.01)\nprint('second')\nx")
		var o cellOutput
		c.next("output", &o)
		if o.Text != "first\n" {
			t.Errorf("%+v", o)
		}
		s.runCell(s.team, sh, "touch /tmp/go", "")
		c.next("output", &o)
		if o.Text != "second\n" {
			t.Errorf("%+v", o)
		}
		o = cellOutput{}
		c.next("output", &o)
		if o.Result["text/plain"] != "41" {
			t.Errorf("%+v", o)
		}
		var done cellResult
		if c.next("done", &done); done.Status != "ok" {
			t.Errorf("%+v", done)
		}

		// One that loops is interrupted by somebody else, and one whose client goes by that.
		sessions := func() (all []struct {
			Language, Session string
			Cells             int
			Busy              bool
		}) {
			t.Helper()
			w.must(json.Unmarshal([]byte(s.ask("GET", at, keyed(s.team), "").body), &all))
			return all
		}
		c = s.streamCell(s.team, py, "x = 42\nwhile True: pass")
		if all := sessions(); len(all) != 2 || all[1].Language != "python" || all[1].Session != "one" || !all[1].Busy || all[1].Cells != 6 {
			t.Errorf("%+v", all)
		}
		if a := s.ask("POST", py+"/interrupt", keyed(s.team), ""); a.status != 200 {
			t.Errorf("interrupt: %d %s", a.status, a.body)
		}
		o = cellOutput{}
		if c.next("output", &o); !strings.Contains(o.Text, "KeyboardInterrupt") {
			t.Errorf("%+v", o)
		}
		if c.next("done", &done); done.Status != "interrupted" {
			t.Errorf("%+v", done)
		}
		c = s.streamCell(s.team, py, "x = 43\nprint('on', flush=True)\nwhile True: pass")
		if c.next("output", &o); o.Text != "on\n" {
			t.Errorf("%+v", o)
		}
		w.must(c.close())
		if r := s.runCell(s.team, py, "x", ""); len(r.Outputs) != 1 || r.Outputs[0].Result["text/plain"] != "43" || r.Fresh {
			t.Errorf("after a client went: %+v", r)
		}

		if a := s.ask("POST", py+"/restart", keyed(s.team), ""); a.status != 200 {
			t.Errorf("restart: %d %s", a.status, a.body)
		}
		if r := s.runCell(s.team, py, "'x' in globals()", ""); !r.Fresh || r.Outputs[0].Result["text/plain"] != "False" {
			t.Errorf("after a restart: %+v", r)
		}
		if a := s.ask("DELETE", py, keyed(s.team), ""); a.status != 200 || len(sessions()) != 1 {
			t.Errorf("close: %d %s", a.status, a.body)
		}

		for what, x := range map[string]struct {
			method, path, body string
			status             int
			code               string
		}{
			"a language":            {"POST", at + "/ruby/one/run", `{"code":"1"}`, 400, "invalid_request"},
			"a name":                {"POST", at + "/python/a%20b/run", `{"code":"1"}`, 400, "invalid_request"},
			"a long name":           {"POST", at + "/python/" + strings.Repeat("a", 65) + "/run", `{"code":"1"}`, 400, "invalid_request"},
			"no code":               {"POST", py + "/run", `{}`, 400, "invalid_request"},
			"too much code":         {"POST", py + "/run", `{"code":"` + strings.Repeat("#", 1<<20+1) + `"}`, 400, "invalid_request"},
			"a timeout":             {"POST", py + "/run", `{"code":"1","timeout_ms":-1}`, 400, "invalid_request"},
			"too much output":       {"POST", py + "/run", `{"code":"1","max_output_bytes":99999999999}`, 400, "invalid_request"},
			"an echo":               {"POST", py + "/run", `{"code":"1","echo":"loud"}`, 400, "invalid_request"},
			"nothing to interrupt":  {"POST", at + "/python/none/interrupt", "", 404, "not_found"},
			"nothing to restart":    {"POST", at + "/python/none/restart", "", 404, "not_found"},
			"nothing to close":      {"DELETE", at + "/python/none", "", 404, "not_found"},
			"no sandbox":            {"POST", s.on("none") + "/interpreters/python/one/run", `{"code":"1"}`, 404, "sandbox_not_found"},
			"a body of 10 MB":       {"POST", py + "/run", `{"code":"` + strings.Repeat("#", 10<<20) + `"}`, 413, "payload_too_large"},
			"no sandbox to look at": {"GET", s.on("none") + "/interpreters", "", 404, "sandbox_not_found"},
		} {
			for _, accept := range []string{"*/*", "text/event-stream"} {
				header := keyed(s.team)
				header["Accept"] = accept
				var e struct{ Error struct{ Code string } }
				if a := s.ask(x.method, x.path, header, x.body); a.status != x.status || json.Unmarshal([]byte(a.body), &e) != nil || e.Error.Code != x.code {
					t.Errorf("%s: %d %s, want %d %s", what, a.status, clip(a.body), x.status, x.code)
				}
			}
		}
		other := s.key("team-b")
		for path, method := range map[string]string{at: "GET", py: "DELETE", py + "/run": "POST", py + "/interrupt": "POST", py + "/restart": "POST"} {
			for _, key := range []string{other, ""} {
				want := 404
				if key == "" {
					want = 401
				}
				if a := s.ask(method, path, keyed(key), `{"code":"1"}`); a.status != want {
					t.Errorf("%s %s of another namespace: %d %s", method, path, a.status, a.body)
				}
				header := keyed(key)
				header["X-Msb-Namespace"] = "team-a"
				if key != "" {
					want = 403
				}
				if a := s.ask(method, path, header, `{"code":"1"}`); a.status != want {
					t.Errorf("%s %s of another namespace, named: %d %s", method, path, a.status, a.body)
				}
			}
		}

		audit, err := os.ReadFile(filepath.Join(w.home, "logs", "audit.log"))
		w.must(err)
		for _, want := range []string{`"action":"code","namespace":"team-a","sandbox":"i","ok":true,"language":"python","session":"one"`, `"action":"code.interrupt","namespace":"team-a","sandbox":"i","ok":true`,
			`"action":"code.restart"`, `"action":"code.close"`, `"ok":false,"kind":"InvalidArgument"`} {
			if !strings.Contains(string(audit), want) {
				t.Errorf("no %s in the audit log", want)
			}
		}
		if strings.Contains(string(audit), "while True") {
			t.Error("code is in the audit log")
		}
		if a := s.ask("POST", s.on("i")+"/stop", keyed(s.team), `{"wait":true}`); a.status != 200 {
			t.Errorf("stop: %d %s", a.status, a.body)
		}
		if a := s.ask("POST", py+"/run", keyed(s.team), `{"code":"1"}`); a.status != 409 || !strings.Contains(a.body, "invalid_state_transition") {
			t.Errorf("in a stopped one: %d %s", a.status, a.body)
		}
	})
}

// TestServerGraceful stops a server while it answers: nobody else gets in, the answer is finished, and the sandbox lives on.
func TestServerGraceful(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		if a := s.ask("POST", "/v1/sandboxes?start=true", keyed(s.team), `{"name":"i","image":{"type":"oci","reference":"host"}}`); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		c := s.streamCell(s.team, s.on("i")+"/interpreters/bash/one", "V=1; until test -e /tmp/go; do sleep 0.02; done; echo end")
		stopped := make(chan result, 1)
		go func() { stopped <- w.run("server", "stop") }()
		if !until(patience, func() bool { _, err := s.try("GET", "/healthz", nil, ""); return err != nil }) {
			t.Error("it lets others in")
		}
		w.ok2("--namespace", "team-a", "exec", "i", "--", "touch", "/tmp/go")
		var o cellOutput
		if c.next("output", &o); o.Text != "end\n" {
			t.Errorf("%+v", o)
		}
		c.next("done", nil)
		if r := <-stopped; r.code != 0 {
			t.Errorf("server stop: %+v", r)
		}
		s.start()
		if r := s.runCell(s.team, s.on("i")+"/interpreters/bash/one", "echo $V", ""); r.Fresh || r.Outputs[0].Text != "1\n" {
			t.Errorf("after the server was started again: %+v", r)
		}
	})
}
