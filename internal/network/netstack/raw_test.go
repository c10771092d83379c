package netstack

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// frame4 is a message with an IPv4 packet from slot 1's guest, or from who else it claims to be.
func frame4(src, dst netip.Addr, proto uint8, transport []byte) []byte {
	e, _ := Addresses(1)
	b := make([]byte, vnetHdrLen+ethHdrLen+header.IPv4MinimumSize, 128)
	copy(b[vnetHdrLen:], e.GatewayMAC)
	copy(b[vnetHdrLen+6:], e.GuestMAC)
	b[vnetHdrLen+12], b[vnetHdrLen+13] = 0x08, 0x00
	ip := header.IPv4(b[vnetHdrLen+ethHdrLen:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + len(transport)), TTL: 64, Protocol: proto, SrcAddr: addressOf(src), DstAddr: addressOf(dst)})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(b, transport...)
}

// frame6 is frame4 for IPv6.
func frame6(src, dst netip.Addr, next uint8, transport []byte) []byte {
	e, _ := Addresses(1)
	b := make([]byte, vnetHdrLen+ethHdrLen+header.IPv6MinimumSize, 128)
	copy(b[vnetHdrLen:], e.GatewayMAC)
	copy(b[vnetHdrLen+6:], e.GuestMAC)
	b[vnetHdrLen+12], b[vnetHdrLen+13] = 0x86, 0xdd
	header.IPv6(b[vnetHdrLen+ethHdrLen:]).Encode(&header.IPv6Fields{PayloadLength: uint16(len(transport)), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: addressOf(src), DstAddr: addressOf(dst)})
	b[vnetHdrLen+ethHdrLen+6] = next
	return append(b, transport...)
}

// tcpSegment is a data segment of a connection; checksums are not looked at on this link.
func tcpSegment(src, dst netip.Addr, from, to uint16) []byte {
	t := make([]byte, header.TCPMinimumSize)
	header.TCP(t).Encode(&header.TCPFields{SrcPort: from, DstPort: to, SeqNum: 1000, AckNum: 2000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck, WindowSize: 1000})
	return frame4(src, dst, uint8(header.TCPProtocolNumber), t)
}

func synSegment(to uint16) []byte {
	t := make([]byte, header.TCPMinimumSize)
	header.TCP(t).Encode(&header.TCPFields{SrcPort: 999, DstPort: to, SeqNum: 1000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
	return t
}

func udpDatagram(src, dst netip.Addr, from, to uint16, data string) []byte {
	u := make([]byte, header.UDPMinimumSize, 64)
	header.UDP(u).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: uint16(len(u) + len(data))})
	return frame4(src, dst, uint8(header.UDPProtocolNumber), append(u, data...))
}

func ping4(data string) []byte {
	p := append(make([]byte, header.ICMPv4MinimumSize), data...)
	p[0] = byte(header.ICMPv4Echo)
	header.ICMPv4(p).SetChecksum(^checksum.Checksum(p, 0))
	return p
}

func udpHeader(from, to uint16) []byte {
	u := make([]byte, header.UDPMinimumSize)
	header.UDP(u).Encode(&header.UDPFields{SrcPort: from, DstPort: to, Length: header.UDPMinimumSize})
	return u
}

func ping6(src, dst netip.Addr) []byte {
	p := make([]byte, header.ICMPv6EchoMinimumSize)
	p[0] = byte(header.ICMPv6EchoRequest)
	header.ICMPv6(p).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: p, Src: addressOf(src), Dst: addressOf(dst)}))
	return p
}

// rawWorld is a gateway whose far end is the test itself.
func rawWorld(t testing.TB, cfg Config) (*Gateway, *Pair) {
	t.Helper()
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	return rawWorldOn(t, pair, cfg), pair
}

func rawWorldOn(t testing.TB, pair *Pair, cfg Config) *Gateway {
	t.Helper()
	cfg.Link = pair.Gateway
	if cfg.Policy.Rules == nil && cfg.Policy.DefaultEgress == "" {
		cfg.Policy = sandbox.PublicPolicy()
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &fakeNet{}
	}
	gw, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gw.Close(); pair.Close() })
	return gw
}

// rawConn4 is a connection of a guest that writes its segments itself.
type rawConn4 struct {
	t        *testing.T
	pair     *Pair
	from     uint16
	to       netip.Addr
	seq, ack uint32
	acks     *acks // the gateway's
}

