package netstack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// destinations are places of the matrix, by the words of the contract and not by those of package policy.
var destinations = []struct {
	addr, group string
	unserved    bool // nobody can be there
}{
	{"93.184.216.34", "public", false}, {"2606:2800:220:1::34", "public", false}, {"::ffff:93.184.216.34", "public", false},
	{"10.0.0.1", "private", false}, {"172.20.0.1", "private", false}, {"192.168.1.1", "private", false}, {"100.64.0.1", "private", false},
	{"fd00::1", "private", false}, {"::ffff:10.0.0.1", "private", false}, {"64:ff9b::a00:1", "private", false}, {"2002:a00:1::1", "private", false},
	{"169.254.7.7", "link", false},
	{"169.254.169.254", "metadata", false}, {"fd00:ec2::254", "metadata", false}, {"::ffff:169.254.169.254", "metadata", false},
	{"127.0.0.2", "loopback", false}, {"::1", "loopback", false},
	{"172.16.0.5", "host", false}, {"fd42:6d73:62:1::1", "host", false},
	{"255.255.255.255", "reserved", true}, {"0.0.0.1", "reserved", true}, {"240.0.0.1", "reserved", true},
	{"224.0.0.1", "multicast", true}, {"ff02::1", "multicast", true},
}

// presets says which groups each opens.
var presets = []struct {
	flags   sandbox.NetworkFlags
	open    string
	ingress bool
}{
	{sandbox.NetworkFlags{Profiles: []string{"none"}}, "", false},
	{sandbox.NetworkFlags{Profiles: []string{"public"}}, "dns public", true},
	{sandbox.NetworkFlags{Profiles: []string{"private"}}, "dns private", true},
	{sandbox.NetworkFlags{Profiles: []string{"host"}}, "dns host", true},
	{sandbox.NetworkFlags{Profiles: []string{"public,private,host"}}, "dns public private host", true},
	{sandbox.NetworkFlags{Profiles: []string{"all"}}, "dns public private host link metadata multicast", true},
	{sandbox.NetworkFlags{NoNet: true, Rules: []string{"allow@meta"}}, "metadata", false},
	{sandbox.NetworkFlags{NoNet: true, Rules: []string{"allow@loopback"}}, "loopback", false},
}

func TestMatrix(t *testing.T) {
	inNamespace(t, testMatrix)
}

// matrixNet is the servers of the matrix: on every address, TCP and UDP, telling at which they were met.
type matrixNet struct {
	mu  sync.Mutex
	met map[string]int // network and address
}

func (m *matrixNet) serve(t *testing.T, ports ...string) {
	m.met = map[string]int{}
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	for _, port := range ports {
		for _, d := range destinations {
			a := netip.MustParseAddr(d.addr).Unmap()
			if d.unserved || d.group == "host" {
				continue
			}
			m.serveAt(t, &all, net.JoinHostPort(a.String(), port))
		}
		m.serveAt(t, &all, net.JoinHostPort("127.0.0.1", port)) // what "host" leads to
	}
}

func (m *matrixNet) serveAt(t *testing.T, all *sync.WaitGroup, at string) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		if strings.Contains(err.Error(), "in use") { // a mapped address is its IPv4 address
			return
		}
		t.Fatal(err)
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.meet("tcp " + at)
			_, _ = c.Write([]byte(at))
			c.Close()
		}
	})
	p, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	all.Go(func() {
		b := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			m.meet("udp " + at)
			_, _ = p.WriteTo([]byte(at), from)
		}
	})
	t.Cleanup(func() { l.Close(); p.Close() })
}

func (m *matrixNet) meet(what string) {
	m.mu.Lock()
	m.met[what]++
	m.mu.Unlock()
}

func (m *matrixNet) times(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.met[what]
}

func testMatrix(t *testing.T) {
	for _, d := range destinations {
		if !d.unserved && d.group != "host" && d.group != "loopback" {
			addAddress(t, netip.MustParseAddr(d.addr).Unmap())
		}
	}
	pings := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0) == nil
	ports := []string{"80", "443", "53"}
	var servers matrixNet
	servers.serve(t, ports...)
	for _, d := range destinations {
		if a := netip.MustParseAddr(d.addr).Unmap(); !d.unserved && d.group != "host" {
			for reached := false; !reached; { // see testInNamespace
				if c, err := net.Dial("tcp", netip.AddrPortFrom(a, 80).String()); err == nil {
					c.Close()
					reached = true
				}
			}
		}
	}
	cases := 0
	for _, p := range presets {
		np, err := p.flags.Policy()
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, Config{Dialer: &net.Dialer{}, Ping: openPing, Policy: *np, Publish: publishFor(t), DNS: DNSConfig{Nameservers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}}})
		open := func(group string) bool { return strings.Contains(" "+p.open+" ", " "+group+" ") }
		for _, d := range destinations {
			for _, port := range append(ports, "853", "5353", "5355", "137") {
				for _, proto := range []string{"tcp", "udp"} {
					nameService := port == "853" || port == "5355" || port == "137" || port == "5353" && proto == "udp"
					isDNS := d.group == "host" && port == "53" && (open("dns") || open("host"))
					want := open(d.group) && !nameService && !d.unserved && port != "5353"
					cases++
					name := fmt.Sprintf("%s: %s to %s of group %s", p.open, proto, net.JoinHostPort(d.addr, port), d.group)
					if isDNS {
						w.mustResolve(t, name, proto, d.addr)
						continue
					}
					w.mustBe(t, &servers, name, proto, d.addr, port, want)
				}
			}
		}
		cases += w.mustLetIn(t, p.open, p.ingress)
		if pings {
			cases += pingMatrix(t, *np, open)
		}
	}
	t.Logf("%d cases", cases)
}

