package netstack

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

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

// TestSegments tells how many segments the server gets of what the guest sends in pieces of several sizes.
func TestSegments(t *testing.T) {
	for _, size := range []int{64, 1000, 1448, 16 << 10, 1 << 20} {
		w := newWorld(t, Config{})
		const total = 16 << 20
		got := make(chan int, 2)
		w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
			n, _ := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
			raw, _ := c.(*net.TCPConn).SyscallConn()
			_ = raw.Control(func(fd uintptr) {
				i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil {
					t.Error(err)
					return
				}
				got <- int(n)
				got <- int(i.Data_segs_in)
			})
		})
		c := w.mustDial(t, "198.51.100.7:80")
		buf := make([]byte, size)
		for n := 0; n < total; n += size {
			if _, err := c.Write(buf); err != nil {
				t.Fatal(err)
			}
		}
		c.CloseWrite()
		n, segs := <-got, <-got
		t.Logf("pieces of %d: %d bytes in %d segments, %d each", size, n, segs, n/segs)
		c.Close()
	}
}
