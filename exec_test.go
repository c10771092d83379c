package microsandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

func TestExec(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "x", microsandbox.WithEphemeral(true), microsandbox.WithEnv(map[string]string{"A": "sandbox", "B": "sandbox"}))
	out := must[*microsandbox.ExecOutput](t)(sb.Exec(ctx, "sh", []string{"-c", "echo out; echo err >&2; exit 3"}))
	if out.Stdout() != "out\n" || string(out.StderrBytes()) != "err\n" || out.ExitCode() != 3 || out.Success() {
		t.Errorf("output %+v", out)
	}
	if got := shell(t, sb, "echo $A $B $PWD $TERM", microsandbox.WithExecEnv(map[string]string{"B": "call"}), microsandbox.WithExecCwd("/usr")); got != "sandbox call /usr" {
		t.Errorf("environment %q", got)
	}
	if got := shell(t, sb, "id -u", microsandbox.WithExecUser("12")); got != "12" {
		t.Errorf("user %q", got)
	}
	if out := must[*microsandbox.ExecOutput](t)(sb.Shell(ctx, "test -t 0 && stty size", microsandbox.WithExecTTY(true))); out.Stdout() != "24 80\r\n" {
		t.Errorf("with a terminal: %q", out.Stdout())
	}
	killed := must[*microsandbox.ExecOutput](t)(sb.Shell(ctx, "kill -9 $$"))
	if killed.ExitCode() != -1 {
		t.Errorf("exit code %d of a command that was killed", killed.ExitCode())
	}
	_, err := sb.Exec(ctx, "/nonexistent/program", nil)
	wantKind(t, err, microsandbox.ErrExecFailed)
	_, err = sb.Exec(ctx, "sleep", []string{"60"}, microsandbox.WithExecTimeout(300*time.Millisecond))
	wantKind(t, err, microsandbox.ErrExecTimeout)
	if err == nil || err.Error() != "exec timed out after 1s: exec timed out after 1s" && err.Error() != "exec timed out after 1s" {
		t.Errorf("error %v", err)
	}
	late, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = sb.Exec(late, "sleep", []string{"60"})
	wantKind(t, err, microsandbox.ErrCancelled)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	defer microsandbox.SetMaxOutput(1 << 20)()
	_, err = sb.Exec(ctx, "cat", []string{"/dev/zero"})
	wantKind(t, err, microsandbox.ErrBufferTooSmall)
	if got := shell(t, sb, "ps ax | grep -c '[s]leep 60'; true"); got != "0" {
		t.Errorf("%s commands are left", got)
	}
}

func TestExecStream(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "s", microsandbox.WithEphemeral(true))
	x := must[*microsandbox.ExecHandle](t)(sb.ShellStream(ctx, `echo one; echo two >&2; read line; echo "got $line"; exit 5`, microsandbox.WithExecStdinPipe()))
	if id, err := x.ID(); id == "" || err != nil {
		t.Errorf("ID %q, %v", id, err)
	}
	sink := x.TakeStdin()
	if sink == nil || x.TakeStdin() != nil {
		t.Error("stdin can be taken once")
	}
	var events []string
	for {
		e, err := x.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case microsandbox.ExecEventStarted:
			if e.PID == 0 {
				t.Error("no PID")
			}
		case microsandbox.ExecEventStdout, microsandbox.ExecEventStderr:
			events = append(events, fmt.Sprintf("%s %q", e.Kind, e.Data))
			if len(events) == 2 { // both lines are there, in the order in which they came
				if _, err := io.WriteString(sink, "hello\n"); err != nil {
					t.Error(err)
				}
			}
			continue
		case microsandbox.ExecEventExited:
			events = append(events, fmt.Sprintf("%s %d", e.Kind, e.ExitCode))
			continue
		}
		if e.Kind == microsandbox.ExecEventDone {
			break
		}
	}
	all := strings.Join(events, ", ")
	for _, want := range []string{`stdout "one\n"`, `stderr "two\n"`, `stdout "got hello\n"`, "exited 5"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if e, err := x.Recv(ctx); err != nil || e.Kind != microsandbox.ExecEventDone {
		t.Errorf("after the end: %+v, %v", e, err)
	}
	if err := errors.Join(x.Close(), x.Close()); err != nil {
		t.Error(err)
	}

	missing := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "/nonexistent", nil))
	if e := must[*microsandbox.ExecEvent](t)(missing.Recv(ctx)); e.Kind != microsandbox.ExecEventFailed || e.Failure.Kind != "not_found" || e.Failure.ErrnoName != "ENOENT" {
		t.Errorf("event %+v", e)
	}
	_, err := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "/nonexistent", nil)).Collect(ctx)
	wantKind(t, err, microsandbox.ErrExecFailed)

	tty := must[*microsandbox.ExecHandle](t)(sb.ShellStream(ctx, "read go; stty size", microsandbox.WithExecTTY(true), microsandbox.WithExecStdinPipe()))
	if err := tty.Resize(ctx, 40, 120); err != nil {
		t.Error(err)
	}
	if _, err := tty.TakeStdin().Write([]byte("\n")); err != nil {
		t.Error(err)
	}
	if out := must[*microsandbox.ExecOutput](t)(tty.Collect(ctx)); !strings.Contains(out.Stdout(), "40 120") {
		t.Errorf("after a resize: %q", out.Stdout())
	}
	slept := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "sleep", []string{"1000"}))
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = slept.Wait(soon)
	wantKind(t, err, microsandbox.ErrCancelled)
	if err := slept.Signal(ctx, 15); err != nil {
		t.Error(err)
	}
	if code, err := slept.Wait(ctx); code != -1 || err != nil {
		t.Errorf("a command that was killed: %d, %v", code, err)
	}
	timed := must[*microsandbox.ExecHandle](t)(sb.ExecStream(ctx, "sleep", []string{"1000"}, microsandbox.WithExecTimeout(time.Second)))
	_, err = timed.Wait(ctx)
	wantKind(t, err, microsandbox.ErrExecTimeout)
	// Who stops receiving hinders nobody, and Close of the Sandbox ends it.
	stuck := must[*microsandbox.ExecHandle](t)(sb.ShellStream(ctx, "cat /dev/zero"))
	must[*microsandbox.ExecEvent](t)(stuck.Recv(ctx))
	if got := shell(t, sb, "echo free"); got != "free" {
		t.Errorf("beside a stuck command: %q", got)
	}
}

