package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The kernels of this file run this machine's own interpreters.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("there is no %s here", program)
	}
}

// bootOf is a guest whose commands find what is on this machine's PATH.
func bootOf(t *testing.T) agentproto.Bootstrap {
	return agentproto.Bootstrap{DefaultEnv: []agentproto.EnvVar{{Key: "PATH", Value: os.Getenv("PATH")}}, DefaultCwd: t.TempDir()}
}

// run runs a cell to its end.
func (g *guest) run(t *testing.T, lang, session, code string, opts agentclient.CellOptions) *agentclient.Result {
	t.Helper()
	r, err := g.try(t, lang, session, code, opts)
	if err != nil {
		t.Fatalf("%s %q: %v", lang, short(code), err)
	}
	return r
}

func (g *guest) try(t *testing.T, lang, session, code string, opts agentclient.CellOptions) (*agentclient.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // after which it hangs
	defer cancel()
	c, err := g.Client.Interpreter(lang, session).Run(ctx, code, opts)
	if err != nil {
		return nil, err
	}
	return c.Collect()
}

func short(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}

// aCell is a cell and what it does. A want that begins with ~ is a part of the whole.
type aCell struct {
	code   string
	opts   agentclient.CellOptions
	stdout string
	stderr string
	text   string // that is shown last
	status agentproto.KernelStatus
	exit   int32
	lost   bool
}

// marks are the lines below the lines of a traceback; each version of Python has its own.
var marks = regexp.MustCompile(`(?m)^ *[~^]+\n`)

func matches(have, want string) bool {
	if part, ok := strings.CutPrefix(want, "~"); ok {
		return strings.Contains(have, part)
	}
	return have == want
}

func (g *guest) check(t *testing.T, lang, session string, cells []aCell) {
	t.Helper()
	for _, c := range cells {
		r := g.run(t, lang, session, c.code, c.opts)
		stderr := marks.ReplaceAllString(r.Stderr(), "")
		if c.status == "" {
			c.status = agentproto.KernelOK
		}
		if r.Status != c.status || r.Code != c.exit || r.StateLost != c.lost || !matches(r.Stdout(), c.stdout) || !matches(stderr, c.stderr) || !matches(r.Text(), c.text) {
			t.Errorf("%s %q:\nhave %s, code %d, lost %v, stdout %q, stderr %q, text %q\nwant %s, code %d, lost %v, stdout %q, stderr %q, text %q", lang, short(c.code),
				r.Status, r.Code, r.StateLost, short(r.Stdout()), stderr, short(r.Text()), c.status, c.exit, c.lost, short(c.stdout), c.stderr, short(c.text))
		}
	}
}

// aMoment is a timeout that a cell is meant to run into.
const aMoment = time.Second / 4

