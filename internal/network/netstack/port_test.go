package netstack

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPortDisarmed has a writer wait for room once. After that, the far end's reading must tell nobody.
func TestPortDisarmed(t *testing.T) {
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Sentry.Close()
	p, err := newPort(pair.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer p.free()
	defer p.shut()
	far := int(pair.Sentry.Fd())
	msg := make([]byte, 60<<10)
	full := func() (n int) {
		for unix.Sendto(p.fd, msg, unix.MSG_DONTWAIT, nil) == nil {
			n++
		}
		return n
	}
	drain := func() {
		for {
			if n, _, err := unix.Recvfrom(far, msg, unix.MSG_DONTWAIT); n <= 0 || err != nil {
				return
			}
		}
	}
	full()
	done := make(chan error, 1)
	go func() {
		done <- p.write(func(fd uintptr) bool {
			return !errors.Is(unix.Sendto(int(fd), msg, unix.MSG_DONTWAIT, nil), unix.EAGAIN)
		})
	}()
	time.Sleep(50 * time.Millisecond)
	drain()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	drain()
	ready := func() bool { // of out, as the runtime's poller sees it
		var n int
		_ = p.outc.Control(func(ep uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(ep), Events: unix.POLLIN}}, 0) })
		return n > 0
	}
	if ready() {
		t.Error("there is room and nobody waits for it, but the poller is told")
	}
}

// TestNewFails has a gateway with a link that is no socket. Nothing may be left of it.
func TestNewFails(t *testing.T) {
	before := runtime.NumGoroutine()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := New(Config{Link: r}); err == nil {
		t.Fatal("it started")
	}
	for i := 0; runtime.NumGoroutine() > before; i++ {
		if i == 100 {
			t.Fatalf("%d goroutines, %d were", runtime.NumGoroutine(), before)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
