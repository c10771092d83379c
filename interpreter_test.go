package microsandbox_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

// TestInterpreter runs code in sessions, leaves them, and finds them again.
func TestInterpreter(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "code", microsandbox.WithWorkdir("/usr"), microsandbox.WithEnv(map[string]string{"GREETING": "hi"}))
	py := sb.Interpreter("python")
	run := func(i *microsandbox.Interpreter, code string, opts ...microsandbox.CellOption) *microsandbox.CellResult {
		t.Helper()
		return must[*microsandbox.CellResult](t)(i.Run(ctx, code, opts...))
	}
	r := run(py, "import os\nx = 41\nprint(os.getcwd(), os.environ['GREETING'])\n{'a': [x]}")
	if r.Status != microsandbox.CellOK || !r.Success() || !r.Fresh || r.Stdout() != "/usr hi\n" || r.Stderr() != "" || r.Text() != "{'a': [41]}" ||
		string(r.Outputs[1].Value["application/json"]) != `{"a": [41]}` {
		t.Errorf("%+v", r)
	}
	if r := run(py, "1/0"); r.Status != microsandbox.CellError || r.Success() || r.ErrorName != "ZeroDivisionError" || !strings.HasPrefix(r.Stderr(), "Traceback") {
		t.Errorf("%+v", r)
	}
	if r := run(py, "while True: pass", microsandbox.WithCellTimeout(300*time.Millisecond)); r.Status != microsandbox.CellTimeout || r.StateLost {
		t.Errorf("%+v", r)
	}
	if r := run(py.Session("other"), "'x' in dir()\n2", microsandbox.WithCellEcho(microsandbox.CellEchoAll)); len(r.Outputs) != 2 || string(r.Outputs[0].Value["text/plain"]) != "False" {
		t.Errorf("%+v", r)
	}
	var heard []string
	r = run(sb.Interpreter("bash"), "echo one; sleep 0.2; echo two; exit 3", microsandbox.WithCellOutput(func(o microsandbox.CellOutput) { heard = append(heard, string(o.Text)) }))
	if r.Status != microsandbox.CellExit || r.ExitCode != 3 || !r.StateLost || !slices.Equal(heard, []string{"one\n", "two\n"}) {
		t.Errorf("%+v, heard %q", r, heard)
	}
	if r := run(py, "print('x' * 1000)", microsandbox.WithCellMaxOutput(100)); r.Dropped != 901 || len(r.Stdout()) != 100 {
		t.Errorf("%+v", r)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err := py.Run(short, "import time; time.sleep(100)")
	cancel()
	wantKind(t, err, microsandbox.ErrCancelled)
	if r := run(py, "x + 1"); r.Text() != "42" {
		t.Errorf("after a context ended: %+v", r)
	}
	all := must[[]microsandbox.InterpreterInfo](t)(sb.Interpreters(ctx))
	if len(all) != 3 || all[1].Session != "default" || all[1].Cells != 6 || all[1].PID == 0 {
		t.Errorf("%+v", all)
	}
	for _, do := range []func(context.Context) error{py.Interrupt, py.Restart, py.Session("other").Close, py.Session("never").Close} {
		if err := do(ctx); err != nil {
			t.Error(err)
		}
	}
	if r := run(py, "'x' in dir()"); r.Text() != "False" || !r.Fresh {
		t.Errorf("after Restart: %+v", r)
	}
	_, err = sb.Interpreter("cobol").Run(ctx, "")
	wantKind(t, err, microsandbox.ErrInvalidArgument)
	if err := sb.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = py.Run(ctx, "1")
	wantKind(t, err, microsandbox.ErrSandboxNotRunning)
}
