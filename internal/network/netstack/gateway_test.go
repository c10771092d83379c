package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// echo hides what its ends are, or io.Copy would splice, by pipes that outlive the test.
func echo(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

func TestTCPEcho(t *testing.T) {
	w := newWorld(t, Config{})
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		w.net.listen(t, to, echo)
		c := w.mustDial(t, to)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", to, b, err)
		}
		c.Close()
	}
}

func TestRefusedAtOnce(t *testing.T) {
	w := newWorld(t, Config{})
	for _, to := range []string{
		"169.254.169.254:80", "127.0.0.1:22", "10.0.0.1:80", "10.255.255.255:443", "192.168.1.1:80", "172.31.0.1:80", "100.64.0.1:80", "0.0.0.1:80",
		"172.16.0.5:22", "[fd42:6d73:62:1::1]:22", "[fd00::8]:80", "[fd00:ec2::254]:80",
		"[64:ff9b::a9fe:a9fe]:80", "[64:ff9b::7f00:1]:80", "[2002:a00:1::]:80", "[::ffff:10.0.0.1]:80", "[::ffff:169.254.169.254]:80",
		"198.51.100.9:81", // allowed, but nobody there
	} {
		mustRefuse(t, w.guest, to)
	}
	if d := w.gw.Denied(); len(d) != 15 || d[0].String() != "denied by policy: 169.254.169.254:80" || d[0].Rule != -1 || d[8].String() != "denied by policy: host.microsandbox.internal:22" {
		t.Errorf("%d denied: %v", len(d), d)
	}
	if s := w.gw.Stats(); s.Denied < 17 {
		t.Errorf("%+v", s)
	}
}

func TestUDP(t *testing.T) {
	w := newWorld(t, Config{MaxFlows: 4})
	for _, to := range []string{"198.51.100.7:4000", "[2001:db8::7]:4000"} {
		w.net.listenUDP(t, to, func(b []byte) []byte { return append([]byte("re:"), b...) })
		for i := range 6 { // more than MaxFlows: the oldest makes room
			c := w.dialUDP(t, to)
			for _, n := range []int{1, 1400, 9000} {
				msg := bytes.Repeat([]byte{byte('a' + i)}, n)
				if _, err := c.Write(msg); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 65536)
				_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
				k, err := c.Read(buf)
				if err != nil || string(buf[:k]) != "re:"+string(msg) {
					t.Fatalf("%s, %d bytes: got %d, %v", to, n, k, err)
				}
			}
		}
	}
}

func TestDNSThroughTheGateway(t *testing.T) {
	w := newWorld(t, Config{DNS: DNSConfig{Nameservers: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.53:53")}}})
	w.net.listenUDP(t, "198.51.100.53:53", func(b []byte) []byte {
		var q dns.Msg
		if q.Unpack(b) != nil {
			return nil
		}
		m := new(dns.Msg).SetReply(&q)
		addr := "198.51.100.7"
		if strings.HasPrefix(q.Question[0].Name, "rebind.") {
			addr = "10.0.0.1"
		}
		rr, _ := dns.NewRR(q.Question[0].Name + " 60 A " + addr)
		m.Answer = []dns.RR{rr}
		out, _ := m.Pack()
		return out
	})
	query := func(network, gw, name string) *dns.Msg {
		t.Helper()
		var conn net.Conn
		if network == "udp" {
			conn = w.dialUDP(t, gw)
		} else {
			conn = w.mustDial(t, gw)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		co := &dns.Conn{Conn: conn}
		m, _, err := (&dns.Client{Net: network}).ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), co)
		if err != nil {
			t.Fatalf("%s at %s: %v", name, gw, err)
		}
		return m
	}
	// miekg's client goes by the type of the connection: over gonet's UDP it would frame as TCP.
	for _, gw := range []string{"172.16.0.5:53", "[fd42:6d73:62:1::1]:53"} {
		for name, want := range map[string]string{"www.example.com.": "198.51.100.7", "host.microsandbox.internal.": "172.16.0.5"} {
			m := query("tcp", gw, name)
			if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
				t.Errorf("%s at %s: %v", name, gw, m)
			}
		}
		if m := query("tcp", gw, "rebind.example.com."); m.Rcode != dns.RcodeNameError {
			t.Errorf("rebind: %v", m)
		}
		c := w.dialUDP(t, gw)
		b, _ := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA).Pack()
		_, _ = c.Write(b)
		buf := make([]byte, 4096)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(buf)
		var m dns.Msg
		if err != nil || m.Unpack(buf[:n]) != nil || len(m.Answer) != 1 {
			t.Errorf("udp at %s: %v, %v", gw, err, &m)
		}
	}
	if got := w.gw.names.Names(netip.MustParseAddr("198.51.100.7")); len(got) != 1 || got[0] != "www.example.com" {
		t.Errorf("names: %v", got)
	}
}

