package microsandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/microsandbox-go/microsandbox"
)

func init() {
	connect := func(ctx context.Context) (*microsandbox.Sandbox, error) {
		h, err := microsandbox.GetSandbox(ctx, "tty")
		if err != nil {
			return nil, err
		}
		return h.Connect(ctx)
	}
	// attach has the terminal three times: for a shell, for a session that is left, and for a shell by SSH.
	roles["attach"] = func() error {
		ctx := context.Background()
		sb, err := connect(ctx)
		if err != nil {
			return err
		}
		defer sb.Close()
		client, err := sb.SSH().OpenClient(ctx)
		if err != nil {
			return err
		}
		defer client.Close(ctx)
		for _, attach := range []func() (int, error){
			func() (int, error) {
				return sb.AttachShell(ctx, microsandbox.WithAttachEnv(map[string]string{"A": "b"}))
			},
			func() (int, error) {
				return sb.AttachWith(ctx, "cat", nil, microsandbox.WithAttachDetachKeys("ctrl-p,ctrl-q"))
			},
			func() (int, error) { return client.Attach(ctx) },
		} {
			code, err := attach()
			fmt.Printf("left with %d %v\n", code, err)
		}
		var line string
		_, err = fmt.Scanln(&line) // no key is taken that is not for the sandbox
		fmt.Printf("then %s %v\n", line, err)
		return nil
	}
	// stream starts a command and waits to be killed.
	roles["stream"] = func() error {
		ctx := context.Background()
		sb, err := connect(ctx)
		if err != nil {
			return err
		}
		if _, err := sb.ExecStream(ctx, "sleep", []string{"4322"}); err != nil {
			return err
		}
		fmt.Println("ready")
		select {}
	}
}

// screen is what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) read(r io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		text := s.text.String()
		s.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in %q", want, text)
		}
	}
}

func TestAttach(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "tty", microsandbox.WithEphemeral(true))
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	cmd := self(ctx, false, []string{roleVar + "=attach", "TERM=vt220"})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var s screen
	go s.read(master)
	typed := func(text string) {
		t.Helper()
		if _, err := io.WriteString(master, text); err != nil {
			t.Fatal(err)
		}
	}
	typed("stty size; echo $A-$TERM-\r")
	s.wait(t, "33 99")
	s.wait(t, "b-vt220-")
	if err := pty.Setsize(master, &pty.Winsize{Rows: 22, Cols: 88}); err != nil {
		t.Fatal(err)
	}
	typed("while [ \"$(stty size)\" != '22 88' ]; do :; done; echo resi''zed; exit 5\r")
	s.wait(t, "resized")
	s.wait(t, "left with 5 <nil>")
	typed("typed\r")
	s.wait(t, "typed\r\ntyped")
	typed("\x10\x11")
	s.wait(t, "left with -1 <nil>")
	typed("echo by-$((20 + 2)); exit 6\r")
	s.wait(t, "by-22")
	s.wait(t, "left with 6 <nil>")
	typed("mine\r")
	s.wait(t, "then mine <nil>")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !term(os.Stdin) {
		_, err = sb.Attach(ctx, "true")
		wantKind(t, err, microsandbox.ErrInvalidArgument)
	}
}

func term(f *os.File) bool {
	_, err := pty.GetsizeFull(f)
	return err == nil
}

// A client that is killed leaves no command of its own in the guest.
func TestClientIsKilled(t *testing.T) {
	home(t)
	ctx := ctxOf(t)
	sb := newSandbox(t, "tty", microsandbox.WithEphemeral(true))
	cmd := self(ctx, false, []string{roleVar + "=stream"})
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	const count = "ps ax | grep -c '[s]leep 4322'; true"
	if got := shell(t, sb, count); got != "1" {
		t.Fatalf("%s commands run", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	left := "1"
	for end := time.Now().Add(20 * time.Second); left != "0" && time.Now().Before(end); {
		left = shell(t, sb, count)
	}
	if left != "0" {
		t.Error("the command is left")
	}
}
