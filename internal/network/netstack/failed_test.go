package netstack

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHostConnErrors has what is above a connection ask its errors as it does those of net.TCPConn: crypto/tls goes on after a time-out only
// if that is a temporary net.Error.
func TestHostConnErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := mustSocket(t, false)
	if err := c.connect(netip.MustParseAddrPort(l.Addr().String()), time.Now().Add(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	_, err = c.Read(make([]byte, 1))
	if e, ok := err.(net.Error); !ok || !e.Timeout() || !e.Temporary() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read past its deadline: %T %v, not a temporary net.Error", err, err)
	}
	_ = c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of what is closed: %T %v, want net.ErrClosed", err, err)
	}
	if _, err := c.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write to what is closed: %T %v, want net.ErrClosed", err, err)
	}
}

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

// TestHostConnTLS has the read of TLS over a connection time out, as the proxy's look at who speaks first does, and go on.
func TestHostConnTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer s.Close()
	c := mustSocket(t, false)
	if err := c.connect(netip.MustParseAddrPort(s.Listener.Addr().String()), time.Now().Add(10*time.Second)); err != nil {
		t.Fatal(err)
	}
	inner := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := inner.Handshake(); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = inner.SetReadDeadline(time.Unix(1, 0))
	}()
	if _, err := inner.Read(make([]byte, 1)); !isDeadline(err) {
		t.Fatal(err)
	}
	_ = inner.SetReadDeadline(time.Time{})
	_, _ = io.WriteString(inner, "GET / HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(inner); err != nil || !strings.HasSuffix(string(b), "hello") {
		t.Errorf("%q, %v", b, err)
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
