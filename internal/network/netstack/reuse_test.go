package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TestReusedPort has a guest end connections and take the port again at once, for the same server.
func TestReusedPort(t *testing.T) {
	w := newWorld(t, Config{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) })    // the guest ends it
	w.net.listen(t, "198.51.100.7:81", func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)); _, _ = c.Write([]byte{0}) }) // the server does
	w.net.listen(t, "198.51.100.7:82", func(c net.Conn) { _, _ = c.Read([]byte{0}) })                                          // with a reset, for the byte is not read
	ends := map[string]func(ep tcpip.Endpoint){"80": tcpip.Endpoint.Abort, "81": tcpip.Endpoint.Close, "82": tcpip.Endpoint.Abort}
	for port, end := range ends {
		to, proto := full(netip.MustParseAddrPort("198.51.100.7:" + port))
		from, _ := full(netip.AddrPortFrom(w.guest.ends.Guest4, 5000))
		for i := range 100 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			c, err := gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, proto)
			for tries := 0; err != nil && strings.Contains(err.Error(), "port is in use") && tries < 1000; tries++ {
				time.Sleep(time.Millisecond) // the guest's own TIME-WAIT
				c, err = gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, proto)
			}
			cancel()
			if err != nil {
				t.Fatalf("port %s, connection %d: %v", port, i, err)
			}
			_, _ = c.Write([]byte("xx")[:1+i%2])
			if port != "82" {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatalf("port %s, connection %d: %v", port, i, err)
				}
			}
			for _, e := range w.guest.stack.RegisteredEndpoints() {
				if ep, ok := e.(tcpip.Endpoint); ok && tcp.EndpointState(ep.State()) == tcp.StateEstablished {
					end(ep)
				}
			}
			c.Close()
		}
	}
}

// TestHeldFlood has a guest ask for a connection that is there, with all kinds of numbers and large frames.
func TestHeldFlood(t *testing.T) {
	w := newWorld(t, Config{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) })
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	say := func() {
		t.Helper()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Fatal(string(b), err)
		}
	}
	say()
	flood := func() {
		for i := range 2000 {
			b := make([]byte, header.TCPMinimumSize+60000)
			header.TCP(b).Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: 80, SeqNum: uint32(i * 77), DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
			m := frame4(w.ends.Guest4, netip.MustParseAddr("198.51.100.7"), 6, b)
			m[1], m[4], m[5] = vnetGSOTCPv4, 0xdc, 5
			for {
				if _, err := w.file.Write(m); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	flood()
	w.gw.asked.mu.Lock()
	t.Log("held", w.gw.asked.held)
	w.gw.asked.mu.Unlock()
	say()
	time.Sleep(1500 * time.Millisecond)
	w.gw.asked.mu.Lock()
	if w.gw.asked.held != 0 {
		t.Error("still held", w.gw.asked.held)
	}
	w.gw.asked.mu.Unlock()
	say()
	flood() // and close while they are held
}

// TestManySyns has a guest ask for many connections from all ports.
func TestManySyns(t *testing.T) {
	w := newWorld(t, Config{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = c.Read([]byte{0}) })
	for i := range 30000 {
		b := synSegment(80)
		header.TCP(b).SetSourcePort(uint16(i))
		m := frame4(w.ends.Guest4, netip.MustParseAddr("198.51.100.7"), 6, b)
		for {
			if _, err := w.file.Write(m); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	w.gw.asked.mu.Lock()
	if n := len(w.gw.asked.now) + len(w.gw.asked.older); n > 2*maxAsked {
		t.Error(n)
	}
	w.gw.asked.mu.Unlock()
}

// TestRepeatedRequest has a guest that knows nothing more of a connection ask for it anew, and loses its answer to the challenge (RFC 5961,
// 4.2): when it repeats the request it must be challenged again, or it never gets another.
func TestRepeatedRequest(t *testing.T) {
	fake := &fakeNet{}
	fake.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = c.Read([]byte{0}) })
	gw, pair := rawWorld(t, Config{Dialer: fake})
	e, _ := Addresses(1)
	to := netip.MustParseAddr("198.51.100.7")
	segment := func(flags header.TCPFlags, seq, ack uint32) []byte {
		b := make([]byte, header.TCPMinimumSize)
		header.TCP(b).Encode(&header.TCPFields{SrcPort: 999, DstPort: 80, SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 1000})
		return frame4(e.Guest4, to, uint8(header.TCPProtocolNumber), b)
	}
	synAck := exchange(t, pair, segment(header.TCPFlagSyn, 1000, 0), 2*time.Second)
	if synAck == nil {
		t.Fatal("no answer")
	}
	theirs := header.TCP(synAck[ethHdrLen+header.IPv4MinimumSize:]).SequenceNumber() + 1
	if _, err := pair.Sentry.Write(segment(header.TCPFlagAck, 1001, theirs)); err != nil {
		t.Fatal(err)
	}
	for gw.Stats().Conns == 0 {
		time.Sleep(time.Millisecond)
	}
	for i := range 3 { // the guest's stack repeats it after 1 s, 2 s and so on
		time.Sleep(time.Second)
		if exchange(t, pair, segment(header.TCPFlagSyn, 500000, 0), 2*time.Second) == nil {
			t.Errorf("request %d was not answered", i)
		}
	}
	if exchange(t, pair, segment(header.TCPFlagRst, uint32(1001), 0), 100*time.Millisecond) != nil {
		t.Error("a reset was answered")
	}
}
