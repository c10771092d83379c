package netstack

import (
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ackOf is an acknowledgement to the guest as the stack makes it.
func ackOf(guest, far netip.AddrPort, number uint32) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize})
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{SrcPort: far.Port(), DstPort: guest.Port(), AckNum: number, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck})
	header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&header.IPv4Fields{TotalLength: header.IPv4MinimumSize + header.TCPMinimumSize, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: addressOf(far.Addr()), DstAddr: addressOf(guest.Addr())})
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = header.IPv4ProtocolNumber, header.TCPProtocolNumber
	return pkt
}

// TestAcksKeepTheirOrder has an acknowledgement that was held wait for room on the link. What is newer must not overtake it: the guest's stack
// takes the window of whatever came last.
func TestAcksKeepTheirOrder(t *testing.T) {
	guest, far := netip.MustParseAddrPort("100.96.0.2:999"), netip.MustParseAddrPort("198.51.100.7:80")
	begun, room := make(chan struct{}), make(chan struct{})
	sent := make(chan string, 2)
	a := &acks{delay: time.Millisecond, send: func(*stack.PacketBuffer) {
		close(begun)
		<-room
		sent <- "the one that was held"
	}}
	seg := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+1)
	header.TCP(seg).Encode(&header.TCPFields{SrcPort: guest.Port(), DstPort: far.Port(), SeqNum: 1000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck})
	ip := frame4(guest.Addr(), far.Addr(), uint8(header.TCPProtocolNumber), append(seg, 'a'))[vnetHdrLen+ethHdrLen:]
	a.came(header.IPv4ProtocolNumber, ip, len(ip))
	older, newer := ackOf(guest, far, 1001), ackOf(guest, far, 1001)
	defer older.DecRef()
	defer newer.DecRef()
	if !a.keeps(older) {
		t.Fatal("it was not held")
	}
	<-begun
	go func() {
		if a.keeps(newer) {
			t.Error("the newer was held")
		}
		sent <- "the newer"
	}()
	time.Sleep(20 * time.Millisecond) // in which the newer would overtake
	close(room)
	if first := <-sent; first != "the one that was held" {
		t.Errorf("%s was sent first", first)
	}
	<-sent
	a.close()
	a.came(header.IPv4ProtocolNumber, ip, len(ip))
	if a.keeps(older) {
		t.Error("it was held after the end")
	}
}

// TestAcksOnAFullLink has a guest that reads nothing send one small segment after another. What waits for room must not become more with each.
func TestAcksOnAFullLink(t *testing.T) {
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	raw, _ := pair.Gateway.SyscallConn()
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10) })
	network := &fakeNet{}
	servers := accepted(t, network)
	gw := rawWorldOn(t, pair, Config{Dialer: network})
	openRaw(t, pair, 999)
	server := <-servers
	other := openRaw(t, pair, 998)
	<-servers
	if _, err := server.Write(make([]byte, 64<<10)); err != nil { // more than the link has room for, less than the window
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	before := runtime.NumGoroutine()
	for range 200 {
		_ = pair.Sentry.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		e, _ := Addresses(1)
		seg := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+1)
		header.TCP(seg).Encode(&header.TCPFields{SrcPort: other.from, DstPort: 80, SeqNum: other.seq, AckNum: other.ack, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagAck | header.TCPFlagPsh, WindowSize: 65535})
		if _, err := pair.Sentry.Write(frame4(e.Guest4, other.to, uint8(header.TCPProtocolNumber), append(seg, 'a'))); os.IsTimeout(err) {
			break // nor does the gateway read
		}
		other.seq++
		time.Sleep(2 * ackDelay)
	}
	if now := runtime.NumGoroutine(); now > before+20 {
		t.Errorf("%d goroutines, %d were", now, before)
	}
	_ = gw.Close()
}