func TestKernelPython(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		g.check(t, "python", "", []aCell{
			{code: ""},
			{code: "# nothing"},
			{code: "1+1", text: "2"},
			{code: "'a'", text: "'a'"},
			{code: "None"},
			{code: "x = 5\nx", text: "5"},
			{code: "x + 1;"},
			{code: "_ * 2", text: "10"},
			{code: `print("x", end="")`, stdout: "x"},
			{code: "print('é')\nimport sys; print('e', file=sys.stderr)\n7", stdout: "é\n", stderr: "e\n", text: "7"},
			{code: "for i in range(2):\n    print(i)\nprint('end')", stdout: "0\n1\nend\n"},
			{code: "def f(a):\n\n    b = a\n\n    return b\nclass C:\n\n    def m(self):\n\n        return 1\n\n    def n(self):\n        return 2\nif False:\n    pass\n\nelse:\n    print(f(C().n()))", stdout: "2\n"},
			{code: "import functools\n@functools.lru_cache(None)\ndef d(n): return n\nd(3)", text: "3"},
			{code: "foo(1,", stderr: "~SyntaxError: ", status: agentproto.KernelError, exit: 1},
			{code: `"""`, stderr: "~SyntaxError: ", status: agentproto.KernelError, exit: 1},
			{code: "print('before')\n)", stderr: "~SyntaxError: unmatched", status: agentproto.KernelError, exit: 1},
			{code: "def boom():\n    1/0\n\nboom()", status: agentproto.KernelError, exit: 1,
				stderr: "~, line 4, in <module>\n    boom()\n  File \"<cell 17>\", line 2, in boom\n    1/0\nZeroDivisionError: division by zero\n"},
			{code: "raise ValueError('\\udc80')", stderr: "~ValueError: \\udc80", status: agentproto.KernelError, exit: 1},
			{code: "boom()", stderr: "~in boom\n    1/0\n", status: agentproto.KernelError, exit: 1},
			{code: "sys.exit()", status: agentproto.KernelExit},
			{code: "sys.exit(3)", status: agentproto.KernelExit, exit: 3},
			{code: "sys.exit('no')", stderr: "no\n", status: agentproto.KernelExit, exit: 1},
			{code: "exit()", status: agentproto.KernelExit},
			{code: "x", text: "5"},
			{code: "input()", stderr: "~EOFError", status: agentproto.KernelError, exit: 1},
			{code: "import asyncio\nawait asyncio.sleep(0)\nasync def g(): return 9\nawait g()", text: "9"},
			{code: "task = asyncio.ensure_future(g())"},
			{code: "await task", text: "9"},
			{code: "print(asyncio.get_running_loop() is not None)\n[i async for i in (lambda: None)()]", stdout: "True\n", stderr: "~TypeError", status: agentproto.KernelError, exit: 1},
			{code: "asyncio.run(g())", text: "9"},
			{code: "try:\n    1/0\nexcept Exception as e:\n    await asyncio.sleep(0)\n    raise KeyError from e", status: agentproto.KernelError, exit: 1,
				stderr: "Traceback (most recent call last):\n  File \"<cell 31>\", line 2, in <module>\n    1/0\nZeroDivisionError: division by zero\n\n" +
					"The above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n  File \"<cell 31>\", line 5, in <module>\n    raise KeyError from e\nKeyError\n"},
			{code: "import os\nos.write(1, b'raw\\xff\\n')\nos.system('echo child; echo wrong >&2');", stdout: "raw\xff\nchild\n", stderr: "wrong\n"},
			{code: "print('\\udcff')", stdout: "\\udcff\n"},
			{code: "sys.stdout.buffer.write(b'\\xff\\xfe'); None", stdout: "\xff\xfe"},
			{code: "__name__, sys.argv", text: "('__main__', [''])"},
			{code: "[n for n in dir() if not n.startswith('_')] == ['C', 'asyncio', 'boom', 'd', 'f', 'functools', 'g', 'i', 'os', 'sys', 'task', 'x']", text: "True"},
			{code: "pid = os.fork()\nif pid == 0: sys.exit(4)\nos.WEXITSTATUS(os.waitpid(pid, 0)[1])", text: "4"},
			{code: "from __future__ import annotations"},
			{code: "def h(a: nowhere): pass\nh.__annotations__", text: "{'a': 'nowhere'}"},
			{code: "def r(): r()\nr()", stderr: "~RecursionError", status: agentproto.KernelError, exit: 1},
			{code: "while True: pass", opts: agentclient.CellOptions{Timeout: aMoment}, stderr: "~KeyboardInterrupt", status: agentproto.KernelTimeout, exit: 1},
			{code: "import time\ntime.sleep(100)", opts: agentclient.CellOptions{Timeout: aMoment}, stderr: "~KeyboardInterrupt", status: agentproto.KernelTimeout, exit: 1},
			{code: "await asyncio.sleep(100)", opts: agentclient.CellOptions{Timeout: aMoment}, stderr: "~KeyboardInterrupt", status: agentproto.KernelTimeout, exit: 1},
			{code: "os.system('sleep 100'); None", opts: agentclient.CellOptions{Timeout: aMoment}, status: agentproto.KernelTimeout},
			{code: "x", text: "5"},
		})
		r := g.run(t, "python", "", "1\nx = 2\nx\n'z'", agentclient.CellOptions{Echo: agentproto.EchoAll})
		if len(r.Outputs) != 3 {
			t.Errorf("EchoAll shows %d values, want 3", len(r.Outputs))
		}
		if r := g.run(t, "python", "", "1", agentclient.CellOptions{Echo: agentproto.EchoNone}); len(r.Outputs) != 0 {
			t.Error("EchoNone shows a value")
		}
	})
}

