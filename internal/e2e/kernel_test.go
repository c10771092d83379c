package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// client connects to the agent of a running sandbox.
func (w *world) client(name string) *agentclient.Client {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(w.runDir(name), "agent.sock"))
	w.must(err)
	c, err := agentclient.Connect(ctx, conn)
	w.must(err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// cell runs a cell to its end, which it has to have.
func (w *world) cell(c *agentclient.Client, lang, code string, opts agentclient.CellOptions) *agentclient.Result {
	w.t.Helper()
	r, err := tryCell(w.t, c, lang, code, opts)
	if err != nil {
		w.t.Fatalf("%s %q: %v", lang, clip(code), err)
	}
	return r
}

func tryCell(t *testing.T, c *agentclient.Client, lang, code string, opts agentclient.CellOptions) (*agentclient.Result, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cell, err := c.Interpreter(lang, "").Run(ctx, code, opts)
	if err != nil {
		return nil, err
	}
	return cell.Collect()
}

// brief is the beginning of some output.
func brief(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%s… of %d bytes", s[:80], len(s))
	}
	return s
}

// TestCells runs the programs that a console which is typed into does not survive (contract server-v0.2 §2.3), with the
// interpreters of this machine.
func TestCells(t *testing.T) {
	const megabytes = 10_000_000
	soon := agentclient.CellOptions{Timeout: time.Second / 2}
	each(t, func(w *world) {
		w.background("box")
		c := w.client("box")
		for _, p := range []struct {
			lang, code  string
			opts        agentclient.CellOptions
			out, errs   string // errs is a part of stderr; "" is none at all
			text        string // what is echoed
			status      agentproto.KernelStatus
			code_, lost int32
		}{
			{lang: "python", code: "state = 1"},
			{lang: "python", code: `print("x", end="")`, out: "x"},
			{lang: "python", code: "foo(", errs: "SyntaxError: '(' was never closed", status: agentproto.KernelError, code_: 1},
			{lang: "python", code: `"""unclosed`, errs: "SyntaxError: unterminated triple-quoted string literal", status: agentproto.KernelError, code_: 1},
			{lang: "python", code: "import sys\nsys.exit()", status: agentproto.KernelExit},
			{lang: "python", code: "sys.exit(3)", status: agentproto.KernelExit, code_: 3},
			{lang: "python", code: "def f():\n\n    a = 1\n\n    return a\nprint(f())", out: "1\n"},
			{lang: "python", code: "class C:\n\n    def one(self):\n        return 1\n\n    def two(self):\n        return 2\nC().two()", text: "2"},
			{lang: "python", code: "import functools\n\n@functools.cache\ndef g(n):\n    return n\ng(4)", text: "4"},
			{lang: "python", code: "if False:\n    pass\n\nelse:\n    print('else')", out: "else\n"},
			{lang: "python", code: "for i in range(2):\n    print(i)\nprint('after')", out: "0\n1\nafter\n"},
			{lang: "python", code: fmt.Sprintf("print('y' * %d)", megabytes), out: strings.Repeat("y", megabytes) + "\n"},
			{lang: "python", code: "while True: pass", opts: soon, errs: "KeyboardInterrupt", status: agentproto.KernelTimeout, code_: 1},
			{lang: "python", code: "import time; time.sleep(1000)", opts: soon, errs: "KeyboardInterrupt", status: agentproto.KernelTimeout, code_: 1},
			{lang: "python", code: "import subprocess; subprocess.run(['sleep', '1000'])", opts: soon, errs: "KeyboardInterrupt", status: agentproto.KernelTimeout, code_: 1},
			{lang: "python", code: "import os; os.write(1, b'\\xff\\xfe\\n'); None", out: "\xff\xfe\n"},
			{lang: "python", code: "os.system('echo of a child; echo wrong >&2'); None", out: "of a child\n", errs: "wrong\n"},
			{lang: "python", code: "input()", errs: "EOFError", status: agentproto.KernelError, code_: 1},
			{lang: "python", code: "import asyncio\nawait asyncio.sleep(0, 'awaited')", text: "'awaited'"},
			{lang: "python", code: "state", text: "1"},
			{lang: "python", code: "os._exit(5)", status: agentproto.KernelExit, code_: 5, lost: 1},
			{lang: "python", code: "'state' in dir()", text: "False"},

			{lang: "node", code: "const state = 1; let other = 2"},
			{lang: "node", code: "process.stdout.write('x')", out: "x", text: "true"},
			{lang: "node", code: "console.log('\\n> a\\n..b')", out: "\n> a\n..b\n"},
			{lang: "node", code: "if (true) {", errs: "SyntaxError: Unexpected end of input", status: agentproto.KernelError, code_: 1},
			{lang: "node", code: "`unclosed", errs: "SyntaxError: Un", status: agentproto.KernelError, code_: 1},
			{lang: "node", code: "foo(1,", errs: "SyntaxError: Unexpected end of input", status: agentproto.KernelError, code_: 1},
			{lang: "node", code: "process.exit()", status: agentproto.KernelExit},
			{lang: "node", code: "process.exit(3)", status: agentproto.KernelExit, code_: 3},
			{lang: "node", code: "nope", errs: "Uncaught ReferenceError: nope is not defined", status: agentproto.KernelError, code_: 1},
			{lang: "node", code: fmt.Sprintf("console.log('y'.repeat(%d))", megabytes), out: strings.Repeat("y", megabytes) + "\n"},
			{lang: "node", code: "for (;;) {}", opts: soon, errs: "interrupted", status: agentproto.KernelTimeout, code_: 1},
			{lang: "node", code: "await new Promise(r => setTimeout(r, 1e6))", opts: soon, errs: "interrupted", status: agentproto.KernelTimeout, code_: 1},
			{lang: "node", code: "await new Promise(r => setTimeout(() => { console.log('in time'); r() }, 100))", out: "in time\n"},
			{lang: "node", code: "console.log('z'.repeat(1e6)); display(1); console.log(2)", out: strings.Repeat("z", 1e6) + "\n2\n", text: "1"},
			{lang: "node", code: "process.stdout.write(Buffer.from([255, 254])); undefined", out: "\xff\xfe"},
			{lang: "node", code: "state + other", text: "3"},

			{lang: "bash", code: "state=1; cd /usr"},
			{lang: "bash", code: "while :; do :; done", opts: soon, status: agentproto.KernelTimeout, code_: 130},
			{lang: "bash", code: "sleep 1000", opts: soon, status: agentproto.KernelTimeout, code_: 130},
			{lang: "bash", code: "echo $state $PWD; (exit 4)", out: "1 /usr\n", code_: 4},
			{lang: "bash", code: "exit 6", status: agentproto.KernelExit, code_: 6, lost: 1},
		} {
			if p.status == "" {
				p.status = agentproto.KernelOK
			}
			r := w.cell(c, p.lang, p.code, p.opts)
			stderr := r.Stderr()
			if r.Stdout() != p.out || (p.errs == "") != (stderr == "") || !strings.Contains(stderr, p.errs) || r.Text() != p.text || r.Status != p.status ||
				r.Code != p.code_ || r.StateLost != (p.lost == 1) {
				t.Errorf("%s %q: %+v, stdout %q, stderr %q, echoes %q", p.lang, clip(p.code), r.KernelDone, brief(r.Stdout()), clip(stderr), brief(r.Text()))
			}
		}
		if got := w.ok("logs", "--tail", "1", "box"); got != "1 /usr\n" {
			t.Errorf("the log ends with %q", got)
		}
	})
}

