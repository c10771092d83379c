package netstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func ports(t testing.TB, list ...string) *Listeners {
	t.Helper()
	var all []sandbox.Port
	for _, s := range list {
		p, err := sandbox.ParsePort(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	ls, err := Listen(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ls.Close)
	return ls
}

// serve accepts in the guest.
func (g *guest) serve(t testing.TB, port uint16, a tcpip.Address, serve func(net.Conn)) {
	t.Helper()
	proto := header.IPv4ProtocolNumber
	if a.Len() == 16 {
		proto = header.IPv6ProtocolNumber
	}
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nicID, Addr: a, Port: port}, proto)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		for _, e := range g.stack.RegisteredEndpoints() { // of a gateway that has gone without a word
			e.Abort()
		}
		all.Wait()
	})
}

func hostPort(p sandbox.Port) string { return fmt.Sprintf("%s:%d", p.Bind(), p.HostPort) }

func TestPublishedTCP(t *testing.T) {
	ls := ports(t, "0:80", "0:81", "[::1]:0:82")
	w := newWorld(t, Config{Publish: ls})
	w.serve(t, 80, addressOf(w.ends.Guest4), echo)
	w.serve(t, 82, addressOf(w.ends.Guest6), echo)
	published := ls.Ports()
	if published[0].HostPort == 0 || published[0].HostPort == published[1].HostPort {
		t.Fatalf("%v", published)
	}
	for _, at := range []string{hostPort(published[0]), fmt.Sprintf("[::1]:%d", published[2].HostPort)} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("hello"))
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", at, b, err)
		}
		c.Close()
	}
	// Nobody listens in the guest: the connection is reset.
	c, err := net.Dial("tcp", hostPort(published[1]))
	if err == nil {
		if _, err = c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("port 81 of the guest: %v, want a reset", err)
		}
		c.Close()
	}
}

func TestPublishedTCPPolicy(t *testing.T) {
	ls := ports(t, "0:80", "0:81")
	rules, err := sandbox.ParseNetworkRules("allow:ingress@loopback:tcp:80")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, Config{Publish: ls, Policy: sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "deny", Rules: rules}})
	w.serve(t, 80, addressOf(w.ends.Guest4), echo)
	w.serve(t, 81, addressOf(w.ends.Guest4), echo)
	for i, want := range []bool{true, false} {
		got := false
		c, err := net.Dial("tcp", hostPort(ls.Ports()[i]))
		if err == nil { // the reset may come before the connection is known to be there
			_, _ = c.Write([]byte("x"))
			var n int
			n, err = c.Read(make([]byte, 1))
			got = n == 1
			c.Close()
		}
		if got != want {
			t.Errorf("port %d: %v, %v", i, got, err)
		}
	}
	if d := w.gw.Denied(); len(d) != 1 || d[0].Direction.String() != "ingress" || d[0].GuestPort != 81 {
		t.Errorf("%+v", d)
	}
}

func TestPublishedUDP(t *testing.T) {
	ls := ports(t, "0:53/udp")
	w := newWorld(t, Config{Publish: ls})
	local, _ := full(netip.AddrPortFrom(w.ends.Guest4, 53))
	in, err := gonet.DialUDP(w.stack, &local, nil, header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 65536)
		for {
			n, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = in.WriteTo(append([]byte("re:"), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() { in.Close(); <-served })
	for i := range 3 { // each a peer of its own
		c, err := net.Dial("udp", hostPort(ls.Ports()[0]))
		if err != nil {
			t.Fatal(err)
		}
		msg := bytes.Repeat([]byte{byte('a' + i)}, 1000*(i+1))
		_, _ = c.Write(msg)
		buf := make([]byte, 65536)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != "re:"+string(msg) {
			t.Errorf("%d bytes, %v", n, err)
		}
		c.Close()
	}
	if f := w.gw.Flows(); len(f) != 3 || f[0].Protocol != "udp" || f[0].Direction != "ingress" || f[0].Sent == 0 || f[0].Received != 1000 {
		t.Errorf("%+v", f)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	free := sandbox.Port{GuestPort: 80, Protocol: "tcp"}
	for _, c := range []struct {
		p    sandbox.Port
		want string
	}{
		{sandbox.Port{HostPort: port, GuestPort: 80, Protocol: "tcp"}, fmt.Sprintf("invalid config: 127.0.0.1:%d/tcp of this machine is in use", port)},
		{sandbox.Port{HostPort: 0, GuestPort: 80, Protocol: "udp", HostBind: "198.51.100.77"}, "invalid config: 198.51.100.77 is no address of this machine"},
	} {
		ls, err := Listen([]sandbox.Port{free, c.p})
		if !errors.Is(err, sandbox.InvalidConfig) || err.Error() != c.want || sandbox.HintOf(err) == "" {
			t.Errorf("%v: %v", c.p, err)
			ls.Close()
		}
	}
}

// TestPublishedCloseWhileBusy must leave no socket and no goroutine (newWorld looks).
func TestPublishedCloseWhileBusy(t *testing.T) {
	ls := ports(t, "0:80", "0:53/udp")
	w := newWorld(t, Config{Publish: ls}, gatewayFirst)
	w.serve(t, 80, addressOf(w.ends.Guest4), echo)
	var open []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", hostPort(ls.Ports()[0]))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	u, err := net.Dial("udp", hostPort(ls.Ports()[1]))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = u.Write([]byte("x"))
	if err := w.gw.Close(); err != nil {
		t.Error(err)
	}
	u.Close()
	for _, c := range open {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("still open")
		}
		c.Close()
	}
	if _, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", hostPort(ls.Ports()[0])); err == nil {
		t.Error("the port is still served")
	}
}
