package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// together runs so many commands at the same time and returns what they did.
func (w *world) together(n int, args func(i int) []string) []result {
	w.t.Helper()
	results := make([]result, n)
	var all sync.WaitGroup
	for i := range n {
		cmd := w.msb(args(i)...)
		all.Go(func() {
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			begin := time.Now()
			if err := cmd.Start(); err != nil {
				results[i] = result{code: -1, err: err.Error()}
				return
			}
			_ = cmd.Wait()
			results[i] = result{code: exitCode(cmd), out: out.String(), err: errs.String(), took: time.Since(begin)}
		})
	}
	all.Wait()
	return results
}

func TestManySandboxes(t *testing.T) {
	const n = 20
	each(t, func(w *world) {
		begin := time.Now()
		// In an empty home: all of them need its images at once.
		for i, r := range w.together(n, func(i int) []string {
			return []string{"run", "host", "--", "sh", "-c", fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i)}
		}) {
			if r.code != i || r.out != fmt.Sprintf("out %d\n", i) || r.err != fmt.Sprintf("err %d\n", i) {
				w.t.Errorf("sandbox %d: exit code %d, stdout %q, stderr %q", i, r.code, clip(r.out), clip(r.err))
			}
		}
		w.t.Logf("%d sandboxes at once took %v", n, time.Since(begin).Round(time.Millisecond))
	})
}

// crowd is commands that all run at the same time: each says that it has begun, and ends when all have.
type crowd struct {
	w   *world
	all []*member
}

type member struct {
	cmd       *exec.Cmd
	stdin     io.WriteCloser
	begun     chan struct{} // closed when it printed a line, or ended
	out, errs bytes.Buffer
	ended     chan struct{}
}

// begin starts a command and waits for no one.
func (c *crowd) begin(args ...string) {
	c.w.t.Helper()
	m := &member{cmd: c.w.msb(args...), begun: make(chan struct{}), ended: make(chan struct{})}
	var err error
	m.stdin, err = m.cmd.StdinPipe()
	c.w.must(err)
	stdout, err := m.cmd.StdoutPipe()
	c.w.must(err)
	m.cmd.Stderr = &m.errs
	c.w.must(m.cmd.Start())
	c.all = append(c.all, m)
	go func() {
		defer close(m.ended)
		first, err := bufio.NewReaderSize(io.TeeReader(stdout, &m.out), 16).ReadString('\n')
		close(m.begun)
		if err == nil && first != "" {
			_, _ = io.Copy(&m.out, stdout)
		}
		_ = m.cmd.Wait()
	}()
}

// end lets all go on once all have begun, each with its input, and waits for them.
func (c *crowd) end(input func(i int) string) {
	for _, m := range c.all {
		<-m.begun
	}
	for i, m := range c.all {
		_, _ = io.WriteString(m.stdin, input(i)) // one that was refused does not read
		_ = m.stdin.Close()
	}
	for _, m := range c.all {
		<-m.ended
	}
}

func TestManyExecs(t *testing.T) {
	const n = 64
	each(t, func(w *world) {
		w.background("shared")
		begin := time.Now()
		c := &crowd{w: w}
		for i := range n {
			c.begin("exec", "shared", "--", "sh", "-c", fmt.Sprintf(
				"echo begun; read line; for i in 1 2 3 4 5 6 7 8 9 10; do echo %d.$i; echo e%d.$i >&2; done; echo $line; cat; exit %d", i, i, i))
		}
		c.end(func(i int) string { return fmt.Sprintf("line %d\nrest %d\n", i, i) })
		for i, m := range c.all {
			var want, wantErrs strings.Builder
			want.WriteString("begun\n")
			for k := 1; k <= 10; k++ {
				fmt.Fprintf(&want, "%d.%d\n", i, k)
				fmt.Fprintf(&wantErrs, "e%d.%d\n", i, k)
			}
			fmt.Fprintf(&want, "line %d\nrest %d\n", i, i)
			if code := exitCode(m.cmd); code != i || m.out.String() != want.String() || m.errs.String() != wantErrs.String() {
				w.t.Errorf("exec %d: exit code %d, stdout %q, stderr %q", i, code, clip(m.out.String()), clip(m.errs.String()))
			}
		}
		w.t.Logf("%d execs at once took %v", n, time.Since(begin).Round(time.Millisecond))
		if out := w.ok("exec", "shared", "--", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"); out != "3\n" && out != "4\n" {
			w.t.Errorf("there are %s processes left in the guest", strings.TrimSpace(out))
		}
	})
}

