package netstack

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// flood is a stream of known bytes that is written in pieces of all sizes, with pauses, so that the other side now has to wait and now
// finds much.
func flood(seed byte, size int, to io.Writer) error {
	src, dice := rand.NewChaCha8([32]byte{seed}), rand.New(rand.NewPCG(uint64(seed), 1))
	buf := make([]byte, 300<<10)
	for size > 0 {
		n := min(size, 1+dice.IntN([]int{10, 2000, len(buf)}[dice.IntN(3)]))
		_, _ = src.Read(buf[:n])
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		size -= n
		if dice.IntN(8) == 0 {
			time.Sleep(time.Duration(dice.IntN(2000)) * time.Microsecond)
		}
	}
	return nil
}

// sip reads to the end as flood writes.
func sip(seed byte, from io.Reader) ([]byte, error) {
	dice := rand.New(rand.NewPCG(uint64(seed), 2))
	buf := make([]byte, 300<<10)
	h := sha256.New()
	for {
		n, err := from.Read(buf[:1+dice.IntN([]int{2000, len(buf)}[dice.IntN(2)])])
		h.Write(buf[:n])
		if err == io.EOF {
			return h.Sum(nil), nil
		}
		if err != nil {
			return nil, err
		}
		if dice.IntN(8) == 0 {
			time.Sleep(time.Duration(dice.IntN(2000)) * time.Microsecond)
		}
	}
}

func sumOf(seed byte, size int) []byte {
	h := sha256.New()
	_ = flood(seed, size, h)
	return h.Sum(nil)
}

type closeWriter interface {
	net.Conn
	CloseWrite() error
}

// TestStreams moves bytes both ways at once on several connections whose ends read and write as they like.
func TestStreams(t *testing.T) {
	const size, conns = 6 << 20, 6
	w := newWorld(t, Config{})
	both := func(c closeWriter, out, in byte) {
		var up sync.WaitGroup
		up.Go(func() {
			if err := flood(out, size, c); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
		})
		got, err := sip(in, c)
		up.Wait()
		if err != nil || !bytes.Equal(got, sumOf(in, size)) {
			t.Errorf("stream %d: other bytes, %v", in, err)
		}
	}
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		which := make([]byte, 1)
		if _, err := io.ReadFull(c, which); err != nil {
			t.Error(err)
			return
		}
		both(c.(*net.TCPConn), 100+which[0], which[0])
	})
	var all sync.WaitGroup
	for i := range byte(conns) {
		all.Go(func() {
			c := w.mustDial(t, "198.51.100.7:80")
			defer c.Close()
			if _, err := c.Write([]byte{i}); err != nil {
				t.Error(err)
			}
			both(c, i, 100+i)
		})
	}
	all.Wait()
}

// TestUrgent has a server send urgent data: where the mark is, a socket that has data says that it has none.
func TestUrgent(t *testing.T) {
	const size = 1 << 20
	w := newWorld(t, Config{})
	sent := make(chan int, 1)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		raw, _ := c.(*net.TCPConn).SyscallConn()
		n := 0
		for n < size {
			k, err := c.Write(make([]byte, 200<<10))
			n += k
			if err != nil {
				t.Error(err)
			}
			_ = raw.Write(func(fd uintptr) bool {
				err = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
				return err != unix.EAGAIN
			})
			if err != nil {
				t.Error(err)
			}
		}
		sent <- n
	})
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	b, err := io.ReadAll(c)
	// What is urgent is in the stream, too, unless it is read before something newer is.
	if n, want := bytes.Count(b, []byte{0}), <-sent; err != nil || n != want || len(bytes.Trim(b, "\x00!")) > 0 {
		t.Errorf("%d bytes, %v; want %d", n, err, want)
	}
}

// TestBrokenStreams breaks connections from either side while much is on its way. What came before is what was sent, and the other side
// learns that it is not all.
func TestBrokenStreams(t *testing.T) {
	w := newWorld(t, Config{})
	zero := make([]byte, 256<<10)
	told := make(chan error, 1)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { // sends, then resets
		for range 20 {
			_, _ = c.Write(zero)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	w.net.listen(t, "198.51.100.7:81", func(c net.Conn) { // reads, then resets
		_, _ = io.CopyN(io.Discard, c, 4<<20)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	w.net.listen(t, "198.51.100.7:82", func(c net.Conn) { // is reset while it sends
		var err error
		for err == nil {
			_, err = c.Write(zero)
		}
		told <- err
	})
	w.net.listen(t, "198.51.100.7:83", func(c net.Conn) { // is reset while it reads
		_, err := io.Copy(io.Discard, c)
		told <- err
	})
	for range 5 {
		c := w.mustDial(t, "198.51.100.7:80")
		if b, err := io.ReadAll(c); err == nil || len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("a reset server's stream: %d bytes, %v", len(b), err)
		}
		c.Close()
		c = w.mustDial(t, "198.51.100.7:81")
		var err error
		for err == nil {
			_, err = c.Write(zero)
		}
		c.Close()
		for _, port := range []string{"82", "83"} {
			c = w.mustDial(t, "198.51.100.7:"+port)
			if port == "82" {
				_, _ = io.CopyN(io.Discard, c, 4<<20)
			} else {
				for range 16 {
					_, _ = c.Write(zero)
				}
			}
			for _, e := range w.guest.stack.RegisteredEndpoints() {
				e.Abort()
			}
			if err := <-told; err == nil {
				t.Errorf("port %s: the server was not told of the guest's reset", port)
			}
			c.Close()
		}
	}
}

// TestBrokenWhileHostReadsNothing breaks connections whose server takes nothing and says nothing, so that it is up to the gateway to notice.
func TestBrokenWhileHostReadsNothing(t *testing.T) {
	for _, how := range []string{"the guest resets", "the policy denies"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, Config{})
			told := make(chan error, 1)
			stop := make(chan struct{})
			w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
				<-stop
				_, err := io.Copy(io.Discard, c)
				told <- err
			})
			c := w.mustDial(t, "198.51.100.7:80")
			defer c.Close()
			_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // by then there is no room anywhere
			var err error
			for err == nil {
				_, err = c.Write(make([]byte, 256<<10))
			}
			if how == "the guest resets" {
				for _, e := range w.guest.stack.RegisteredEndpoints() {
					e.Abort()
				}
			} else if err := w.gw.SetPolicy(sandbox.DenyAllPolicy(), false); err != nil {
				t.Fatal(err)
			}
			for i := 0; w.gw.Stats().Open > 0 || len(w.gw.Flows()) > 0; i++ {
				if i == 500 {
					t.Error("the connection to the host is still there")
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			close(stop)
			if err := <-told; err == nil {
				t.Error("the server was not told of the reset")
			}
		})
	}
}

// TestLastWords has a guest send and reset at once. What it sent before is passed on.
func TestLastWords(t *testing.T) {
	const size = 10 << 10 // what may be sent without an answer
	w := newWorld(t, Config{})
	got := make(chan int, 1)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		if _, err := io.CopyN(struct{ io.Writer }{c}, struct{ io.Reader }{c}, 1); err != nil {
			t.Error(err)
		}
		n, err := io.Copy(io.Discard, c)
		if err == nil {
			t.Error("the server was not told of the reset")
		}
		got <- int(n)
	})
	for range 50 {
		c := w.mustDial(t, "198.51.100.7:80")
		if _, err := c.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, []byte{0}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		for _, e := range w.guest.stack.RegisteredEndpoints() {
			e.Abort()
		}
		if n := <-got; n != size {
			t.Errorf("%d bytes came before the reset, want %d", n, size)
		}
		c.Close()
	}
}
