package netstack

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestLostBegin has the first byte of a connection lost, the handshake ended by what comes after it, and the byte sent again, with every size of
// window. All of it must arrive.
func TestLostBegin(t *testing.T) {
	for _, w := range windows {
		net4 := &fakeNet{}
		got := make(chan int, 1)
		net4.listen(t, "198.51.100.7:80", func(c net.Conn) {
			b, _ := io.ReadAll(c)
			got <- len(b)
		})
		gw, pair := rawWorld(t, Config{Dialer: net4, MaxConns: 4096})
		gw.mu.Lock()
		gw.conns = w.below - 1 // as if there were so many
		if w.below > 4096 {
			gw.conns = 4000
		}
		gw.mu.Unlock()

		e, _ := Addresses(1)
		to := netip.MustParseAddr("198.51.100.7")
		send := func(flags header.TCPFlags, seq, ack uint32, data []byte) {
			seg := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(data))
			header.TCP(seg).Encode(&header.TCPFields{SrcPort: 999, DstPort: 80, SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535})
			msg := frame4(e.Guest4, to, uint8(header.TCPProtocolNumber), append(seg, data...))
			if len(data) > MTU {
				(vnetHdr{gsoType: vnetGSOTCPv4, gsoSize: 1400, hdrLen: ethHdrLen + 40}).put((*[vnetHdrLen]byte)(msg))
			}
			if _, err := pair.Sentry.Write(msg); err != nil {
				t.Fatal(err)
			}
		}
		next := func() header.TCP {
			buf := make([]byte, 70000)
			_ = pair.Sentry.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := pair.Sentry.Read(buf)
			if err != nil {
				t.Fatalf("windows of %d: %v", w.size, err)
			}
			return header.TCP(buf[vnetHdrLen+ethHdrLen+header.IPv4MinimumSize : n])
		}
		send(header.TCPFlagSyn, 999, 0, nil)
		syn := next()
		window, iss := uint32(syn.WindowSize()), syn.SequenceNumber()+1
		rest := make([]byte, window-1)
		send(header.TCPFlagAck, 1001, iss, rest)
		if a := next(); a.AckNumber() != 1000 {
			t.Fatalf("windows of %d: %d bytes are acknowledged, of which the first is missing", w.size, a.AckNumber()-1000)
		}
		// Somebody has to have taken the connection; until then nothing is received that does not fit.
		for i := 0; ; i++ {
			send(header.TCPFlagAck|header.TCPFlagPsh, 1000, iss, []byte{0})
			_ = pair.Sentry.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			buf := make([]byte, 2000)
			n, err := pair.Sentry.Read(buf)
			if err == nil && header.TCP(buf[vnetHdrLen+ethHdrLen+header.IPv4MinimumSize:n]).AckNumber() == 1000+window {
				break
			}
			if err != nil && !os.IsTimeout(err) || i == 50 {
				t.Fatalf("windows of %d: the byte that was missing is not received: %v", w.size, err)
			}
		}
		send(header.TCPFlagAck|header.TCPFlagFin, 1000+window, iss, nil)
		if n := <-got; n != int(window) {
			t.Errorf("windows of %d: the server got %d bytes, want %d", w.size, n, window)
		}
		_ = gw.Close()
	}
}