func TestDenyAllRefusesDNSToo(t *testing.T) {
	w := newWorld(t, Config{Policy: sandbox.NetworkPolicy{DefaultEgress: "deny"}})
	mustRefuse(t, w.guest, "172.16.0.5:53")
	mustRefuse(t, w.guest, "198.51.100.7:80")
}

func TestHostGroupReachesTheHostsLoopback(t *testing.T) {
	w := newWorld(t, Config{Policy: sandbox.NetworkPolicy{Rules: []sandbox.NetworkRule{{Destination: sandbox.Destination{Group: "host"}, Action: "allow"}}}})
	w.net.listen(t, "127.0.0.1:8080", echo)
	w.net.listen(t, "[::1]:8080", echo)
	w.mustDial(t, "172.16.0.5:8080").Close()
	w.mustDial(t, "[fd42:6d73:62:1::1]:8080").Close()
	mustRefuse(t, w.guest, "127.0.0.1:8080")
}

func TestHalfClose(t *testing.T) {
	w := newWorld(t, Config{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		b, _ := io.ReadAll(c) // until the guest's FIN
		_, _ = c.Write([]byte("got " + string(b)))
		time.Sleep(20 * time.Millisecond)
		_, _ = c.Write([]byte(", bye"))
	})
	w.net.listen(t, "198.51.100.7:81", func(c net.Conn) {
		_, _ = c.Write([]byte("first"))
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		if string(b) != "after your FIN" {
			t.Errorf("server got %q", b)
		}
	})
	c := w.mustDial(t, "198.51.100.7:80")
	_, _ = c.Write([]byte("it"))
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "got it, bye" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	c = w.mustDial(t, "198.51.100.7:81")
	if b, err := io.ReadAll(c); err != nil || string(b) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := c.Write([]byte("after your FIN")); err != nil {
		t.Error(err)
	}
	c.Close()
}

func TestResetIsPassedOn(t *testing.T) {
	w := newWorld(t, Config{})
	got := make(chan error, 1)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	w.net.listen(t, "198.51.100.7:81", func(c net.Conn) {
		_, err := io.ReadAll(c)
		got <- err
	})
	c := w.mustDial(t, "198.51.100.7:80")
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("guest: %v, want reset", err)
	}
	c.Close()
	ep := w.mustDial(t, "198.51.100.7:81")
	for _, e := range w.guest.stack.RegisteredEndpoints() {
		e.Abort()
	}
	if err := <-got; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("host: %v, want reset", err)
	}
	ep.Close()
}

func TestManyConnections(t *testing.T) {
	w := newWorld(t, Config{MaxConns: 256})
	w.net.listen(t, "198.51.100.7:80", echo)
	once := func() error {
		c, err := w.dial("198.51.100.7:80")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	start := time.Now()
	for i := range 300 {
		if err := once(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	t.Logf("300 in turn: %v each", time.Since(start)/300)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if err := once(); err != nil {
				t.Errorf("parallel connection %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

func TestConnectionCap(t *testing.T) {
	var log told
	w := newWorld(t, Config{MaxConns: 2, OnEvent: log.event})
	w.net.listen(t, "198.51.100.7:80", echo)
	a, b := w.mustDial(t, "198.51.100.7:80"), w.mustDial(t, "198.51.100.7:80")
	mustRefuse(t, w.guest, "198.51.100.7:80")
	mustRefuse(t, w.guest, "198.51.100.7:80")
	log.mu.Lock()
	if len(log.events) != 1 || !strings.Contains(log.events[0], "no room for more than 2 connections") || w.gw.Stats().Refused != 2 {
		t.Errorf("%q, %+v", log.events, w.gw.Stats())
	}
	log.mu.Unlock()
	a.Close()
	for w.gw.Stats().Open > 1 {
		time.Sleep(time.Millisecond)
	}
	w.mustDial(t, "198.51.100.7:80").Close()
	b.Close()
}

// TestBulk sends 64 MiB each way at once and compares hashes.
func TestBulk(t *testing.T) {
	const size = 64 << 20
	w := newWorld(t, Config{})
	src := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	want := sha256.New()
	_, _ = io.Copy(want, src())
	sum := make(chan []byte, 1)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, src(), make([]byte, 256<<10))
			_ = c.(*net.TCPConn).CloseWrite()
		})
		h := sha256.New()
		_, _ = io.Copy(h, c)
		both.Wait()
		sum <- h.Sum(nil)
	})
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	start := time.Now()
	var up sync.WaitGroup
	up.Go(func() {
		if _, err := io.CopyBuffer(struct{ io.Writer }{c}, src(), make([]byte, 256<<10)); err != nil {
			t.Error(err)
		}
		_ = c.CloseWrite()
	})
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{c}, make([]byte, 256<<10))
	up.Wait()
	if err != nil || n != size || !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Errorf("down: %d bytes, %v", n, err)
	}
	if !bytes.Equal(<-sum, want.Sum(nil)) {
		t.Error("up: other bytes")
	}
	// Frames of 64 KiB pass in both directions; cut to the MTU it were 46,000 and a tenth of the speed. gVisor calls host GSO on
	// a unix socket untypical, so look again with every new version of it.
	nic := w.gw.stack.NICInfo()[nicID].Stats
	if rx, tx := nic.Rx.Packets.Value(), nic.Tx.Packets.Value(); rx > 25000 || tx > 25000 {
		t.Errorf("%d frames from the guest, %d to it", rx, tx)
	}
	t.Logf("%.0f MB/s each way at once, %+v", size/1e6/time.Since(start).Seconds(), w.gw.Stats())
}

