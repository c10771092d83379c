// Package netload is the traffic that the network is measured with: a server, and what its clients do. It is for tests and
// for the benchmarks.
package netload

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// The ways of a connection. Its first byte says to the server which it is.
const (
	Down = 'd' // the server sends until the client has enough
	Up   = 'u' // the client sends; the server says that it has all with one byte
	Echo = 'e' // the server sends back what it gets, that byte first
)

const bufferSize = 256 << 10

// Conn is a client's connection.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Dial opens a connection to the server.
type Dial func() (Conn, error)

// Serve serves until l is closed and every client has gone.
func Serve(l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			serve(c)
		})
	}
}

func serve(c net.Conn) {
	how := make([]byte, 1)
	if _, err := io.ReadFull(c, how); err != nil {
		return
	}
	switch how[0] {
	case Down:
		buf := make([]byte, bufferSize)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case Up:
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, bufferSize)) // not spliced
		_, _ = c.Write([]byte{'.'})
	default:
		if _, err := c.Write(how); err == nil {
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 4<<10))
		}
	}
}

// open opens a connection of a kind.
func open(dial Dial, how byte) (Conn, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{how}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Transfer moves so many bytes at least, Down or Up.
func Transfer(dial Dial, how byte, amount int) error {
	c, err := open(dial, how)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, min(bufferSize, amount))
	move := c.Read
	if how == Up {
		move = c.Write
	}
	for moved := 0; moved < amount; {
		n, err := move(buf)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", moved, err)
		}
		moved += n
	}
	if how != Up {
		return nil
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(c, buf[:1])
	return err
}

// Ping opens a connection that has carried a byte each way.
func Ping(dial Dial) (Conn, error) {
	c, err := open(dial, Echo)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Connect returns the median time that a Ping takes.
func Connect(dial Dial, times int) (time.Duration, error) {
	took := make([]time.Duration, times)
	for i := range took {
		begin := time.Now()
		c, err := Ping(dial)
		if err != nil {
			return 0, err
		}
		took[i] = time.Since(begin)
		c.Close()
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
