package netstack

import (
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// waitHeld waits until an acknowledgement is held. Together with what is sent then, the stack might have acknowledged it once.
func (c *rawConn4) waitHeld() {
	c.t.Helper()
	for range 10000 {
		c.acks.mu.Lock()
		held := c.acks.held != nil
		c.acks.mu.Unlock()
		if held {
			return
		}
		time.Sleep(time.Millisecond)
	}
	c.t.Fatal("nothing is held")
}

func TestAcks(t *testing.T) {
	const long, short = 10 * time.Second, 50 * time.Millisecond
	data := header.TCPFlagAck | header.TCPFlagPsh
	for _, c := range []struct {
		name  string
		delay time.Duration
		do    func(t *testing.T, c *rawConn4, server net.Conn)
	}{
		{"an answer says it", time.Hour, func(t *testing.T, c *rawConn4, server net.Conn) {
			for range 20 {
				c.send(data, 0, []byte("?"))
				buf := make([]byte, 1)
				if _, err := server.Read(buf); err != nil {
					t.Fatal(err)
				}
				if _, err := server.Write(buf); err != nil {
					t.Fatal(err)
				}
				c.seq++
				if got := c.next(long); got == nil || got.AckNumber() != c.seq || len(got.Payload()) != 1 {
					t.Fatalf("the first that came is %x, want an answer that acknowledges %d", []byte(got), c.seq)
				}
				c.ack++
				c.send(header.TCPFlagAck, 0, nil)
			}
		}},
		{"the end says it", time.Hour, func(t *testing.T, c *rawConn4, server net.Conn) {
			c.send(data|header.TCPFlagFin, 0, []byte("bye"))
			if _, err := server.Read(make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			server.Close()
			if got := c.next(long); got == nil || got.AckNumber() != c.seq+4 || !got.Flags().Contains(header.TCPFlagFin) {
				t.Fatalf("the first that came is %x, want the end", []byte(got))
			}
		}},
		{"nobody says it", ackDelay, func(t *testing.T, c *rawConn4, _ net.Conn) {
			for range 5 {
				c.send(data, 0, []byte("abc"))
				c.seq += 3
				if got := c.next(long); got == nil || got.AckNumber() != c.seq || len(got.Payload()) > 0 {
					t.Fatalf("%x came, want an acknowledgement of %d", []byte(got), c.seq)
				}
			}
			if got := c.next(short); got != nil {
				t.Fatalf("%x came, too", []byte(got))
			}
		}},
		{"the second is not held", time.Hour, func(t *testing.T, c *rawConn4, _ net.Conn) {
			c.send(data, 0, []byte("a"))
			c.waitHeld()
			if got := c.next(short); got != nil {
				t.Fatalf("%x came at once", []byte(got))
			}
			c.send(data, 1, []byte("b"))
			if got := c.next(long); got == nil || got.AckNumber() != c.seq+2 {
				t.Fatalf("%x came, want an acknowledgement of both", []byte(got))
			}
		}},
		{"nor one that is repeated", time.Hour, func(t *testing.T, c *rawConn4, _ net.Conn) {
			c.send(data, 0, []byte("a"))
			c.waitHeld()
			c.send(data, 0, []byte("a"))
			if got := c.next(long); got == nil || got.AckNumber() != c.seq+1 {
				t.Fatalf("%x came, want an acknowledgement again", []byte(got))
			}
		}},
		{"nor of much", time.Hour, func(t *testing.T, c *rawConn4, _ net.Conn) {
			c.send(data, 0, make([]byte, ackSmall+1))
			if got := c.next(long); got == nil || got.AckNumber() != c.seq+ackSmall+1 {
				t.Fatalf("%x came, want an acknowledgement", []byte(got))
			}
		}},
		{"nor what tells of a hole", time.Hour, func(t *testing.T, c *rawConn4, _ net.Conn) {
			c.send(data, 1, []byte("b"))
			if got := c.next(long); got == nil || got.AckNumber() != c.seq {
				t.Fatalf("%x came, want what tells that %d is missing", []byte(got), c.seq)
			}
			c.send(data, 0, []byte("a"))
			if got := c.next(long); got == nil || got.AckNumber() != c.seq+2 {
				t.Fatalf("%x came, want an acknowledgement of both", []byte(got))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			network := &fakeNet{}
			servers := accepted(t, network)
			gw, pair := rawWorld(t, Config{Dialer: network})
			gw.link.acks.mu.Lock()
			gw.link.acks.delay = c.delay
			gw.link.acks.mu.Unlock()
			guest := openRaw(t, pair, 999)
			guest.acks = &gw.link.acks
			server := <-servers
			defer server.Close()
			c.do(t, guest, server)
		})
	}
}

func TestHasSACK(t *testing.T) {
	for _, c := range []struct {
		options string
		want    bool
	}{
		{"", false},
		{"\x01\x01\x08\x0a12345678", false},
		{"\x01\x01\x08\x0a12345678\x01\x01\x05\x0a12345678", true},
		{"\x05", true},
		{"\x08", false},
		{"\x08\x00", false},
		{"\x08\xff", false},
		{"\x00\x05", false},
	} {
		if got := hasSACK([]byte(c.options)); got != c.want {
			t.Errorf("hasSACK(%x) = %v", c.options, got)
		}
	}
}
