package netstack

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

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