func TestKernelNode(t *testing.T) {
	needs(t, "node")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		interrupted := aCell{stderr: "~interrupted", status: agentproto.KernelTimeout, exit: 1, opts: agentclient.CellOptions{Timeout: aMoment}}
		loop, wait := interrupted, interrupted
		loop.code, wait.code = "for (;;) {}", "await new Promise(() => {})"
		g.check(t, "nodejs", "", []aCell{
			{code: ""},
			{code: "1+1", text: "2"},
			{code: "undefined"},
			{code: "const a = 1; let b = 2; class C { m() {\n\nreturn 3\n} }"},
			{code: "a + b + new C().m()", text: "6"},
			{code: "function f() {\n\n  return a\n\n}\nf()", text: "1"},
			{code: "const w = await Promise.resolve(4); w", text: "4"},
			{code: "w * 2", text: "8"},
			{code: "'s'", text: "'s'"},
			{code: "{ a: 1 }", text: "{ a: 1 }"},
			{code: "_.a", text: "1"},
			{code: "process.stdout.write('x'); undefined", stdout: "x"},
			{code: "console.log('out'); console.error('err')", stdout: "out\n", stderr: "err\n"},
			{code: "console.log('> x\\n.. y\\n\\nz')", stdout: "> x\n.. y\n\nz\n"},
			{code: "require('path').join('a', 'b')", text: "'a/b'"},
			{code: "typeof fs.readFileSync", text: "'function'"},
			{code: "const fs = require('fs'); fs.existsSync('/')", text: "true"},
			{code: "(await import('os')).EOL", text: `'\n'`},
			{code: "function g() {\n  nope()\n}\ng()", stderr: "~Uncaught ReferenceError: nope is not defined\n    at g (cell19.js:2:3)\n    at cell19.js:4:1\n", status: agentproto.KernelError, exit: 1},
			{code: "throw 5", stderr: "Uncaught 5\n", status: agentproto.KernelError, exit: 1},
			{code: "await Promise.reject(new TypeError('t'))", stderr: "~Uncaught TypeError: t", status: agentproto.KernelError, exit: 1},
			{code: "foo(1,", stderr: "~Uncaught SyntaxError", status: agentproto.KernelError, exit: 1},
			{code: "if (true) {", stderr: "~Uncaught SyntaxError", status: agentproto.KernelError, exit: 1},
			{code: "`", stderr: "~Uncaught SyntaxError", status: agentproto.KernelError, exit: 1},
			{code: "await foo(", stderr: "~Uncaught SyntaxError", status: agentproto.KernelError, exit: 1},
			{code: "process.exit()", status: agentproto.KernelExit},
			{code: "process.exit(3)", status: agentproto.KernelExit, exit: 3},
			{code: "await new Promise(() => setTimeout(() => process.exit(4), 10))", status: agentproto.KernelExit, exit: 4},
			{code: "try { process.exit(5) } catch {}", status: agentproto.KernelExit, exit: 5},
			{code: "setTimeout(() => { throw new Error('late') }, 10); await new Promise(r => setTimeout(r, 300))", stderr: "~Uncaught Error: late"},
			{code: "Promise.reject(new Error('unheard')); await new Promise(r => setTimeout(r, 50))", stderr: "~Uncaught Error: unheard"},
			{code: "require('child_process').execFileSync('sh', ['-c', 'echo child >&2; echo out']).toString()", text: `'out\n'`, stderr: "child\n"},
			{code: "require('child_process').spawnSync('echo', ['inherited'], {stdio: 'inherit'}).status", text: "0", stdout: "inherited\n"},
			loop,
			wait,
			{code: "a", text: "1"},
			{code: "for await (const c of process.stdin) console.log(c); 'end'", text: "'end'"},
			{code: "process.stdout.write(Buffer.from([0xff, 0xfe])); undefined", stdout: "\xff\xfe"},
			{code: "process.reallyExit(6)", status: agentproto.KernelExit, exit: 6, lost: true},
			{code: "typeof a", text: "'undefined'"},
		})
	})
}

func TestKernelBash(t *testing.T) {
	needs(t, "bash")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		stopped := aCell{status: agentproto.KernelTimeout, exit: 130, opts: agentclient.CellOptions{Timeout: aMoment}}
		loop, calls, sleep := stopped, stopped, stopped
		loop.code, calls.code, sleep.code = "while :; do :; done; echo no", "f() { while :; do :; done; }; while :; do f; done; echo no", "sleep 100; echo no"
		g.check(t, "bash", "", []aCell{
			{code: ""},
			{code: "x=5; declare y=6; cd /usr; f() { echo $x; }; export z=7"},
			{code: "echo $x $y $PWD; f; sh -c 'echo $z'", stdout: "5 6 /usr\n5\n7\n"},
			{code: "false", exit: 1},
			{code: "echo out; echo err >&2; (exit 3)", stdout: "out\n", stderr: "err\n", exit: 3},
			{code: "printf x", stdout: "x"},
			{code: "echo 'é\tü '  # " + strings.Repeat("é", 100_000) + "\n\n", stdout: "é\tü \n"},
			{code: "if true; then\n\n\techo yes\n\nfi", stdout: "yes\n"},
			{code: "echo 'unclosed", stderr: "~unexpected EOF", exit: 2},
			{code: "for i in 1; do (", stderr: "~syntax error", exit: 2},
			{code: "cat; read x || echo none", stdout: "none\n"},
			{code: "echo 'a\\0b' \"\\\\\" %s", stdout: "a\\0b \\ %s\n"},
			{code: "printf '\\377'", stdout: "\xff"},
			{code: "return 4; echo no", exit: 4},
			loop,
			calls,
			sleep,
			{code: "sh -c 'for i in 3 4 5; do [ -e /proc/self/fd/$i ] && echo $i; done'; echo $((1 + 1)) $y", stdout: "2 6\n"},
			{code: "exit 7", status: agentproto.KernelExit, exit: 7, lost: true},
			{code: "echo ${x-gone}", stdout: "gone\n"},
			{code: "kill -9 $$", status: agentproto.KernelDied, exit: -1, lost: true},
			{code: "set -e; false; echo no", status: agentproto.KernelExit, exit: 1, lost: true},
		})
	})
}

