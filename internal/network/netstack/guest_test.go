package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// fakeNet stands for the outside: what is dialled at an address is served by a listener on loopback. What has no
// listener is refused.
type fakeNet struct {
	mu sync.Mutex
	at map[string]string // network + address as dialled → address on loopback
}

func (n *fakeNet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	to := n.at[network+" "+address]
	n.mu.Unlock()
	if to == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (n *fakeNet) listen(t testing.TB, address string, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	n.put("tcp "+address, l.Addr().String())
}

// listenUDP answers each datagram with what reply makes of it.
func (n *fakeNet) listenUDP(t testing.TB, address string, reply func([]byte) []byte) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			k, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := reply(buf[:k]); b != nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	n.put("udp "+address, c.LocalAddr().String())
}

func (n *fakeNet) put(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at == nil {
		n.at = map[string]string{}
	}
	n.at[from] = to
}

// guest is the sentry's side of a link: gVisor's own stack and endpoint, set up as the sentry sets them up.
type guest struct {
	stack *stack.Stack
	link  stack.LinkEndpoint
	file  *os.File
	ends  Ends
}

func newGuest(t testing.TB, file *os.File, ends Ends, mode fdbased.PacketDispatchMode) *guest {
	t.Helper()
	return newGuestOn(t, file, ends, mode, true)
}

// newGuestOn is newGuest for a link that may have no vnet header, and so no frames larger than the MTU.
func newGuestOn(t testing.TB, file *os.File, ends Ends, mode fdbased.PacketDispatchMode, gso bool) *guest {
	t.Helper()
	opt := fdbased.Options{
		FDs: []int{int(file.Fd())}, MTU: MTU, EthernetHeader: true, Address: tcpip.LinkAddress(ends.GuestMAC),
		PacketDispatchMode: mode, ProcessorsPerChannel: 1,
	}
	if gso {
		opt.GSOMaxSize, opt.RXChecksumOffload, opt.TXChecksumOffload = 65536, true, true
	}
	ep, err := fdbased.New(&opt)
	if err != nil {
		t.Fatal(err)
	}
	s := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}), arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	wait := tcpip.TCPTimeWaitTimeoutOption(10 * time.Millisecond)
	s.SetTransportProtocolOption(tcp.ProtocolNumber, &wait)
	if err := s.CreateNIC(nicID, ep); err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct {
		proto tcpip.NetworkProtocolNumber
		own   netip.Addr
		bits  int
		gw    netip.Addr
	}{{header.IPv4ProtocolNumber, ends.Guest4, PrefixBits4, ends.Gateway4}, {header.IPv6ProtocolNumber, ends.Guest6, PrefixBits6, ends.Gateway6}} {
		if err := s.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: a.proto, AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(a.own), PrefixLen: a.bits}}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: subnet(ends.Gateway4, PrefixBits4), NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: addressOf(ends.Gateway4), NIC: nicID},
		{Destination: subnet(ends.Gateway6, PrefixBits6), NIC: nicID},
		{Destination: header.IPv6EmptySubnet, Gateway: addressOf(ends.Gateway6), NIC: nicID},
	})
	return &guest{s, ep, file, ends}
}

func subnet(a netip.Addr, bits int) tcpip.Subnet {
	return tcpip.AddressWithPrefix{Address: addressOf(a), PrefixLen: bits}.Subnet()
}

func (g *guest) close() {
	g.link.Attach(nil) // Destroy waits for the reader under a lock that the reader may want
	g.stack.Destroy()
	g.file.Close()
}

func full(to netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	proto := header.IPv4ProtocolNumber
	if to.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	return tcpip.FullAddress{NIC: nicID, Addr: addressOf(to.Addr()), Port: to.Port()}, proto
}

func (g *guest) dial(to string) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	a, proto := full(netip.MustParseAddrPort(to))
	return gonet.DialContextTCP(ctx, g.stack, a, proto)
}

func (g *guest) mustDial(t testing.TB, to string) *gonet.TCPConn {
	t.Helper()
	c, err := g.dial(to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (g *guest) dialUDP(t testing.TB, to string) *gonet.UDPConn {
	t.Helper()
	a, proto := full(netip.MustParseAddrPort(to))
	c, err := dialUDP(g, a, proto)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialUDP(g *guest, a tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) (*gonet.UDPConn, error) {
	return gonet.DialUDP(g.stack, nil, &a, proto)
}

// world is a guest, a gateway between and the fake outside. At the end of the test it must leave no goroutine or file.
type world struct {
	*guest
	gw  *Gateway
	net *fakeNet
}

func newWorld(t testing.TB, cfg Config, closedFirst ...bool) *world {
	t.Helper()
	files := countFiles(t)
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if err := goleak.Find(ignore); err != nil {
			t.Error(err)
		}
		if now := countFiles(t); now > files {
			t.Errorf("%d files are open, %d were", now, files)
		}
	})
	w := &world{net: &fakeNet{}}
	if cfg.Dialer == nil {
		cfg.Dialer = w.net
	}
	if cfg.Policy.Rules == nil && cfg.Policy.DefaultEgress == "" {
		cfg.Policy = sandbox.PublicPolicy()
	}
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	if pair.Buffers < WantBuffers {
		t.Logf("buffers of %d bytes only", pair.Buffers)
	}
	cfg.Link = pair.Gateway
	cfg.Ends, _ = Addresses(1)
	if w.gw, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	mode := fdbased.RecvMMsg // the sentry's; it spins when its far end is closed first, so tests about that use the other
	if len(closedFirst) > 0 {
		mode = fdbased.Readv
	}
	w.guest = newGuest(t, pair.Sentry, cfg.Ends, mode)
	t.Cleanup(func() {
		w.guest.close()
		if err := w.gw.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// gatewayFirst, given to newWorld, is for tests that close the gateway while the guest lives.
const gatewayFirst = true

func countFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list {
		// The runtime's own poller stays once it was needed.
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

func mustRefuse(t *testing.T, g *guest, to string) {
	t.Helper()
	c, err := g.dial(to)
	if err == nil {
		c.Close()
		t.Errorf("%s was reached", to)
		return
	}
	if !strings.Contains(err.Error(), "refused") { // and not timed out
		t.Errorf("%s: %v, want refused", to, err)
	}
}

func ExampleAddresses() {
	e, _ := Addresses(1)
	fmt.Println(e.Guest4, e.Gateway4, e.Guest6, e.Gateway6, e.GuestMAC, e.GatewayMAC)
	e, _ = Addresses(MaxSlot)
	fmt.Println(e.Guest4, e.Gateway4, e.Guest6, e.GuestMAC)
	// Output:
	// 172.16.0.6 172.16.0.5 fd42:6d73:62:1::2 fd42:6d73:62:1::1 02:6d:73:00:01:02 02:6d:73:00:01:01
	// 172.19.255.254 172.19.255.253 fd42:6d73:62:ffff::2 02:6d:73:ff:ff:02
}
