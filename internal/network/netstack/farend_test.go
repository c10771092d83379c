package netstack

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestFarEndReadsNothing has a far end that stops reading the link while data is on its way to it, and does not close it either. Neither Close
// nor the end of what it sends may wait for it.
func TestFarEndReadsNothing(t *testing.T) {
	for _, how := range []string{"the gateway is closed", "the far end has ended what it sends"} {
		t.Run(how, func(t *testing.T) {
			pair, err := NewPair()
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := pair.Gateway.SyscallConn()
			_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 128<<10) })
			fake := &fakeNet{}
			fake.listen(t, "198.51.100.7:80", func(c net.Conn) {
				b := make([]byte, 256<<10)
				var err error
				for err == nil {
					_, err = c.Write(b)
				}
			})
			ends, _ := Addresses(1)
			gw, err := New(Config{Link: pair.Gateway, Ends: ends, Dialer: fake, Policy: sandbox.PublicPolicy()})
			if err != nil {
				t.Fatal(err)
			}
			g := newGuest(t, pair.Sentry, ends, fdbased.Readv)
			c := g.mustDial(t, "198.51.100.7:80")
			for range 5 { // so that it comes in large pieces
				if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
			}
			g.link.Attach(nil)
			time.Sleep(time.Second) // the link is full now
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if how == "the gateway is closed" {
					_ = gw.Close()
					return
				}
				if err := unix.Shutdown(int(pair.Sentry.Fd()), unix.SHUT_WR); err != nil {
					t.Error(err)
				}
				<-gw.Done()
				gw.Stats()
			}()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("it waits for the far end")
			}
			g.close()
			<-ended
			_ = gw.Close()
		})
	}
}

// TestMultipath publishes a port for clients with multipath TCP, which send much and end their stream. Go listens for such by default.
func TestMultipath(t *testing.T) {
	ls := ports(t, "0:80")
	w := newWorld(t, Config{Publish: ls})
	type result struct {
		b   []byte
		err error
	}
	got := make(chan result, 1)
	w.serve(t, 80, addressOf(w.ends.Guest4), func(c net.Conn) {
		time.Sleep(50 * time.Millisecond)
		b, err := io.ReadAll(c)
		got <- result{b, err}
	})
	want := make([]byte, 3<<20+12345)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	for i := range 20 {
		var d net.Dialer
		d.SetMultipathTCP(true)
		c, err := d.DialContext(context.Background(), "tcp", hostPort(ls.Ports()[0]))
		if err != nil {
			t.Fatal(err)
		}
		if m, err := c.(*net.TCPConn).MultipathTCP(); !m {
			t.Skip("no multipath TCP here", err)
		}
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if r := <-got; r.err != nil || !bytes.Equal(r.b, want) {
			t.Errorf("connection %d: %d bytes of %d, %v", i, len(r.b), len(want), r.err)
		}
		c.Close()
	}
}