// forms are the MIME types of each value that a cell shows.
func forms(r *agentclient.Result) string {
	var all []string
	for _, o := range r.Outputs {
		if o.Result == nil {
			continue
		}
		var one []string
		for _, f := range o.Result.Forms {
			one = append(one, f.MIME)
		}
		all = append(all, strings.Join(one, "+"))
	}
	return strings.Join(all, " ")
}

func TestKernelResults(t *testing.T) {
	needs(t, "python3")
	needs(t, "node")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		for _, c := range []struct{ lang, code, forms, mime, data string }{
			{"python", "[1, {'a': None}]", "text/plain+application/json", "application/json", `[1, {"a": null}]`},
			{"python", "{1: {1, 2}}", "text/plain", "text/plain", "{1: {1, 2}}"},
			{"python", "x = []\nx.append(x)\nx", "text/plain", "text/plain", "[[...]]"},
			{"python", "[float('nan')]", "text/plain", "text/plain", "[nan]"},
			{"python", "class H:\n def _repr_html_(self): return '<b>'\nH()", "text/plain+text/html", "text/html", "<b>"},
			{"python", "H", "text/plain", "text/plain", "<class '__main__.H'>"},
			{"python", "class P:\n def _repr_png_(self): return b'\\x89PNG'\n def __repr__(self): return 'P'\nP()", "text/plain+image/png", "image/png", "\x89PNG"},
			{"python", "class P:\n def _repr_png_(self): return 'iVBORw=='\nP()", "text/plain+image/png", "image/png", "\x89PNG"},
			{"python", "class M:\n def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 'm', 'application/x': 'y'}, {}\nM()", "text/plain+application/x", "application/x", "y"},
			{"python", "class B:\n def _repr_html_(self): 1/0\n def __repr__(self): return 'b'\nB()", "text/plain", "text/plain", "b"},
			{"python", "display(1, H())\nprint('then')\n2", "text/plain text/plain+text/html text/plain", "text/plain", "1"},
			{"python", "display({'image/png': b'\\x89'}, raw=True)", "image/png", "image/png", "\x89"},
			{"python", "'x' * 200_000", "text/plain", "text/plain", "'" + strings.Repeat("x", 200_000) + "'"},
			{"node", "[1, {a: null}]", "text/plain+application/json", "application/json", `[1,{"a":null}]`},
			{"node", "const o = {}; o.o = o; o", "text/plain", "text/plain", "<ref *1> { o: [Circular *1] }"},
			{"node", "new Map()", "text/plain", "text/plain", "Map(0) {}"},
			{"node", "({[Symbol.for('Jupyter.display')]() { return {'text/html': '<i>', 'image/png': 'iVBORw=='} }})", "text/plain+text/html+image/png", "image/png", "\x89PNG"},
			{"node", "display(1); 'y'.repeat(200_000)", "text/plain text/plain", "text/plain", "1"},
		} {
			r := g.run(t, c.lang, "", c.code, agentclient.CellOptions{})
			if have := forms(r); have != c.forms {
				t.Errorf("%s %q: shows %q, want %q; stderr %q", c.lang, c.code, have, c.forms, r.Stderr())
				continue
			}
			for _, o := range r.Outputs {
				if o.Result != nil {
					found := false
					for _, f := range o.Result.Forms {
						if f.MIME == c.mime {
							found = true
							want := c.data
							if c.mime == "text/plain" && strings.HasPrefix(c.code, "class") {
								want = string(f.Data)
							}
							if string(f.Data) != want && c.mime != "text/html" {
								t.Errorf("%s %q: %s is %q, want %q", c.lang, short(c.code), f.MIME, short(string(f.Data)), short(want))
							}
						}
					}
					if !found {
						t.Errorf("%s %q: no %s", c.lang, c.code, c.mime)
					}
					break
				}
			}
		}
	})
}

