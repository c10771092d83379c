package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// console is a terminal with an msb on it and somebody who types.
type console struct {
	w     *world
	cmd   *exec.Cmd
	tty   *os.File // the end of whoever types and reads
	first unix.Termios

	mu     sync.Mutex
	screen bytes.Buffer
	hangup chan struct{} // closed when nobody reads any more
	closed chan struct{} // closed when there is nothing to read any more
	once   sync.Once
}

// console starts msb on a terminal of that size.
func (w *world) console(rows, cols uint16, args ...string) *console {
	w.t.Helper()
	c := &console{w: w, cmd: w.msb(args...), hangup: make(chan struct{}), closed: make(chan struct{})}
	tty, other, err := pty.Open()
	w.must(err)
	w.must(pty.Setsize(tty, &pty.Winsize{Rows: rows, Cols: cols}))
	c.tty, c.first = tty, termios(w, tty)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = other, other, other
	c.cmd.SysProcAttr.Setsid, c.cmd.SysProcAttr.Setctty = true, true
	w.must(c.cmd.Start())
	w.must(other.Close())
	go c.read()
	w.t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.hangUp()
	})
	return c
}

// read puts on the screen what comes, until nobody has the other end any more.
func (c *console) read() {
	defer close(c.closed)
	b := make([]byte, 4096)
	for {
		select {
		case <-c.hangup:
			return
		default:
		}
		const wait = 20 // ms, in which a hang-up is noticed
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.tty.Fd()), Events: unix.POLLIN}}, wait); n == 0 {
			continue
		}
		n, err := c.tty.Read(b)
		c.mu.Lock()
		c.screen.Write(b[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// hangUp closes the window that the terminal is.
func (c *console) hangUp() {
	c.once.Do(func() {
		close(c.hangup)
		<-c.closed
		_ = c.tty.Close()
	})
}

func termios(w *world, tty *os.File) unix.Termios {
	w.t.Helper()
	s, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	w.must(err)
	return *s
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.screen.String()
}

// sees waits until the text is on the screen, and forgets what is there.
func (c *console) sees(text string) {
	c.w.t.Helper()
	if !until(20*time.Second, func() bool { return strings.Contains(c.text(), text) }) {
		c.w.t.Fatalf("no %q on the screen:\n%s", text, clip(c.text()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.screen.Reset()
}

func (c *console) types(keys string) {
	c.w.t.Helper()
	_, err := c.tty.WriteString(keys)
	c.w.must(err)
}

// resize changes the terminal's size; the kernel tells msb.
func (c *console) resize(rows, cols uint16) {
	c.w.t.Helper()
	c.w.must(pty.Setsize(c.tty, &pty.Winsize{Rows: rows, Cols: cols}))
}

// ends waits for msb, which must exit with that code and leave the terminal as it was.
func (c *console) ends(code int) {
	c.w.t.Helper()
	done := make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		c.w.t.Fatalf("msb does not end; on the screen:\n%s", clip(c.text()))
	}
	if got := exitCode(c.cmd); got != code {
		c.w.t.Errorf("exit code %d, want %d; on the screen:\n%s", got, code, clip(c.text()))
	}
	if now := termios(c.w, c.tty); now != c.first {
		c.w.t.Errorf("the terminal is left as %+v; it was %+v", now, c.first)
	}
}

func TestTerminalSize(t *testing.T) {
	each(t, func(w *world) {
		c := w.console(31, 97, "run", "-q", "host", "--", "stty", "size")
		c.sees("31 97\r\n")
		c.ends(0)
		// Where msb has no terminal the command gets one of the usual size.
		if r := w.run("run", "-t", "host", "--", "stty", "size"); r.out != "24 80\r\n" || r.code != 0 {
			w.t.Errorf("exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		// No terminal is had by asking for none, and by having one on one end only.
		c = w.console(31, 97, "run", "-q", "--no-tty", "host", "--", "sh", "-c", "test -t 0 || echo none")
		c.sees("none")
		c.ends(0)
	})
}

const sizes = `
import os, signal, sys
def show(*_): print("size", *os.get_terminal_size(), flush=True)
signal.signal(signal.SIGWINCH, show)
show()
while True: signal.pause()
`

func TestTerminalResize(t *testing.T) {
	each(t, func(w *world) {
		c := w.console(24, 80, "run", "-q", "host", "--", "python3", "-c", sizes)
		c.sees("size 80 24")
		raw := termios(w, c.tty)
		if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
			w.t.Errorf("the terminal is not in raw mode: %+v", raw)
		}
		for _, s := range [][2]uint16{{40, 120}, {10, 200}, {50, 132}} {
			c.resize(s[0], s[1])
			c.sees("size " + itoa(s[1]) + " " + itoa(s[0]))
		}
		c.types("\x03") // the guest's terminal makes a SIGINT of it
		c.sees("KeyboardInterrupt")
		c.ends(130)
	})
}

func TestTerminalKeys(t *testing.T) {
	each(t, func(w *world) {
		// Ctrl-C reaches the command, which may do with it what it likes.
		c := w.console(24, 80, "run", "-q", "host", "--", "sh", "-c", `trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done`)
		c.sees("ready")
		c.types("\x03")
		c.sees("caught")
		c.ends(3)

		// A shell in the guest has job control, line editing and an end of input.
		c = w.console(24, 80, "run", "-q", "-e", "PS1=guest> ", "host", "--", "sh", "-i")
		c.sees("guest> ")
		c.types("sh -c \"echo go''ing; read line\"\r") // within an execve gVisor would lose the key
		c.sees("going\r\n")
		c.types("\x1a")
		c.sees("Stopped")
		c.types("kill -9 %1; wait; echo a''b\r")
		c.sees("ab\r\n")
		c.types("stty -a | grep -o 'columns [0-9]*'\r")
		c.sees("columns 80")
		c.types("\x04")
		c.ends(0)

		// Ctrl-] leaves, and with the session ends what msb run made. It has a name, so it is kept.
		c = w.console(24, 80, "run", "-q", "--name", "left", "host", "--", "sh", "-c", "echo ready; exec cat")
		c.sees("ready")
		c.types("echoed\r")
		c.sees("echoed\r\nechoed")
		c.types("\x1d")
		c.ends(255)
		if i := w.inspect("left"); i.Status != "Stopped" || i.End == nil {
			w.t.Errorf("the sandbox that was left is %+v", i)
		}

		// Other keys for it, and one that begins like them.
		c = w.console(24, 80, "run", "-q", "--detach-keys", "ctrl-p,ctrl-q", "host", "--", "sh", "-c", "echo ready; exec cat -v")
		c.sees("ready")
		c.types("\x1d\x10x\r")
		c.sees("^]^Px")
		c.types("\x10\x11")
		c.ends(255)
	})
}

// jobsVar is set for this test's binary when it is to be a shell with that many jobs, one after the other: see [jobs].
const jobsVar = "E2E_JOBS"

func init() {
	if n, err := strconv.Atoi(os.Getenv(jobsVar)); err == nil {
		if err := jobs(n); err != nil {
			fmt.Fprintln(os.Stderr, "jobs:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// jobs runs commands in the foreground of its terminal until they are interrupted. Unlike a common shell it loses no SIGINT: its
// child has the default action for it before it can get one, and what comes to itself while it starts the child it passes on.
func jobs(n int) error {
	signal.Ignore(unix.SIGTTOU)
	came := make(chan os.Signal, 8)
	signal.Notify(came, unix.SIGINT)
	for i := range n {
		fmt.Println("up", i)
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		for waiting := true; waiting; {
			select {
			case <-came:
				_ = unix.Kill(-cmd.Process.Pid, unix.SIGINT)
			case <-ended:
				waiting = false
			}
		}
		if err := unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp()); err != nil {
			return err
		}
		if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != unix.SIGINT {
			return fmt.Errorf("the job ended with %v", cmd.ProcessState)
		}
	}
	return nil
}

// TestTerminalInterrupts types ctrl-c while a command is being started in the foreground: none is lost.
func TestTerminalInterrupts(t *testing.T) {
	shell := static(t)
	each(t, func(w *world) {
		file := filepath.Join(w.top, "jobs")
		w.write(file, string(shell), 0o755)
		const n = 50
		c := w.console(24, 80, "run", "-q", "-e", jobsVar+"="+itoa(n), "-v", file+":/jobs:ro", "host", "--", "/jobs")
		for i := range n {
			c.sees("up " + itoa(i) + "\r\n")
			c.types("\x03")
		}
		c.ends(0)
	})
}

// TestTerminalAndSignals kills msb while its terminal is in raw mode: it has to put it back.
func TestTerminalAndSignals(t *testing.T) {
	each(t, func(w *world) {
		for sig, code := range map[unix.Signal]int{unix.SIGTERM: 143, unix.SIGHUP: 129} {
			c := w.console(24, 80, "run", "-q", "host", "--", "sh", "-c", "echo ready; exec sleep 60")
			c.sees("ready")
			w.must(c.cmd.Process.Signal(sig))
			c.ends(code)
		}
		// The terminal's window is closed.
		c := w.console(24, 80, "run", "-q", "host", "--", "sh", "-c", "echo ready; exec sleep 60")
		c.sees("ready")
		c.hangUp()
		if err := c.cmd.Wait(); exitCode(c.cmd) != 129 {
			w.t.Errorf("after a hang-up: %v", err)
		}
	})
}

// TestTerminalOfExec leaves a session of a sandbox that stays.
func TestTerminalOfExec(t *testing.T) {
	each(t, func(w *world) {
		w.background("stays")
		c := w.console(20, 70, "exec", "-q", "stays")
		c.types("stty size\r")
		c.sees("20 70\r\n")
		c.types("\x1d")
		c.ends(255)
		if out := w.ok("exec", "stays", "--", "echo", "still here"); out != "still here\n" {
			w.t.Errorf("stdout %q", out)
		}
	})
}

// TestTerminalOutput prints a lot to a terminal, whose line ends it translates, and finds all of it there.
func TestTerminalOutput(t *testing.T) {
	each(t, func(w *world) {
		c := w.console(24, 80, "run", "-q", "host", "--", "seq", "1", "20000")
		c.ends(0)
		<-c.closed
		want := strings.Builder{}
		for i := 1; i <= 20000; i++ {
			want.WriteString(itoa(i) + "\r\n")
		}
		if got := c.text(); got != want.String() {
			w.t.Errorf("%d bytes of %d, beginning %q and ending %q", len(got), want.Len(), got[:min(len(got), 40)], got[max(0, len(got)-40):])
		}
	})
}
