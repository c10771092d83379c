package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// stuck is a registry that stops in the middle of a layer, and waits until it is let go or the client has gone.
type stuck struct{ free atomic.Bool }

func (s *stuck) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && !s.free.Load() {
			w = &stuckWriter{ResponseWriter: w, r: r}
		}
		next.ServeHTTP(w, r)
	})
}

type stuckWriter struct {
	http.ResponseWriter
	r    *http.Request
	sent int
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	const enough = 200 << 10 // more than a manifest has
	if w.sent+len(p) > enough {
		_, _ = w.ResponseWriter.Write(p[:enough-w.sent])
		w.sent = enough
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		<-w.r.Context().Done()
		return 0, w.r.Context().Err()
	}
	w.sent += len(p)
	return w.ResponseWriter.Write(p)
}

// TestPullOnTerminal shows how far a pull is, and ends it with ctrl-c.
func TestPullOnTerminal(t *testing.T) {
	needSandboxes(t)
	busybox := testimage.Busybox(t)
	s := &stuck{}
	s.free.Store(true)
	ref := testimage.Serve(t, testimage.Options{Wrap: s.wrap}).Push(t, "busybox", busybox)
	home := filepath.Join(t.TempDir(), "home")
	t.Cleanup(func() { nothingLeft(t, home) })
	nothing := func(t *testing.T) {
		t.Helper()
		for _, dir := range []string{"tmp", "refs", "erofs", "manifests", "blobs/sha256"} {
			left, _ := os.ReadDir(filepath.Join(home, "images", dir))
			for _, e := range left {
				t.Errorf("left behind: %s/%s", dir, e.Name())
			}
		}
	}
	s.free.Store(false)
	for name, args := range map[string][]string{"pull": {"pull", ref}, "run": {"run", ref, "--", "true"}} {
		t.Run(name, func(t *testing.T) {
			c := openConsole(t, home, args...)
			c.expect(`Pulling 127.0.0.1:[0-9]+/busybox\r+\n.*[0-9a-f]{12}  [━─]+  [0-9.]+ KiB / 1.0 MiB`)
			c.write("\x03")
			c.ends(130)
			nothing(t)
		})
		t.Run(name+" in the background", func(t *testing.T) {
			c := openConsole(t, home, args...)
			c.expect(` KiB / `)
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			c.ends(143)
			nothing(t)
		})
	}
	s.free.Store(true)
	t.Run("to the end", func(t *testing.T) {
		c := openConsole(t, home, "pull", ref)
		c.expect(`✓ Pulled       127.0.0.1:[0-9]+/busybox:latest`)
		c.ends(0)
		c = openConsole(t, home, "run", ref)
		c.expect(`[$#] `)
		c.write("exit 3\n")
		c.ends(3)
	})
	t.Run("nobody reads what is saved", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := &exec.Cmd{Path: self, Args: []string{"msb", "save", ref}, Env: append(os.Environ(), config.HomeVar+"="+home), Stdout: w}
		err = cmd.Start()
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Error(err)
		}
		time.Sleep(300 * time.Millisecond) // the pipe is full now
		for n := 0; ; n++ {
			_ = cmd.Process.Signal(syscall.SIGINT)
			select {
			case <-ended:
				if n > 5 {
					t.Errorf("it took %d signals", n)
				}
				return
			case <-time.After(200 * time.Millisecond):
			}
			if n == 50 {
				_ = cmd.Process.Kill()
			}
		}
	})
	t.Run("prune asks", func(t *testing.T) {
		for answer, code := range map[string]int{"\n": 0, "no\n": 0, "\x03": 130} {
			c := openConsole(t, home, "image", "prune")
			c.expect(`Remove all images that no sandbox uses\? \[y/N\] `)
			c.write(answer)
			c.ends(code)
		}
		if left, _ := os.ReadDir(filepath.Join(home, "images", "erofs")); len(left) == 0 {
			t.Error("the image is gone")
		}
		c := openConsole(t, home, "image", "prune")
		c.expect(`\[y/N\] `)
		c.write("y\n")
		c.expect(`✓ Pruned +1 image, `)
		c.ends(0)
		nothing(t)
	})
	t.Run("login asks", func(t *testing.T) {
		host := testimage.Serve(t, testimage.Options{Username: "user", Password: "secret"}).Host
		c := openConsole(t, home, "registry", "login", host)
		c.expect(`User name for 127.*: `)
		c.write("user\n")
		c.expect(`Password or token for user at 127.*: `)
		c.write("\x03")
		c.ends(130)
		c = openConsole(t, home, "registry", "login", "-u", "user", host)
		c.expect(`Password or token for user at 127.*: `)
		c.write("secret\n")
		c.expect(`^\r\n.*✓ Logged in    127`)
		c.ends(0)
	})
}
