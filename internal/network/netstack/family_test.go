package netstack

import (
	"net"
	"net/netip"
	"testing"
)

// TestOneFamily is a host that has only IPv4, or only IPv6: what it cannot reach is refused, so that the guest tries the other.
func TestOneFamily(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		const has4, has6 = "198.51.100.7", "2001:db8::7"
		for _, c := range []struct{ has, hasNot string }{{has4, "2001:db8::8"}, {has6, "198.51.100.8"}} {
			a := netip.MustParseAddr(c.has)
			addAddress(t, a)
			at := netip.AddrPortFrom(a, 80).String()
			l, err := net.Listen("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			accepted := make(chan struct{})
			go func() {
				defer close(accepted)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Write([]byte("."))
					conn.Close()
				}
			}()
			for reached := false; !reached; { // see testInNamespace
				if probe, err := net.Dial("tcp", at); err == nil {
					probe.Close()
					reached = true
				}
			}
			w := newWorld(t, Config{Dialer: &net.Dialer{}, Ping: openPing})
			conn := w.mustDial(t, at)
			if n, err := conn.Read(make([]byte, 1)); n != 1 {
				t.Errorf("%s: %v", at, err)
			}
			conn.Close()
			other := netip.AddrPortFrom(netip.MustParseAddr(c.hasNot), 80).String()
			mustRefuse(t, w.guest, other)
			untilRefused(w.dialUDP(t, other))
			if d := w.gw.Denied(); len(d) > 0 {
				t.Errorf("what the host lacks counts as denied: %v", d)
			}
			l.Close()
			<-accepted
		}
	})
}