// What code cannot be interrupted in, its interpreter does not survive; the session does.
func TestKernelKilled(t *testing.T) {
	needs(t, "python3")
	g := startGuest(t, inProcess, bootOf(t))
	defer g.stop(t)
	g.check(t, "python", "", []aCell{
		{code: "x = 1\nprint('deaf')\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", stdout: "deaf\n",
			opts: agentclient.CellOptions{Timeout: aMoment}, status: agentproto.KernelTimeout, exit: -1, lost: true},
		{code: "'x' in dir()", text: "False"},
		{code: "import os; os._exit(3)", status: agentproto.KernelExit, exit: 3, lost: true},
		{code: "import os; print('last', flush=True); os.kill(os.getpid(), 11)", stdout: "last\n", status: agentproto.KernelDied, exit: -1, lost: true},
		{code: "import os; os.close(4)", status: agentproto.KernelDied, exit: -1, lost: true},
		{code: "import os; os.write(4, b'\\xff\\xff\\xff\\xff'); import time; time.sleep(60)", status: agentproto.KernelDied, exit: -1, lost: true},
		{code: "2", text: "2"},
	})
}

// In Node.js that is what loops when it was not called by the cell any more.
func TestKernelNodeKilled(t *testing.T) {
	needs(t, "node")
	g := startGuest(t, inProcess, bootOf(t))
	defer g.stop(t)
	g.check(t, "node", "", []aCell{
		{code: "let x = 1"},
		{code: "await 1; for (;;) {}", opts: agentclient.CellOptions{Timeout: aMoment}, status: agentproto.KernelTimeout, exit: -1, lost: true},
		{code: "typeof x", text: "'undefined'"},
		{code: "fs.closeSync(4)", status: agentproto.KernelDied, exit: -1, lost: true},
	})
}

func TestKernelOutputIsBounded(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		r := g.run(t, "python", "", "print('x' * 10_000_000)", agentclient.CellOptions{})
		if len(r.Stdout()) != 10_000_001 || r.Dropped != 0 || r.Stderr() != "" {
			t.Errorf("of 10 MB have %d bytes, %d are dropped; stderr %q", len(r.Stdout()), r.Dropped, r.Stderr())
		}
		const all = 100 << 20
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r = g.run(t, "python", "", "for i in range(1600): print('y' * 65535)\nprint('end')", agentclient.CellOptions{MaxOutput: 1 << 20})
		runtime.GC()
		runtime.ReadMemStats(&after)
		if len(r.Stdout()) != 1<<20 || r.Dropped != all+4-1<<20 {
			t.Errorf("of 100 MiB have %d bytes, %d are dropped", len(r.Stdout()), r.Dropped)
		}
		if want := fmt.Sprintf("[output truncated: %d bytes more were dropped]\n", all+4-1<<20); r.Stderr() != want {
			t.Errorf("stderr %q, want %q", r.Stderr(), want)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
			t.Errorf("100 MiB of output leave %d bytes of memory", grown)
		}
		// A value that has no room is cut off, later ones are left out.
		r = g.run(t, "python", "", "display('z' * 2_000_000)\nfor i in range(1000): display(i)", agentclient.CellOptions{MaxOutput: 1 << 20})
		if len(r.Text()) == 0 || len(r.Text()) > 1<<20 || r.Dropped < 1_000_000 || len(r.Outputs) > 3 {
			t.Errorf("have %d bytes of a value and %d outputs, %d bytes are dropped", len(r.Text()), len(r.Outputs), r.Dropped)
		}
	})
}

// A session outlives its client's connection; who comes next has its state. (The relay tells the agent who has left.)
func TestKernelOutlivesClient(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		g.run(t, "python", "s", "x = 41", agentclient.CellOptions{})
		c, err := g.Client.Interpreter("python", "s").Run(t.Context(), "import time\ntime.sleep(100)", agentclient.CellOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := c.Recv(); err != nil || e.Kind != agentclient.CellStarted || e.Number != 2 || e.Fresh {
			t.Fatalf("have %+v, %v", e, err)
		}
		start, end := g.Client.IDRange()
		if err := g.Client.Send(0, agentproto.TypeClientDisconnected, &agentproto.ClientDisconnected{IDStart: start, IDEnd: end}); err != nil {
			t.Fatal(err)
		}
		g.check(t, "python", "s", []aCell{{code: "x + 1", text: "42"}}) // the sleep was interrupted
		c.Close()
	})
}