// TestRestore puts a fresh gateway on a fresh pair behind a guest that has connections of before: they are reset, and new
// ones work. The guest's stack cannot be given another file, so the test carries the frames to one pair, then to another.
func TestRestore(t *testing.T) {
	outside := &fakeNet{}
	outside.listen(t, "198.51.100.7:80", echo)
	outside.listenUDP(t, "198.51.100.7:81", func(b []byte) []byte { return b })
	var carriers sync.WaitGroup
	defer carriers.Wait()
	carry := func(from, to *os.File) {
		carriers.Go(func() {
			buf := make([]byte, vnetHdrLen+maxFrame)
			for {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
	start := func() (*Gateway, *Pair) {
		pair, err := NewPair()
		if err != nil {
			t.Fatal(err)
		}
		gw, err := New(Config{Link: pair.Gateway, Policy: sandbox.PublicPolicy(), Dialer: outside})
		if err != nil {
			t.Fatal(err)
		}
		return gw, pair
	}
	guestPair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer guestPair.Close()
	ends, _ := Addresses(1)
	g := newGuest(t, guestPair.Sentry, ends, fdbased.RecvMMsg)
	defer g.close()
	gw, pair := start()
	carry(guestPair.Gateway, pair.Sentry)
	carry(pair.Sentry, guestPair.Gateway)

	exchange := func(conn net.Conn) error {
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := conn.Write([]byte("x")); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	c, u := g.mustDial(t, "198.51.100.7:80"), g.dialUDP(t, "198.51.100.7:81")
	defer c.Close()
	for _, conn := range []net.Conn{c, u} {
		if err := exchange(conn); err != nil {
			t.Fatal(err)
		}
	}
	_ = guestPair.Gateway.SetReadDeadline(time.Unix(1, 0)) // from here on nothing is carried
	pair.Close()
	gw.Close()
	carriers.Wait()
	_ = guestPair.Gateway.SetReadDeadline(time.Time{})
	gw, pair = start()
	defer gw.Close()
	defer pair.Close()
	defer guestPair.Gateway.SetReadDeadline(time.Unix(1, 0))
	carry(guestPair.Gateway, pair.Sentry)
	carry(pair.Sentry, guestPair.Gateway)

	if err := exchange(c); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("old connection: %v, want reset", err)
	}
	if err := exchange(u); err != nil {
		t.Errorf("UDP: %v", err)
	}
	again := g.mustDial(t, "198.51.100.7:80")
	defer again.Close()
	if err := exchange(again); err != nil {
		t.Errorf("new connection: %v", err)
	}
}

// TestDomainRules allows a name only: its address is reached after it was resolved here, by whatever server was asked.
// answering is a nameserver that has one address for every name.
func answering(address string) func([]byte) []byte {
	return func(b []byte) []byte {
		var q dns.Msg
		_ = q.Unpack(b)
		m := new(dns.Msg).SetReply(&q)
		rr, _ := dns.NewRR(q.Question[0].Name + " 60 A " + address)
		m.Answer = []dns.RR{rr}
		out, _ := m.Pack()
		return out
	}
}

// ask asks a nameserver for the address of a name and returns its rcode.
func ask(t *testing.T, w *world, server, name string) int {
	t.Helper()
	c := w.dialUDP(t, server)
	b, _ := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	_, _ = c.Write(b)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	var m dns.Msg
	if err != nil || m.Unpack(buf[:n]) != nil {
		t.Fatalf("%s at %s: %v", name, server, err)
	}
	return m.Rcode
}

func TestDomainRules(t *testing.T) {
	rules, err := sandbox.ParseNetworkRules("allow@www.example.com:tcp,allow@198.51.100.99:udp:53")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, Config{Policy: sandbox.NetworkPolicy{Rules: rules}, DNS: DNSConfig{Nameservers: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.53:53")}}})
	w.net.listen(t, "198.51.100.7:80", echo)
	w.net.listenUDP(t, "198.51.100.53:53", answering("198.51.100.7"))
	mustRefuse(t, w.guest, "198.51.100.7:80")
	for _, server := range []string{"172.16.0.5:53", "198.51.100.99:53"} {
		if rc := ask(t, w, server, "secret.tunnel.org."); rc != dns.RcodeNameError {
			t.Errorf("%s: a name that no rule allows has rcode %d", server, rc)
		}
	}
	if rc := ask(t, w, "198.51.100.99:53", "www.example.com."); rc != dns.RcodeSuccess {
		t.Errorf("the allowed name has rcode %d", rc)
	}
	w.mustDial(t, "198.51.100.7:80").Close()
	mustRefuse(t, w.guest, "198.51.100.8:80")
	if d := w.gw.Denied(); len(d) != 3 || d[1].String() != "denied by policy: secret.tunnel.org" || d[1].Count != 2 {
		t.Errorf("%v", d)
	}
}

var errBroken = errors.New("the dialer is broken")

type brokenDialer struct{}

func (brokenDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errBroken
}

// TestTroubles has what is not the policy's doing fail twice: it is told of once.
func TestTroubles(t *testing.T) {
	var log told
	w := newWorld(t, Config{OnEvent: log.event, DNS: DNSConfig{Nameservers: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.53:53")}}})
	for _, name := range []string{"a.example.", "b.example."} {
		if rc := ask(t, w, "172.16.0.5:53", name); rc != dns.RcodeServerFailure {
			t.Errorf("%s: %d", name, rc)
		}
	}
	log.mu.Lock()
	if len(log.events) != 1 || !strings.HasPrefix(log.events[0], "no nameserver answers: ") {
		t.Errorf("%q", log.events)
	}
	log.mu.Unlock()

	log.events = nil
	w = newWorld(t, Config{OnEvent: log.event, Dialer: brokenDialer{}, DialerError: errBroken})
	mustRefuse(t, w.guest, "198.51.100.7:80")
	mustRefuse(t, w.guest, "198.51.100.8:80")
	log.mu.Lock()
	if len(log.events) != 1 || log.events[0] != errBroken.Error() {
		t.Errorf("%q", log.events)
	}
	log.mu.Unlock()

	tried, event := make(chan bool, 2), make(chan string, 2)
	e, _ := Addresses(1)
	_, pair := rawWorld(t, Config{OnEvent: func(s string) { event <- s }, Ping: func(netip.Addr) (net.Conn, error) {
		tried <- true
		return nil, os.NewSyscallError("socket", syscall.EACCES)
	}})
	for _, to := range []string{"198.51.100.7", "198.51.100.8"} {
		if _, err := pair.Sentry.Write(frame4(e.Guest4, netip.MustParseAddr(to), 1, ping4("hi"))); err != nil {
			t.Fatal(err)
		}
		<-tried
	}
	if s := <-event; !strings.Contains(s, "net.ipv4.ping_group_range") {
		t.Errorf("%q", s)
	}
	if len(event) != 0 {
		t.Errorf("and %q", <-event)
	}
}

func TestPing(t *testing.T) {
	var answered sync.WaitGroup
	t.Cleanup(answered.Wait)
	e, _ := Addresses(1)
	pipe := func(to netip.Addr) (net.Conn, error) {
		ours, theirs := net.Pipe()
		answered.Go(func() {
			defer theirs.Close()
			buf := make([]byte, 2000)
			for {
				n, err := theirs.Read(buf)
				if err != nil {
					return
				}
				buf[0], buf[4], buf[5] = map[bool]byte{true: 0, false: 129}[to.Is4()], 0xaa, 0xaa // an identifier of its own
				_, _ = theirs.Write(buf[:n])
			}
		})
		return ours, nil
	}
	for _, c := range []struct {
		to    string
		msg   func(to netip.Addr) []byte
		reply int
	}{
		{"198.51.100.7", func(to netip.Addr) []byte { return frame4(e.Guest4, to, 1, ping4("hi")) }, 20},
		{"2001:db8::7", func(to netip.Addr) []byte { return frame6(e.Guest6, to, 58, ping6(e.Guest6, to)) }, 40},
	} {
		_, pair := rawWorld(t, Config{Ping: pipe})
		to := netip.MustParseAddr(c.to)
		got := exchange(t, pair, c.msg(to), 2*time.Second)
		if len(got) < ethHdrLen+c.reply+8 {
			t.Errorf("%s: %x", c.to, got)
			continue
		}
		icmp := got[ethHdrLen+c.reply:]
		if icmp[0] != 0 && icmp[0] != 129 || icmp[4] != 0 || icmp[5] != 0 {
			t.Errorf("%s: %x", c.to, icmp)
		}
	}
}

func TestPeerVanishes(t *testing.T) {
	w := newWorld(t, Config{})
	ended := make(chan struct{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		close(ended)
	})
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	w.guest.link.Attach(nil)
	w.guest.file.Close()
	for what, ch := range map[string]<-chan struct{}{"gateway": w.gw.Done(), "host's side": ended} {
		select {
		case <-ch:
		case <-time.After(5 * time.Second):
			t.Errorf("the %s goes on", what)
		}
	}
}

func TestCloseWhileBusy(t *testing.T) {
	w := newWorld(t, Config{}, gatewayFirst)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = io.Copy(c, rand.NewChaCha8([32]byte{})) })
	w.net.listen(t, "198.51.100.7:81", echo)
	w.net.listenUDP(t, "198.51.100.7:82", func(b []byte) []byte { return b })
	reading, idle := w.mustDial(t, "198.51.100.7:80"), w.mustDial(t, "198.51.100.7:81")
	defer reading.Close()
	defer idle.Close()
	_, _ = w.dialUDP(t, "198.51.100.7:82").Write([]byte("x"))
	_, _ = io.ReadFull(reading, make([]byte, 1<<20))
	if err := w.gw.Close(); err != nil { // it returns, though nobody ended anything
		t.Error(err)
	}
	if err := w.gw.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestGuestThatNeverReads must not keep Close waiting: the gateway waits for room on the link.
func TestGuestThatNeverReads(t *testing.T) {
	files := &fakeNet{}
	files.listenUDP(t, "198.51.100.7:80", func(b []byte) []byte { return bytes.Repeat(b, 60000) })
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	gw, err := New(Config{Link: pair.Gateway, Policy: sandbox.PublicPolicy(), Dialer: files})
	if err != nil {
		t.Fatal(err)
	}
	e, _ := Addresses(1)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = pair.Sentry.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for ctx.Err() == nil {
		if _, err := pair.Sentry.Write(udpDatagram(e.Guest4, netip.MustParseAddr("198.51.100.7"), 1000, 80, "x")); err != nil {
			break
		}
	}
	done := make(chan struct{})
	go func() { gw.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Close waits")
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		pair, err := NewPair()
		if err != nil {
			b.Fatal(err)
		}
		gw, err := New(Config{Link: pair.Gateway, Policy: sandbox.PublicPolicy()})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		gw.Close()
		pair.Close()
		b.StartTimer()
	}
}

func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, Config{})
	w.net.listen(b, "198.51.100.7:80", echo)
	for b.Loop() {
		c := w.mustDial(b, "198.51.100.7:80")
		_, _ = c.Write([]byte("x"))
		_, _ = io.ReadFull(c, make([]byte, 1))
		c.Close()
	}
}

func BenchmarkThroughput(b *testing.B) {
	const chunk = 256 << 10
	for _, flows := range []int{1, 8} {
		for _, up := range []bool{false, true} {
			name := map[bool]string{false: "down", true: "up"}[up] + "/" + string(rune('0'+flows))
			b.Run(name, func(b *testing.B) {
				w := newWorld(b, Config{})
				w.net.listen(b, "198.51.100.7:80", func(c net.Conn) {
					if up {
						_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, chunk))
						_, _ = c.Write([]byte("."))
						return
					}
					for buf := make([]byte, chunk); ; {
						if _, err := c.Write(buf); err != nil {
							return
						}
					}
				})
				b.SetBytes(chunk * int64(flows))
				var all sync.WaitGroup
				b.ResetTimer()
				for range flows {
					all.Go(func() {
						c := w.mustDial(b, "198.51.100.7:80")
						defer c.Close()
						buf := make([]byte, chunk)
						for range b.N {
							if up {
								_, _ = c.Write(buf)
							} else {
								_, _ = io.ReadFull(c, buf)
							}
						}
						if up {
							_ = c.CloseWrite()
							_, _ = io.ReadAll(c)
						}
					})
				}
				all.Wait()
				b.StopTimer()
			})
		}
	}
}