func TestExecDefault(t *testing.T) {
	dir := t.TempDir()
	home(t)
	ctx := ctxOf(t)
	archive := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(archive, dockerArchive(t), 0o644); err != nil { // of an image without a command
		t.Fatal(err)
	}
	must[[]*microsandbox.ImageHandle](t)(microsandbox.Image.Load(ctx, archive, "bare"))
	bare := newSandbox(t, "bare", microsandbox.WithImage("bare"), microsandbox.WithEphemeral(true))
	_, err := bare.ExecDefault(ctx)
	wantKind(t, err, microsandbox.ErrNoDefaultCommand)
	sb := newSandbox(t, "own", microsandbox.WithEphemeral(true), microsandbox.WithEntrypoint("echo", "by"), microsandbox.WithCmd("default"))
	if out := must[*microsandbox.ExecOutput](t)(sb.ExecDefault(ctx)); out.Stdout() != "by default\n" {
		t.Errorf("printed %q", out.Stdout())
	}
	if out := must[*microsandbox.ExecOutput](t)(must[*microsandbox.ExecHandle](t)(sb.ExecDefaultStream(ctx)).Collect(ctx)); out.Stdout() != "by default\n" {
		t.Errorf("streamed %q", out.Stdout())
	}
}

// Many commands at once lose nothing and swap nothing.
func TestExecMany(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "many", microsandbox.WithEphemeral(true), microsandbox.WithMemory(1024))
	const n = 64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			out, err := sb.Shell(ctx, fmt.Sprintf("i=0; while [ $i -lt 200 ]; do echo %d-$i; echo %d-$i >&2; i=$((i+1)); done; exit %d", i, i, i))
			if err != nil {
				t.Error(err)
				return
			}
			var want strings.Builder
			for j := range 200 {
				fmt.Fprintf(&want, "%d-%d\n", i, j)
			}
			if out.Stdout() != want.String() || out.Stderr() != want.String() || out.ExitCode() != i {
				t.Errorf("command %d: exit code %d, %d and %d bytes", i, out.ExitCode(), len(out.StdoutBytes()), len(out.StderrBytes()))
			}
		})
	}
	wg.Wait()
}

func TestCommand(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "c", microsandbox.WithEphemeral(true))
	cmd := sb.CommandContext(ctx, "sh", "-c", "cat; echo $X $PWD >&2")
	cmd.Stdin, cmd.Env, cmd.Dir = strings.NewReader("in"), []string{"X=y"}, "/usr"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stdout.String() != "in" || stderr.String() != "y /usr\n" || !cmd.ProcessState.Success() {
		t.Errorf("%v: %q, %q, %v", err, stdout.String(), stderr.String(), cmd.ProcessState)
	}
	if err := cmd.Run(); !microsandbox.IsKind(err, microsandbox.ErrInvalidHandle) {
		t.Errorf("second run: %v", err)
	}
	out, err := sb.Command("sh", "-c", "echo out; echo err >&2; exit 7").Output()
	var exit *microsandbox.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(exit.Stderr) != "err\n" || string(out) != "out\n" || err.Error() != "exit status 7" {
		t.Errorf("%q, %v", out, err)
	}
	out, err = sb.Command("sh", "-c", "echo out; echo err >&2").CombinedOutput()
	if err != nil || len(out) != 8 {
		t.Errorf("%q, %v", out, err)
	}
	if err := sb.Command("cat").Run(); err != nil { // its input is empty
		t.Error(err)
	}
	err = sb.Command("sh", "-c", "kill -TERM $$").Run()
	if !errors.As(err, &exit) || exit.Signal() != 15 || exit.Exited() {
		t.Errorf("a command that was killed: %v", err)
	}
	wantKind(t, sb.Command("/nonexistent").Run(), microsandbox.ErrExecFailed)
	// Pipes, as with os/exec.
	cmd = sb.CommandContext(ctx, "sh", "-c", "while read l; do echo got $l; done")
	in := must[io.WriteCloser](t)(cmd.StdinPipe())
	outPipe := must[io.ReadCloser](t)(cmd.StdoutPipe())
	errPipe := must[io.ReadCloser](t)(cmd.StderrPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(outPipe)
	for i := range 3 {
		if _, err := io.WriteString(in, strconv.Itoa(i)+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != "got "+strconv.Itoa(i) {
			t.Fatalf("line %q", lines.Text())
		}
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(errPipe); len(rest) != 0 || err != nil {
		t.Errorf("stderr %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil || cmd.Pid() == 0 {
		t.Errorf("%v, PID %d", err, cmd.Pid())
	}
	late, cancel := context.WithCancel(ctx)
	cmd = sb.CommandContext(late, "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	wantKind(t, cmd.Wait(), microsandbox.ErrCancelled)
	missing := sb.Command("/nonexistent")
	must[io.ReadCloser](t)(missing.StdoutPipe())
	wantKind(t, missing.Start(), microsandbox.ErrExecFailed)
}