// mustBe tries a destination and checks that it was reached, or that the guest was refused and nobody was met.
func (w *world) mustBe(t *testing.T, servers *matrixNet, name, proto, addr, port string, want bool) {
	t.Helper()
	server := netip.MustParseAddr(addr).Unmap()
	switch {
	case server == w.ends.Gateway4, server == w.ends.Gateway6:
		server = netip.MustParseAddr("127.0.0.1")
		if strings.Contains(addr, ":") {
			server = netip.IPv6Loopback()
		}
	}
	at := net.JoinHostPort(server.String(), port)
	before := servers.times(proto + " " + at)
	got, err := w.try(proto, net.JoinHostPort(addr, port))
	switch {
	case want && got != at:
		t.Errorf("%s: %q, %v; want it reached", name, got, err)
	case !want && (err == nil || !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "broadcast")):
		t.Errorf("%s: %q, %v; want it refused", name, got, err)
	case !want && servers.times(proto+" "+at) != before:
		t.Errorf("%s: the server was met", name)
	}
}

// try returns what the server at a destination says.
func (w *world) try(proto, to string) (string, error) {
	b := make([]byte, 100)
	if proto == "tcp" {
		c, err := w.dial(to)
		if err != nil {
			return "", err
		}
		defer c.Close()
		n, err := io.ReadFull(c, b)
		if n > 0 {
			err = nil
		}
		return string(b[:n]), err
	}
	a, pr := full(netip.MustParseAddrPort(to))
	c, err := dialUDP(w.guest, a, pr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	for { // gonet's reader does not wake for a refusal: look again
		if _, err := c.Write([]byte("x")); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		if n, err := c.Read(b); err == nil || !isTimeout(err) {
			return string(b[:n]), err
		}
	}
}

// mustResolve asks the resolver for its own name.
func (w *world) mustResolve(t *testing.T, name, proto, addr string) {
	t.Helper()
	query := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "\x04host\x0cmicrosandbox\x08internal\x00\x00\x01\x00\x01"...)
	a, pr := full(netip.AddrPortFrom(netip.MustParseAddr(addr), 53))
	var c net.Conn
	var err error
	if proto == "udp" {
		c, err = dialUDP(w.guest, a, pr)
	} else {
		query = append([]byte{0, byte(len(query))}, query...)
		c, err = w.dial(net.JoinHostPort(addr, "53"))
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer c.Close()
	_, _ = c.Write(query)
	b := make([]byte, 512)
	if n, err := c.Read(b); err != nil || n < 2 {
		t.Errorf("%s: no answer, %v", name, err)
	}
}

// publishFor publishes a TCP and a UDP port on each kind of address.
func publishFor(t *testing.T) *Listeners {
	return ports(t, "0:8080", "[::1]:0:8080", "10.0.0.1:0:8080", "0:8080/udp")
}

// mustLetIn tries the published ports.
func (w *world) mustLetIn(t *testing.T, preset string, want bool) int {
	t.Helper()
	serve := func(c net.Conn) { _, _ = c.Write([]byte("in")) }
	w.serve(t, 8080, addressOf(w.ends.Guest4), serve)
	w.serve(t, 8080, addressOf(w.ends.Guest6), serve)
	published := w.gw.cfg.Publish.Ports()
	for _, p := range published {
		if p.Protocol == sandbox.PortUDP {
			continue // TestPublishedUDP
		}
		got := ""
		c, err := net.Dial("tcp", net.JoinHostPort(p.Bind(), fmt.Sprint(p.HostPort)))
		if err == nil {
			b, _ := io.ReadAll(c)
			got = string(b)
			c.Close()
		}
		if (got == "in") != want {
			t.Errorf("%s: into %s: %q, %v; want it let in: %v", preset, p, got, err, want)
		}
	}
	return len(published) - 1
}

// pingMatrix pings every destination.
func pingMatrix(t *testing.T, np sandbox.NetworkPolicy, open func(string) bool) (cases int) {
	e, _ := Addresses(1)
	_, pair := rawWorld(t, Config{Dialer: &net.Dialer{}, Ping: openPing, Policy: np})
	for _, d := range destinations {
		a := netip.MustParseAddr(d.addr)
		if d.unserved || a.Is4In6() || d.group == "loopback" || d.group == "host" { // the gateway answers for itself
			continue
		}
		cases++
		msg, reply, refusal, at := frame4(e.Guest4, a, 1, ping4("hi")), byte(header.ICMPv4EchoReply), byte(header.ICMPv4DstUnreachable), 20
		if a.Is6() {
			msg, reply, refusal, at = frame6(e.Guest6, a, 58, ping6(e.Guest6, a)), byte(header.ICMPv6EchoReply), byte(header.ICMPv6DstUnreachable), 40
		}
		want := refusal
		if open(d.group) {
			want = reply
		}
		got := exchange(t, pair, msg, 10*time.Second)
		if len(got) < ethHdrLen+at+8 || got[ethHdrLen+at] != want {
			t.Errorf("ping of %s: %x, want type %d", d.addr, got, want)
		}
	}
	return cases
}