// TestTooManyExecs asks for more sessions than a sandbox has room for.
func TestTooManyExecs(t *testing.T) {
	const n, room = 135, 128
	each(t, func(w *world) {
		w.background("full")
		c := &crowd{w: w}
		for range n {
			c.begin("exec", "full", "--", "sh", "-c", "echo begun; cat")
		}
		c.end(func(int) string { return "done\n" })
		done := 0
		for _, m := range c.all {
			code := exitCode(m.cmd)
			switch {
			case code == 0 && m.out.String() == "begun\ndone\n" && m.errs.Len() == 0:
				done++
			case m.out.Len() > 0:
				w.t.Errorf("exit code %d, stdout %q, stderr %q", code, m.out.String(), m.errs.String())
			default:
				w.errorLine(result{code: code, err: m.errs.String()})
			}
		}
		if done != room {
			w.t.Errorf("of %d execs at once %d were done, want %d", n, done, room)
		}
		if out := w.ok("exec", "full", "--", "echo", "room again"); out != "room again\n" {
			w.t.Errorf("stdout %q", out)
		}
	})
}

// TestSameName makes sandboxes of the same name at the same time. One is made; the others run in it or are told that it is
// there.
func TestSameName(t *testing.T) {
	each(t, func(w *world) {
		for round := range 5 {
			name := fmt.Sprintf("same%d", round)
			results := w.together(2+round%2, func(i int) []string {
				return []string{"run", "--name", name, "host", "--", "sh", "-c", fmt.Sprintf("echo %d; sleep 0.3", i)}
			})
			won := 0
			var said []string
			for i, r := range results {
				said = append(said, fmt.Sprintf("%d %q", r.code, strings.TrimSpace(r.err)))
				switch {
				case r.code == 0 && r.out == fmt.Sprintf("%d\n", i):
					won++
				case r.out != "" && r.out != fmt.Sprintf("%d\n", i):
					w.t.Errorf("stdout %q is not its own", r.out)
				case r.code == 128+int(syscall.SIGTERM) && r.err == "": // whose sandbox it was had it stopped
				default:
					w.errorLine(r)
				}
			}
			w.t.Log(strings.Join(said, "; "))
			if won == 0 {
				w.t.Errorf("nobody won: %s", strings.Join(said, "; "))
			}
			w.ok("rm", "-q", name)
		}
		// In the background they do not end by themselves: exactly one is made.
		results := w.together(4, func(int) []string { return []string{"run", "-d", "--name", "one", "host"} })
		made := 0
		for _, r := range results {
			if r.code == 0 && r.out == "one\n" {
				made++
			} else if line := w.errorLine(r); !strings.HasPrefix(line, "sandbox already exists") {
				w.t.Errorf("exit code %d, stderr %q", r.code, r.err)
			}
		}
		if made != 1 {
			w.t.Errorf("%d sandboxes of one name were made", made)
		}
		if out := w.ok("ls", "-q"); out != "one\n" {
			w.t.Errorf("ls says %q", out)
		}
		w.ok("rm", "-f", "-q", "one")
	})
}

// TestStopWhileBusy ends a sandbox under those who use it, and while it starts.
func TestStopWhileBusy(t *testing.T) {
	each(t, func(w *world) {
		w.background("busy")
		cmd := w.msb("exec", "busy", "--", "sh", "-c", "echo go; cat /dev/zero")
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		w.must(cmd.Start())
		_, err = io.ReadFull(stdout, make([]byte, 1<<20))
		w.must(err)
		go func() { _, _ = io.Copy(io.Discard, stdout) }()
		begin := time.Now()
		w.ok("stop", "-q", "busy")
		stopped := time.Since(begin)
		_ = cmd.Wait()
		w.t.Logf("stop took %v, whoever was in it ended after %v with code %d: %s", stopped.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), exitCode(cmd), stderr.String())
		if exitCode(cmd) == 0 || stopped > 5*time.Second {
			w.t.Errorf("stop took %v, exec ended with code %d", stopped, exitCode(cmd))
		}
		for i := range 5 {
			name := fmt.Sprintf("starting%d", i)
			starting := w.msb("run", "--name", name, "host", "--", "sleep", "60")
			w.must(starting.Start())
			time.Sleep(time.Duration(i) * 30 * time.Millisecond)
			if !until(5*time.Second, func() bool { return w.run("rm", "-f", "-q", name).code == 0 }) {
				w.t.Error("it cannot be removed")
			}
			begin := time.Now()
			killed := time.AfterFunc(10*time.Second, func() { _ = starting.Process.Kill() })
			_ = starting.Wait()
			killed.Stop()
			if exitCode(starting) == 0 || time.Since(begin) > 10*time.Second {
				w.t.Errorf("removed %d ms after its start: exit code %d after %v", i*30, exitCode(starting), time.Since(begin))
			}
		}
	})
}