func TestKernelSessions(t *testing.T) {
	needs(t, "python3")
	needs(t, "bash")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		ctx := t.Context()
		g.run(t, "python", "a", "x = 1", agentclient.CellOptions{})
		g.check(t, "python", "b", []aCell{{code: "'x' in dir()", text: "False"}})
		g.run(t, "bash", "a", "true", agentclient.CellOptions{})
		list, err := g.Client.Interpreters(ctx)
		if err != nil || len(list) != 3 || list[0].Language != "bash" || list[1].Session != "a" || list[2].Session != "b" || list[2].PID == 0 || list[2].Cells != 1 {
			t.Errorf("have %+v, %v", list, err)
		}
		py := g.Client.Interpreter("python", "a")
		must(t, py.Interrupt(ctx)) // nothing runs
		g.check(t, "python", "a", []aCell{{code: "x", text: "1"}})
		must(t, py.Restart(ctx))
		if r := g.run(t, "python", "a", "'x' in dir()", agentclient.CellOptions{}); r.Text() != "False" || !r.Fresh || r.Number != 3 {
			t.Errorf("have %+v", r)
		}
		must(t, py.Close(ctx))
		if err := py.Close(ctx); !errors.Is(err, sandbox.InvalidArgument) || failureOf(err) != agentproto.KernelNoSession {
			t.Errorf("have %v", err)
		}
		if list, _ := g.Client.Interpreters(ctx); len(list) != 2 {
			t.Errorf("have %+v", list)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func failureOf(err error) agentproto.KernelFailure {
	var f *agentproto.KernelFailed
	if errors.As(err, &f) {
		return f.Kind
	}
	return ""
}

// Cells of one session run one after the other, in the order they came; an interrupt ends the one that runs.
func TestKernelQueue(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		ctx := t.Context()
		in := g.Client.Interpreter("python", "")
		g.run(t, "python", "", "order = []", agentclient.CellOptions{})
		blocker, err := in.Run(ctx, "import time\ntime.sleep(100)", agentclient.CellOptions{})
		must(t, err)
		if e, err := blocker.Recv(); err != nil || e.Kind != agentclient.CellStarted {
			t.Fatalf("have %+v, %v", e, err)
		}
		var cells []*agentclient.Cell
		for i := range 64 {
			c, err := in.Run(ctx, fmt.Sprintf("order.append(%d)", i), agentclient.CellOptions{})
			must(t, err)
			cells = append(cells, c)
		}
		if _, err := g.try(t, "python", "", "1", agentclient.CellOptions{}); !errors.Is(err, sandbox.ExecFailed) || failureOf(err) != agentproto.KernelTooMany {
			t.Errorf("have %v", err)
		}
		if list, err := g.Client.Interpreters(ctx); err != nil || len(list) != 1 || !list[0].Busy || list[0].Queued != 64 {
			t.Errorf("have %+v, %v", list, err)
		}
		cells[3].Close() // never runs
		must(t, in.Interrupt(ctx))
		r, err := blocker.Collect()
		if err != nil || r.Status != agentproto.KernelInterrupted || r.StateLost {
			t.Errorf("have %+v, %v", r, err)
		}
		for i, c := range cells {
			if i == 3 {
				continue
			}
			if r, err := c.Collect(); err != nil {
				t.Errorf("cell %d: %v", i, err)
			} else if r.Status != agentproto.KernelOK {
				t.Errorf("cell %d: %+v", i, r.KernelDone)
			}
		}
		g.check(t, "python", "", []aCell{{code: "order == [i for i in range(64) if i != 3]", text: "True"}})

		// A restart fails those that wait.
		blocker, err = in.Run(ctx, "import time\ntime.sleep(100)", agentclient.CellOptions{})
		must(t, err)
		if _, err := blocker.Recv(); err != nil {
			t.Fatal(err)
		}
		waiting, err := in.Run(ctx, "1", agentclient.CellOptions{})
		must(t, err)
		must(t, in.Restart(ctx))
		if _, err := waiting.Collect(); failureOf(err) != agentproto.KernelGone {
			t.Errorf("have %v", err)
		}
		if r, err := blocker.Collect(); err != nil || r.Status != agentproto.KernelInterrupted || !r.StateLost {
			t.Errorf("have %+v, %v", r, err)
		}
	})
}

