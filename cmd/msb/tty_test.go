package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/config"
)

// console is an msb on a terminal of its own.
type console struct {
	*testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File
	before *unix.Termios

	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func openConsole(t *testing.T, home string, args ...string) *console {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	c := &console{T: t, master: master, slave: slave, more: make(chan struct{}, 1)}
	t.Cleanup(func() { _ = master.Close(); _ = slave.Close() })
	c.resize(33, 99)
	c.before = c.termios()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd = &exec.Cmd{Path: self, Args: append([]string{"msb"}, args...), Stdin: slave, Stdout: slave, Stderr: slave,
		Env:         append(os.Environ(), config.HomeVar+"="+home, "TERM=vt220", "NO_COLOR=1"),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true}}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			c.mu.Lock()
			c.text.Write(buf[:n])
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *console) resize(rows, cols uint16) {
	c.Helper()
	if err := pty.Setsize(c.master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		c.Fatal(err)
	}
}

func (c *console) termios() *unix.Termios {
	c.Helper()
	t, err := unix.IoctlGetTermios(int(c.slave.Fd()), unix.TCGETS)
	if err != nil {
		c.Fatal(err)
	}
	return t
}

func (c *console) write(s string) {
	c.Helper()
	if _, err := c.master.WriteString(s); err != nil {
		c.Fatal(err)
	}
}

// expect waits until the terminal shows what pattern matches, and forgets what it showed so far.
func (c *console) expect(pattern string) {
	c.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(15 * time.Second)
	for {
		c.mu.Lock()
		text := c.text.String()
		if re.MatchString(text) {
			c.text.Reset()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-deadline:
			c.Fatalf("the terminal shows …%q, want %q", text[max(0, len(text)-1000):], pattern)
		}
	}
}

// ends waits for msb to exit with that code, and for the terminal to be as it was.
func (c *console) ends(code int) {
	c.Helper()
	timer := time.AfterFunc(15*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	_ = c.cmd.Wait()
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.Errorf("exit code %d (%v), want %d", got, c.cmd.ProcessState, code)
	}
	if after := c.termios(); *after != *c.before {
		c.Errorf("the terminal was left as %+v, want %+v", after, c.before)
	}
}

func TestTerminal(t *testing.T) {
	needSandboxes(t)
	home := filepath.Join(t.TempDir(), "home")
	t.Cleanup(func() { nothingLeft(t, home) })
	const prompt = `READY\$ `
	shell := []string{"run", "-e", "PS1=READY$ ", "host", "--", "sh", "-i"}

	t.Run("size, resize, ctrl-c and exit code", func(t *testing.T) {
		c := openConsole(t, home, shell...)
		c.expect(prompt)
		if c.termios().Lflag&unix.ICANON != 0 {
			t.Error("the terminal is not in raw mode")
		}
		c.write("stty size; echo $TERM\n")
		c.expect(`33 99\r\nvt220\r\n`)
		c.resize(44, 111)
		c.write("until [ \"$(stty size)\" = \"44 111\" ]; do sleep 0.1; done; stty size\n")
		c.expect(`44 111\r\n`)
		c.write("echo up; sleep 100; echo code $?\n")
		c.expect(`up\r\n`)
		time.Sleep(300 * time.Millisecond) // while dash starts sleep it loses a ctrl-c, on any Linux: see docs/rough-edges.md
		c.write("\x03")
		c.expect(prompt)
		c.write("exit 5\n")
		c.ends(5)
	})
	t.Run("detach", func(t *testing.T) {
		c := openConsole(t, home, shell...)
		c.expect(prompt)
		c.write("\x1d")
		c.ends(255)
	})
	t.Run("detach with other keys", func(t *testing.T) {
		c := openConsole(t, home, append([]string{"run", "--detach-keys", "ctrl-p,ctrl-q"}, shell[1:]...)...)
		c.expect(prompt)
		c.write("echo a\x1db\n")
		c.expect(`\n.*a\x1db\r\n`)
		c.write("\x10\x11")
		c.ends(255)
	})
	t.Run("a signal restores the terminal", func(t *testing.T) {
		c := openConsole(t, home, shell...)
		c.expect(prompt)
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.ends(143)
	})
	t.Run("without a command there is a shell", func(t *testing.T) {
		c := openConsole(t, home, "run", "-e", "PS1=READY$ ", "host")
		c.expect(`[$#] `)
		c.write("echo $((40 + 2))\n")
		c.expect(`42\r\n`)
		c.write("\x04")
		c.ends(0)
	})
	t.Run("no terminal", func(t *testing.T) {
		c := openConsole(t, home, "run", "--no-tty", "host", "--", "sh", "-c", "test -t 0 || test -t 1 || echo none; cat")
		c.expect(`none`)
		if c.termios().Lflag&unix.ICANON == 0 {
			t.Error("the terminal is in raw mode")
		}
		c.write("typed\n\x04")
		c.expect(`typed\r\ntyped\r\n`)
		c.ends(0)
	})
	t.Run("ctrl-c without a terminal of its own", func(t *testing.T) {
		c := openConsole(t, home, "run", "--no-tty", "host", "--", "sh", "-c", "echo up; exec sleep 100")
		c.expect(`up`)
		c.write("\x03")
		c.ends(130)
	})
}
