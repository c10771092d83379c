package netstack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// lingering begins connections of a guest that takes nothing, and ends its side of them, until the gateway has no room. It
// returns them.
func lingering(t *testing.T, w *world) []tcpip.Endpoint {
	t.Helper()
	var open []tcpip.Endpoint
	for range 20 {
		var q waiter.Queue
		to, proto := full(netip.MustParseAddrPort("198.51.100.7:80"))
		ep, terr := w.guest.stack.NewEndpoint(tcp.ProtocolNumber, proto, &q)
		if terr != nil {
			t.Fatal(terr)
		}
		ep.SocketOptions().SetReceiveBufferSize(4096, true)
		e, changed := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
		q.EventRegister(&e)
		_ = ep.Connect(to)
		<-changed
		if terr := ep.LastError(); terr != nil {
			ep.Close()
			return open
		}
		if terr := ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
			t.Fatal(terr)
		}
		open = append(open, ep)
	}
	return open
}

// TestLingering has connections that both sides have ended, and of which the guest does not take the last bytes: they are
// memory of the gateway's, so they count.
func TestLingering(t *testing.T) {
	const most, size = 4, 200 << 10
	last := bytes.Repeat([]byte{'x'}, size)
	splice := inspector{func(*Conn) bool { return true }, func(_ context.Context, c *Conn, _ GuestConn) { c.Splice(nil) }}
	answer := inspector{func(*Conn) bool { return true }, func(_ context.Context, _ *Conn, guest GuestConn) { _, _ = guest.Write(last) }}
	for name, inspect := range map[string]Inspector{"relayed": nil, "spliced": splice, "inspected": answer} {
		for _, ends := range []string{"the guest resets", "the time is over"} {
			t.Run(name+", "+ends, func(t *testing.T) {
				w := newWorld(t, Config{MaxConns: most, Inspector: inspect})
				if ends == "the time is over" {
					w.gw.lingerTime = 100 * time.Millisecond
				}
				served := make(chan struct{}, 20)
				w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
					_, _ = c.Write(last)
					_ = c.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, c)
					served <- struct{}{}
				})
				open := lingering(t, w)
				if w.gw.lingerTime == lingerTime {
					if len(open) != most {
						t.Errorf("%d connections were let in, want %d", len(open), most)
					}
					for range open {
						<-served // both sides have ended
					}
					if n := len(lingering(t, w)); n != 0 {
						t.Errorf("%d more were let in", n)
					}
					for _, ep := range open {
						ep.Abort()
					}
				}
				for w.gw.Stats().Open > 0 {
					time.Sleep(time.Millisecond)
				}
				for _, ep := range open {
					ep.Abort()
				}
			})
		}
	}
}

// TestNobodyWaitsForAConnectionThatIsDone has room for one connection at a time, which is there again after each.
func TestNobodyWaitsForAConnectionThatIsDone(t *testing.T) {
	for name, hostFirst := range map[string]bool{"the guest ends first": false, "the host ends first": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{MaxConns: 1})
			w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
				if hostFirst {
					_ = c.(*net.TCPConn).CloseWrite()
				}
				_, _ = io.Copy(io.Discard, c)
			})
			for range 20 {
				c := w.mustDial(t, "198.51.100.7:80")
				if !hostFirst {
					_ = c.CloseWrite()
				}
				_, _ = io.Copy(io.Discard, c)
				c.Close()
				for w.gw.Stats().Open > 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
}
