package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// codeResult is the answer of sandbox.repl.run.
type codeResult struct {
	Status, Language string
	HasError         bool `json:"has_error"`
	Error            *string
	Output           []struct{ Stream, Text string }
}

// lines of a stream, joined.
func (r codeResult) text(stream string) string {
	var all []string
	for _, l := range r.Output {
		if l.Stream == stream {
			all = append(all, l.Text)
		}
	}
	return strings.Join(all, "\n")
}

func (s *service) code(language, code string, timeout int) codeResult {
	s.w.t.Helper()
	params := map[string]any{"sandbox": "code", "namespace": "default", "language": language, "code": code}
	if timeout > 0 {
		params["timeout"] = timeout
	}
	body, err := json.Marshal(params)
	s.w.must(err)
	var r codeResult
	s.w.must(json.Unmarshal([]byte(s.call("sandbox.repl.run", string(body))), &r))
	if r.Status != "success" || r.Language != language || r.HasError != (r.Error != nil) {
		s.w.t.Errorf("%s: %+v", clip(code), r)
	}
	return r
}

// TestServerCode runs the programs that hung the interpreters of 0.2 or confused them (contract server-v0.2 §2.3), and finds the state
// that they left, also after the server was killed.
func TestServerCode(t *testing.T) {
	languages := map[string]bool{}
	for _, l := range []string{"python3", "node"} {
		_, err := exec.LookPath("/usr/bin/" + l)
		languages[l] = err == nil
	}
	served(t, func(w *world) {
		s := w.serve("--dev")
		s.call("sandbox.start", `{"sandbox":"code","config":{"image":"host","memory":1024}}`)
		for _, c := range []struct {
			language, code string
			timeout        int
			out            string // what is printed
			err            string // a part of what is printed to stderr; "" is nothing
			failed         bool
		}{
			{"python", `print("x", end="")`, 0, "x", "", false},
			{"python", "n = 40\ndef f():\n\n    return n + 2\nf()", 0, "42", "", false},
			{"python", "if n:\n    print('yes')\nelse:\n    print('no')\nprint('after')", 0, "yes\nafter", "", false},
			{"python", "class C:\n    def a(self): return 1\n\n    def b(self): return 2\n\nC().b()", 0, "2", "", false},
			{"python", "import functools\n@functools.cache\ndef g(x):\n    return x * 2\ng(21)", 0, "42", "", false},
			{"python", "foo(", 0, "", "SyntaxError", true},
			{"python", `"""open`, 0, "", "SyntaxError", true},
			{"python", "1\n'two'\nNone", 0, "1\n'two'", "", false},
			{"python", "1/0", 0, "", "ZeroDivisionError: division by zero", true},
			{"python", "import sys; print('bye'); sys.exit()", 0, "bye", "", false},
			{"python", "n = 41\nwhile True: pass", 1, "", "Error: Execution timed out after 1 seconds", true},
			{"python", "n", 0, "41", "", false},
			{"python", "import sys\n_ = sys.stdout.buffer.write(b'\\xff\\n')", 0, "\uFFFD", "", false},
			{"python", "import asyncio\nawait asyncio.sleep(0, 'waited')", 0, "'waited'", "", false},
			{"node", "const a = {b: 1}", 0, "", "", false},
			{"javascript", "a.b + 1", 0, "2", "", false},
			{"nodejs", "await new Promise(r => setTimeout(r, 20)); console.log('> waited'); console.log('')", 0, "> waited\n", "", false},
			{"node", "process.stdout.write('x'); undefined", 0, "x", "", false},
			{"node", "foo(1,", 0, "", "SyntaxError", true},
			{"node", "`open", 0, "", "SyntaxError", true},
			{"node", "nope()", 0, "", "ReferenceError: nope is not defined", true},
			{"node", "for (;;) {}", 1, "", "Error: Execution timed out after 1 seconds", true},
			{"node", "process.exit(3)", 0, "", "", true},
			{"node", "1 + 1", 0, "2", "", false},
			{"bash", "cd /tmp; V=1; echo $V", 0, "1", "", false},
			{"bash", "pwd; echo $V", 0, "/tmp\n1", "", false},
		} {
			if interpreter := map[string]string{"python": "python3", "bash": "", "node": "node", "nodejs": "node", "javascript": "node"}[c.language]; interpreter != "" && !languages[interpreter] {
				continue
			}
			r := s.code(c.language, c.code, c.timeout)
			stderr := r.text("stderr")
			if got := r.text("stdout"); got != c.out && got != strings.TrimSuffix(c.out, "\n") || !strings.Contains(stderr, c.err) || (c.err == "") != (stderr == "") || r.HasError != c.failed {
				t.Errorf("%s %q: stdout %q, stderr %q, error %v; want %q, %q, %v", c.language, c.code, got, clip(stderr), r.HasError, c.out, c.err, c.failed)
			}
		}
		if languages["python3"] {
			if got := s.code("python", "print('x' * 10_000_000)", 0).text("stdout"); len(got) != 10_000_000 {
				t.Errorf("of 10 MB %d bytes came", len(got))
			}
			s.kill()
			s.start("--dev")
			if got := s.code("python", "n", 0).text("stdout"); got != "41" {
				t.Errorf("after the server was killed n is %q", got)
			}
		}
	})
}