// Two clients' cells go to the same session while a third does not read.
func TestKernelManyClients(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		g.run(t, "python", "", "n = 0", agentclient.CellOptions{})
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 5 {
					if r, err := g.try(t, "python", "", "n += 1", agentclient.CellOptions{}); err != nil || r.Status != agentproto.KernelOK {
						t.Errorf("have %+v, %v", r, err)
					}
				}
			})
		}
		all.Wait()
		g.check(t, "python", "", []aCell{{code: "n", text: "40"}})

		deaf, err := g.Client.Interpreter("python", "").Run(t.Context(), "print('x' * (8 << 20))\nn = 7", agentclient.CellOptions{})
		must(t, err)
		if e, err := deaf.Recv(); err != nil || e.Kind != agentclient.CellStarted {
			t.Fatalf("have %+v, %v", e, err)
		}
		g.check(t, "python", "other", []aCell{{code: "1", text: "1"}}) // others do not wait for it
		deaf.Close()
		g.check(t, "python", "", []aCell{{code: "n in (40, 7)", text: "True"}})
	})
}

// A cell of a client that does not read is over with its time, and the session is there for others.
func TestKernelStalledClient(t *testing.T) {
	needs(t, "python3")
	g := startGuest(t, inProcess, bootOf(t))
	defer g.stop(t)
	g.run(t, "python", "", "kept = 1", agentclient.CellOptions{})
	deaf, err := g.Client.Interpreter("python", "").Run(t.Context(), "while True: print('x' * 1000)", agentclient.CellOptions{Timeout: aMoment, MaxOutput: 1 << 30})
	must(t, err)
	defer deaf.Close()
	if e, err := deaf.Recv(); err != nil || e.Kind != agentclient.CellStarted {
		t.Fatalf("have %+v, %v", e, err)
	}
	g.check(t, "python", "", []aCell{{code: "kept", text: "1"}})
}

func TestKernelRefuses(t *testing.T) {
	g := startGuest(t, inProcess, agentproto.Bootstrap{DefaultEnv: []agentproto.EnvVar{{Key: "PATH", Value: "/nowhere"}}})
	defer g.stop(t)
	for _, c := range []struct {
		lang, session, code string
		opts                agentclient.CellOptions
		kind                sandbox.Kind
		failure             agentproto.KernelFailure
	}{
		{"python", "", "1", agentclient.CellOptions{}, sandbox.Unsupported, agentproto.KernelNoInterpreter},
		{"node", "", "1", agentclient.CellOptions{}, sandbox.Unsupported, agentproto.KernelNoInterpreter},
		{"cobol", "", "1", agentclient.CellOptions{}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", "a b", "1", agentclient.CellOptions{}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", strings.Repeat("a", 65), "1", agentclient.CellOptions{}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", "", "a\x00b", agentclient.CellOptions{}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", "", "1", agentclient.CellOptions{Echo: "loud"}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", "", "1", agentclient.CellOptions{MaxOutput: 1 << 50}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"bash", "", strings.Repeat("#", agentproto.MaxCell+1), agentclient.CellOptions{}, sandbox.InvalidArgument, agentproto.KernelBadRequest},
		{"python", "", "1", agentclient.CellOptions{User: "nobody-such"}, sandbox.ExecFailed, agentproto.KernelNoStart},
	} {
		if _, err := g.try(t, c.lang, c.session, c.code, c.opts); !errors.Is(err, c.kind) || failureOf(err) != c.failure {
			t.Errorf("%s %q %q: %v", c.lang, c.session, short(c.code), err)
		}
	}
	if list, err := g.Client.Interpreters(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("sessions of nothing: %+v, %v", list, err)
	}
}

// A program that is no interpreter is refused with what it says.
func TestKernelDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "python3"), []byte("#!/bin/sh\necho 'no library' >&2\nexit 3\n"), 0o755))
	g := startGuest(t, inProcess, agentproto.Bootstrap{DefaultEnv: []agentproto.EnvVar{{Key: "PATH", Value: dir}}})
	defer g.stop(t)
	_, err := g.try(t, "python", "", "1", agentclient.CellOptions{})
	if failureOf(err) != agentproto.KernelNoStart || !strings.Contains(err.Error(), "exit code 3: no library") {
		t.Errorf("have %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "python3")))
	if python, err := exec.LookPath("bash"); err == nil { // and the session is free for one that does
		must(t, os.Symlink(python, filepath.Join(dir, "bash")))
		g.check(t, "bash", "", []aCell{{code: "echo 1", stdout: "1\n"}})
	}
}

func TestKernelTooManySessions(t *testing.T) {
	needs(t, "bash")
	g := startGuest(t, inProcess, bootOf(t))
	defer g.stop(t)
	for i := range 32 {
		g.check(t, "bash", fmt.Sprint(i), []aCell{{code: "echo 1", stdout: "1\n"}})
	}
	if _, err := g.try(t, "bash", "33", "true", agentclient.CellOptions{}); failureOf(err) != agentproto.KernelTooMany {
		t.Errorf("have %v", err)
	}
	must(t, g.Client.Interpreter("bash", "7").Close(t.Context()))
	g.check(t, "bash", "33", []aCell{{code: "echo 1", stdout: "1\n"}})
}

// What a cell does is heard while it does it, and its context ends it.
func TestKernelStream(t *testing.T) {
	needs(t, "python3")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c, err := g.Client.Interpreter("python", "").Run(ctx, "print('first')\ndisplay(2)\nimport time\ntime.sleep(100)", agentclient.CellOptions{})
		must(t, err)
		defer c.Close()
		for _, want := range []agentclient.CellEventKind{agentclient.CellStarted, agentclient.CellStdout, agentclient.CellResult} {
			if e, err := c.Recv(); err != nil || e.Kind != want {
				t.Fatalf("have %+v, %v; want %v", e, err, want)
			}
		}
		cancel()
		if _, err := c.Recv(); !errors.Is(err, sandbox.Cancelled) {
			t.Errorf("have %v", err)
		}
		c.Close()
		g.check(t, "python", "", []aCell{{code: "3", text: "3"}})

		c, err = g.Client.Interpreter("python", "").Run(t.Context(), "4", agentclient.CellOptions{})
		must(t, err)
		r, err := c.Collect()
		if err != nil || r.Text() != "4" {
			t.Errorf("have %+v, %v", r, err)
		}
		if _, err := c.Recv(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	})
}

