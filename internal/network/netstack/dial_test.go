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
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mustSocket(t *testing.T, v6 bool) *hostConn {
	t.Helper()
	c, err := newSocket(v6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestHostConn(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		to := netip.MustParseAddrPort(l.Addr().String())
		told := make(chan error, 1)
		go func() {
			for _, reset := range []bool{false, true} {
				s, err := l.Accept()
				if err != nil {
					told <- err
					return
				}
				b, err := io.ReadAll(s) // until the FIN
				if !reset && err == nil {
					_, err = s.Write(append(b, []byte(s.RemoteAddr().String())...))
				}
				_ = s.Close()
				told <- err
			}
		}()
		c := mustSocket(t, to.Addr().Is6())
		if err := c.connect(to, time.Now().Add(10*time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("hello from ")); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		b, err := io.ReadAll(c)
		if want := "hello from " + c.LocalAddr().String(); string(b) != want || err != nil {
			t.Errorf("%q, %v; want %q", b, err, want)
		}
		if c.RemoteAddr().String() != to.String() {
			t.Errorf("the far end is %s, want %s", c.RemoteAddr(), to)
		}
		if err := <-told; err != nil {
			t.Error(err)
		}
		if !isTCP(rawConn(c)) {
			t.Error("it is not TCP")
		}

		c = mustSocket(t, to.Addr().Is6())
		if err := c.connect(to, time.Now().Add(10*time.Second)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !isDeadline(err) {
			t.Errorf("a read past its deadline: %v", err)
		}
		reset(c)
		_ = c.Close()
		if err := <-told; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the server was told %v, want a reset", err)
		}

		_ = l.Close()
		if err := mustSocket(t, to.Addr().Is6()).connect(to, time.Now().Add(10*time.Second)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	}
}

func isDeadline(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// TestHostConnItself connects a socket to its own port, as the kernel may choose it when nobody listens there.
func TestHostConnItself(t *testing.T) {
	c := mustSocket(t, false)
	var at unix.Sockaddr
	_ = c.raw.Control(func(fd uintptr) {
		if err := unix.Bind(int(fd), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		at, _ = unix.Getsockname(int(fd))
	})
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at.(*unix.SockaddrInet4).Port))
	if err := c.connect(to, time.Now().Add(10*time.Second)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v, want a refusal", err)
	}
}

// TestHostConnWaits connects to a server that takes no more: until the deadline, or until it is closed.
func TestHostConnWaits(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, _ := unix.Getsockname(fd)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	for i := 0; ; i++ { // those that the kernel takes all the same
		if err := mustSocket(t, false).connect(to, time.Now().Add(200*time.Millisecond)); isDeadline(err) {
			break
		} else if err != nil || i == 100 {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	c := mustSocket(t, false)
	ended := make(chan error, 1)
	go func() { ended <- c.connect(to, time.Now().Add(time.Minute)) }()
	time.Sleep(20 * time.Millisecond)
	_ = c.Close()
	if err := <-ended; err == nil || isDeadline(err) {
		t.Errorf("closed while it waited: %v", err)
	}
}

func TestSpares(t *testing.T) {
	files := countFiles(t)
	s := newSpares()
	for _, v6 := range []bool{false, true} {
		s.prepare(v6)
		s.prepare(v6)
		c, err := s.take(v6)
		if err != nil {
			t.Fatal(err)
		}
		var family int
		_ = c.raw.Control(func(fd uintptr) { family, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) })
		if err != nil || (family == unix.AF_INET6) != v6 {
			t.Errorf("a socket of family %d, %v", family, err)
		}
		_ = c.Close()
		s.prepare(v6)
	}
	if now := countFiles(t); now != files+2 {
		t.Errorf("%d files are open, %d were", now, files)
	}
	s.close()
	s.close()
	if now := countFiles(t); now != files {
		t.Errorf("%d files are open in the end, %d were", now, files)
	}
}

// TestRetired has sockets that are over: they are closed together or soon, and with the rest.
func TestRetired(t *testing.T) {
	files := countFiles(t)
	s := newSpares()
	retire := func() {
		c, err := s.make(false)
		if err != nil {
			t.Fatal(err)
		}
		c.finished()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for range 3*maxOld - 1 {
		retire()
		if now := countFiles(t); now >= files+maxOld {
			t.Errorf("%d files are open, %d were", now, files)
		}
	}
	for i := 0; countFiles(t) != files; i++ {
		if i == 10000 {
			t.Fatalf("%d files are open, %d were", countFiles(t), files)
		}
		time.Sleep(time.Millisecond)
	}
	retire()
	s.close()
	if now := countFiles(t); now != files {
		t.Errorf("%d files are open in the end, %d were", now, files)
	}
}

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