func openRaw(t *testing.T, pair *Pair, from uint16) *rawConn4 {
	t.Helper()
	c := &rawConn4{t: t, pair: pair, from: from, to: netip.MustParseAddr("198.51.100.7"), seq: 999}
	c.send(header.TCPFlagSyn, 0, nil)
	syn := c.next(10 * time.Second)
	if syn == nil || !syn.Flags().Contains(header.TCPFlagSyn|header.TCPFlagAck) {
		t.Fatalf("the answer to a SYN is %x", []byte(syn))
	}
	c.seq, c.ack = 1000, syn.SequenceNumber()+1
	c.send(header.TCPFlagAck, 0, nil)
	return c
}

// accepted are the connections to the server that guests of openRaw ask for, kept open until the test ends.
func accepted(t *testing.T, network *fakeNet) <-chan net.Conn {
	conns, done := make(chan net.Conn, 2), make(chan struct{})
	network.listen(t, "198.51.100.7:80", func(c net.Conn) {
		conns <- c
		<-done
	})
	t.Cleanup(func() { close(done) })
	return conns
}

// send sends a segment so far behind what was sent; seq stays as it is.
func (c *rawConn4) send(flags header.TCPFlags, behind uint32, data []byte) {
	c.t.Helper()
	e, _ := Addresses(1)
	seg := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(data))
	header.TCP(seg).Encode(&header.TCPFields{SrcPort: c.from, DstPort: 80, SeqNum: c.seq + behind, AckNum: c.ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535})
	msg := frame4(e.Guest4, c.to, uint8(header.TCPProtocolNumber), append(seg, data...))
	if len(data) > MTU {
		(vnetHdr{gsoType: vnetGSOTCPv4, gsoSize: 1400, hdrLen: ethHdrLen + 40}).put((*[vnetHdrLen]byte)(msg))
	}
	if _, err := c.pair.Sentry.Write(msg); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next segment, or nil if there is none. What is sent again since this machine is busy is left out.
func (c *rawConn4) next(wait time.Duration) header.TCP {
	c.t.Helper()
	buf := make([]byte, 70000)
	_ = c.pair.Sentry.SetReadDeadline(time.Now().Add(wait))
	for {
		n, err := c.pair.Sentry.Read(buf)
		if os.IsTimeout(err) {
			return nil
		}
		if err != nil {
			c.t.Fatal(err)
		}
		seg := header.TCP(buf[vnetHdrLen+ethHdrLen+header.IPv4MinimumSize : n])
		if c.ack == 0 || int32(seg.SequenceNumber()-c.ack) >= 0 {
			return seg
		}
	}
}

func exchange(t testing.TB, p *Pair, msg []byte, wait time.Duration) []byte {
	t.Helper()
	if _, err := p.Sentry.Write(msg); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 70000)
	_ = p.Sentry.SetReadDeadline(time.Now().Add(wait))
	n, err := p.Sentry.Read(buf)
	if err != nil {
		return nil
	}
	return buf[vnetHdrLen:n]
}