// Pictures of matplotlib, from one that is enough like it: see the module's text.
func TestKernelFigures(t *testing.T) {
	needs(t, "python3")
	b := bootOf(t)
	dir := filepath.Join(b.DefaultCwd, "matplotlib")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "__init__.py"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "pyplot.py"), []byte(`
open_ = {}
class Figure:
    def savefig(self, out, format, bbox_inches): out.write(b"\x89PNG" + bytes([len(open_)]))
    def __repr__(self): return "<Figure>"
def figure(n=None):
    return open_.setdefault(len(open_) + 1 if n is None else n, Figure())
def get_fignums(): return list(open_)
def close(f):
    for n in [n for n, g in open_.items() if g is f]: del open_[n]
def show(): raise Exception("no display")
`), 0o644))
	g := startGuest(t, inProcess, b)
	defer g.stop(t)
	r := g.run(t, "python", "", "import matplotlib.pyplot as plt, os\nf = plt.figure()\nplt.show()\nprint(os.environ['MPLBACKEND'])\nplt.figure(); None", agentclient.CellOptions{})
	if forms(r) != "text/plain+image/png text/plain+image/png" || r.Stdout() != "Agg\n" || r.Stderr() != "" {
		t.Errorf("have %+v: %s", r, forms(r))
	}
	if r := g.run(t, "python", "", "f", agentclient.CellOptions{}); forms(r) != "text/plain+image/png" || !bytes.HasPrefix(r.Outputs[0].Result.Get("image/png"), []byte("\x89PNG")) {
		t.Errorf("have %+v: %s", r, forms(r))
	}
}

// What is written and what is shown come in their order.
func TestKernelOrder(t *testing.T) {
	needs(t, "python3")
	needs(t, "node")
	eachPlace(t, bootOf(t), func(t *testing.T, g *guest) {
		for lang, code := range map[string]string{
			"python": "import os\nfor i in range(50):\n    print('w', i)\n    display(i)\n    os.write(1, b'o')",
			"node":   "for (let i = 0; i < 50; i++) { console.log('w', i); display(i); fs.writeSync(1, 'o') }; undefined",
		} {
			var have, want strings.Builder
			for _, o := range g.run(t, lang, "", code, agentclient.CellOptions{}).Outputs {
				if o.Result != nil {
					fmt.Fprintf(&have, "[%s]", o.Result.Get("text/plain"))
				}
				have.Write(o.Text)
			}
			for i := range 50 {
				fmt.Fprintf(&want, "w %d\n[%d]o", i, i)
			}
			if have.String() != want.String() {
				t.Errorf("%s: have %q", lang, have.String())
			}
		}
		// One that is interrupted while it waits does not confuse the next.
		g.check(t, "python", "", []aCell{
			{code: "while True: display(1)", opts: agentclient.CellOptions{Timeout: aMoment}, stderr: "~", text: "1", status: agentproto.KernelTimeout, exit: 1},
			{code: "display(2)\nprint(3)", stdout: "3\n", text: "2"},
			{code: "import threading\nall = [threading.Thread(target=lambda: [display(4) for _ in range(50)]) for _ in range(4)]\nfor t in all: t.start()\nfor t in all: t.join()", text: "4"},
		})
	})
}