// TestCellsOfMany has clients use the same session, and leave in the middle of a cell.
func TestCellsOfMany(t *testing.T) {
	each(t, func(w *world) {
		w.background("box")
		one, two := w.client("box"), w.client("box")
		w.cell(one, "python", "n = 0", agentclient.CellOptions{})
		var both sync.WaitGroup
		for _, c := range []*agentclient.Client{one, two} {
			both.Go(func() {
				for range 20 {
					if r, err := tryCell(t, c, "python", "n += 1", agentclient.CellOptions{}); err != nil || r.Status != agentproto.KernelOK {
						t.Errorf("%+v, %v", r, err)
					}
				}
			})
		}
		both.Wait()
		cell, err := one.Interpreter("python", "").Run(t.Context(), "import time\nn += 1\nprint(n)\ntime.sleep(1000)", agentclient.CellOptions{})
		w.must(err)
		for kind := agentclient.CellEventKind(0); kind != agentclient.CellStdout; {
			e, err := cell.Recv()
			w.must(err)
			kind = e.Kind
		}
		_ = one.Close()
		if r := w.cell(two, "python", "n", agentclient.CellOptions{}); r.Text() != "41" || r.Fresh {
			t.Errorf("after the other client left: %+v", r)
		}
		_ = two.Close()
		three := w.client("box")
		if r := w.cell(three, "python", "n", agentclient.CellOptions{}); r.Text() != "41" || r.Fresh {
			t.Errorf("to a new client: %+v", r)
		}
		list, err := three.Interpreters(t.Context())
		if err != nil || len(list) != 1 || list[0].Cells != 44 || list[0].Busy {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// TestCellsAreBounded prints 100 MB in a sandbox of little memory.
func TestCellsAreBounded(t *testing.T) {
	each(t, func(w *world) {
		w.background("box", "-m", "256M")
		c := w.client("box")
		r := w.cell(c, "python", "for n in range(1000): print('y' * 99_999)\nprint('end')", agentclient.CellOptions{})
		if len(r.Stdout()) != agentproto.DefaultOutput || r.Status != agentproto.KernelOK || r.Dropped != 100_000_004-agentproto.DefaultOutput {
			t.Errorf("%+v, %d bytes of stdout", r.KernelDone, len(r.Stdout()))
		}
		if want := fmt.Sprintf("[output truncated: %d bytes more were dropped]\n", r.Dropped); r.Stderr() != want {
			t.Errorf("stderr is %q", clip(r.Stderr()))
		}
		r = w.cell(c, "python", "int(next(l for l in open('/proc/1/status') if l.startswith('VmRSS')).split()[1])", agentclient.CellOptions{})
		var kib int
		if _, err := fmt.Sscan(r.Text(), &kib); err != nil || kib > 40<<10 {
			t.Errorf("the agent has %q KiB of memory", r.Text())
		}
	})
}

// TestCellsOfUsers runs code as another user, in another directory, with other variables.
func TestCellsOfUsers(t *testing.T) {
	each(t, func(w *world) {
		w.background("box", "-e", "A=of the sandbox")
		c := w.client("box")
		opts := agentclient.CellOptions{User: "1000:1000", Cwd: "/usr", Env: []string{"B=own"}}
		for lang, code := range map[string]string{
			"python": "import os\nopen('/dev/stdout', 'w').write(f'{os.getuid()} {os.getgid()} {os.getcwd()} {os.environ[\"A\"]} {os.environ[\"B\"]}\\n'); None",
			"node":   "console.log(process.getuid(), process.getgid(), process.cwd(), process.env.A, process.env.B)",
			"bash":   "echo $UID $(id -g) $PWD $A $B > /dev/stdout",
		} {
			if r := w.cell(c, lang, code, opts); r.Stdout() != "1000 1000 /usr of the sandbox own\n" || r.Status != agentproto.KernelOK {
				t.Errorf("%s: %+v, stdout %q, stderr %q", lang, r.KernelDone, r.Stdout(), r.Stderr())
			}
		}
	})
}

// TestCellsEndWithSandbox stops sandboxes in the middle of cells, one of which would rather not, and beside idle interpreters.
func TestCellsEndWithSandbox(t *testing.T) {
	each(t, func(w *world) {
		w.background("box")
		c := w.client("box")
		w.cell(c, "bash", "true", agentclient.CellOptions{})
		w.cell(c, "node", "1", agentclient.CellOptions{})
		cell, err := c.Interpreter("python", "").Run(t.Context(), "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(1000)",
			agentclient.CellOptions{})
		w.must(err)
		for kind := agentclient.CellEventKind(0); kind != agentclient.CellStdout; {
			e, err := cell.Recv()
			w.must(err)
			kind = e.Kind
		}
		if r := w.run("stop", "-q", "box"); r.code != 0 {
			t.Errorf("msb stop: exit code %d, %s", r.code, r.err)
		}
		if r, err := cell.Collect(); err == nil && r.Status == agentproto.KernelOK {
			t.Errorf("the cell ended well: %+v", r.KernelDone)
		}
		if status := w.inspect("box").Status; status != "Stopped" {
			t.Errorf("the sandbox is %s", status)
		}
		w.ok("start", "-q", "box")
		if r := w.cell(w.client("box"), "python", "1", agentclient.CellOptions{}); r.Text() != "1" || !r.Fresh || r.Number != 1 {
			t.Errorf("after a new start: %+v", r)
		}
	})
}

// TestCellsWithoutInterpreter asks for interpreters of an image that has none.
func TestCellsWithoutInterpreter(t *testing.T) {
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "busybox", testimage.Busybox(t))
	each(t, func(w *world) {
		w.ok("pull", "-q", ref)
		w.ok("run", "-d", "-q", "--name", "bare", ref, "--", "sleep", "1000")
		c := w.client("bare")
		for _, lang := range []string{"python", "node", "bash"} {
			_, err := tryCell(t, c, lang, "1", agentclient.CellOptions{})
			var f *agentproto.KernelFailed
			if !errors.Is(err, sandbox.Unsupported) || !errors.As(err, &f) || f.Kind != agentproto.KernelNoInterpreter {
				t.Errorf("%s: %v", lang, err)
			}
		}
	})
}