func TestRawAnswers(t *testing.T) {
	e, _ := Addresses(1)
	gw, pair := rawWorld(t, Config{})
	public, private := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("10.0.0.1")
	mapped := netip.AddrFrom16(private.As16())
	none := 50 * time.Millisecond
	for _, c := range []struct {
		name string
		msg  []byte
		wait time.Duration
		ok   func(ip []byte) bool
	}{
		{"ping of the gateway", frame4(e.Guest4, e.Gateway4, 1, ping4("hi")), time.Second, func(ip []byte) bool { return ip[20] == 0 }},
		{"ping of a denied address", frame4(e.Guest4, private, 1, ping4("hi")), time.Second, func(ip []byte) bool { return ip[20] == 3 && ip[21] == 13 }},
		{"ping of a public address", frame4(e.Guest4, public, 1, ping4("hi")), none, nil},
		{"spoofed source", frame4(public, e.Gateway4, 1, ping4("hi")), none, nil},
		{"segment of no connection", tcpSegment(e.Guest4, public, 5, 6), time.Second, func(ip []byte) bool { return ip[20+13]&4 != 0 }},
		{"SYN to a mapped address on the wire", frame6(e.Guest6, mapped, 6, synSegment(80)), none, nil},
		{"datagram to a denied address", udpDatagram(e.Guest4, private, 5, 6, "x"), time.Second, func(ip []byte) bool { return ip[20] == 3 && ip[21] == 3 }},
		{"datagram to the gateway", udpDatagram(e.Guest4, e.Gateway4, 5, 6, "x"), time.Second, func(ip []byte) bool { return ip[20] == 3 && ip[21] == 3 }},
		{"datagram to a closed port", udpDatagram(e.Guest4, public, 5, 6, "x"), time.Second, func(ip []byte) bool { return ip[20] == 3 && ip[21] == 3 }},
		{"datagram to a denied IPv6 address", frame6(e.Guest6, netip.MustParseAddr("fd00::1"), 17, udpHeader(5, 6)), time.Second, func(ip []byte) bool { return ip[40] == 1 && ip[41] == 4 }},
		{"datagram to a closed IPv6 port", frame6(e.Guest6, netip.MustParseAddr("2001:db8::1"), 17, udpHeader(5, 6)), time.Second, func(ip []byte) bool { return ip[40] == 1 && ip[41] == 4 }},
		{"ping of a denied IPv6 address", frame6(e.Guest6, netip.MustParseAddr("fd00::1"), 58, ping6(e.Guest6, netip.MustParseAddr("fd00::1"))), time.Second, func(ip []byte) bool { return ip[40] == 1 && ip[41] == 1 }},
		{"ping of the IPv6 gateway", frame6(e.Guest6, e.Gateway6, 58, ping6(e.Guest6, e.Gateway6)), time.Second, func(ip []byte) bool { return ip[40] == 129 }},
		{"spoofed IPv6 source", frame6(netip.MustParseAddr("2001:db8::1"), mapped, 6, synSegment(80)), none, nil},
		{"short", []byte{1, 2, 3}, none, nil},
		{"header only", make([]byte, vnetHdrLen), none, nil},
		{"unknown flags", append([]byte{0xff}, frame4(e.Guest4, e.Gateway4, 1, ping4("hi"))[1:]...), none, nil},
		{"checksum beyond the end", append([]byte{1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, frame4(e.Guest4, e.Gateway4, 1, ping4("hi"))[10:]...), none, nil},
	} {
		got := exchange(t, pair, c.msg, c.wait)
		switch {
		case c.ok == nil && got != nil:
			t.Errorf("%s: answered %x", c.name, got)
		case c.ok != nil && (len(got) < 42 || !c.ok(got[ethHdrLen:])):
			t.Errorf("%s: answer %x", c.name, got)
		}
	}
	if gw.Stats().Dropped == 0 {
		t.Error("nothing counted as dropped")
	}
}

// FuzzFrame sends what a hostile guest might; the gateway must live and still answer a ping.
func FuzzFrame(f *testing.F) {
	e, _ := Addresses(1)
	public := netip.MustParseAddr("198.51.100.7")
	f.Add(frame4(e.Guest4, e.Gateway4, 1, ping4("hi")))
	f.Add(tcpSegment(e.Guest4, public, 5, 6))
	f.Add(frame4(e.Guest4, public, 6, synSegment(80)))
	f.Add(udpDatagram(e.Guest4, e.Gateway4, 5, 53, "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"))
	f.Add(frame6(e.Guest6, public, 6, synSegment(80)))
	f.Add(frame6(e.Guest6, e.Gateway6, 0, make([]byte, 40)))
	f.Add(frame6(netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), 58, make([]byte, 32)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, msg []byte) {
		_, pair := rawWorld(t, Config{})
		if len(msg) == 0 || len(msg) > 70000 {
			return // empty is the end
		}
		if len(msg) > vnetHdrLen+ethHdrLen { // get past the filter more often than chance would
			_, _ = pair.Sentry.Write(append(make([]byte, vnetHdrLen), msg[vnetHdrLen:]...))
		}
		if _, err := pair.Sentry.Write(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Sentry.Write(frame4(e.Guest4, e.Gateway4, 1, ping4("alive?"))); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 70000)
		_ = pair.Sentry.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			n, err := pair.Sentry.Read(buf)
			if err != nil {
				t.Fatalf("no answer to a ping: %v", err)
			}
			if ip := buf[vnetHdrLen+ethHdrLen : n]; len(ip) > 28 && ip[0]>>4 == 4 && ip[9] == 1 && ip[20] == 0 && string(ip[28:]) == "alive?" {
				return
			}
		}
	})
}
