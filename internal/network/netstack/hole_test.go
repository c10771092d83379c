package netstack

import (
	"io"
	"net"
	"net/netip"
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

		guest := &rawConn4{t: t, pair: pair, from: 999, to: netip.MustParseAddr("198.51.100.7"), seq: 999}
		guest.send(header.TCPFlagSyn, 0, nil)
		syn := guest.next(10 * time.Second)
		if syn == nil {
			t.Fatalf("windows of %d: no answer to a SYN", w.size)
		}
		window := uint32(syn.WindowSize())
		guest.seq, guest.ack = 1000, syn.SequenceNumber()+1
		guest.send(header.TCPFlagAck, 1, make([]byte, window-1))
		if a := guest.next(10 * time.Second); a == nil || a.AckNumber() != 1000 {
			t.Fatalf("windows of %d: %x came, want that the first byte is missing", w.size, []byte(a))
		}
		// Somebody has to have taken the connection; until then nothing is received that does not fit.
		for i := 0; ; i++ {
			guest.send(header.TCPFlagAck|header.TCPFlagPsh, 0, []byte{0})
			if a := guest.next(100 * time.Millisecond); a != nil && a.AckNumber() == 1000+window {
				break
			}
			if i == 50 {
				t.Fatalf("windows of %d: the byte that was missing is not received", w.size)
			}
		}
		guest.send(header.TCPFlagAck|header.TCPFlagFin, window, nil)
		if n := <-got; n != int(window) {
			t.Errorf("windows of %d: the server got %d bytes, want %d", w.size, n, window)
		}
		_ = gw.Close()
	}
}
