package agentclient

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// DialTCP connects from within the guest. ctx bounds the making of the connection. CloseWrite of the returned
// connection (it has that method) ends one direction.
func (c *Client) DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error) {
	window := c.offered()
	s, err := c.Stream(agentproto.TypeTCPConnect, &agentproto.TCPConnect{Host: host, Port: port, Window: window}, window)
	if err != nil {
		return nil, err
	}
	conn := &TCPConn{s: s, remote: tcpAddr(net.JoinHostPort(host, strconv.Itoa(int(port))))}
	conn.reading.init()
	conn.writing.init()
	m, err := s.Recv(ctx)
	if err == nil {
		err = conn.connected(m)
	}
	if err != nil {
		_ = s.Send(agentproto.TypeTCPClose, nil)
		s.Close()
		return nil, err
	}
	return conn, nil
}

// TCPConn is a connection from within the guest.
type TCPConn struct {
	s      *Stream
	remote tcpAddr

	reading, writing deadline

	mu   sync.Mutex // one reader at a time
	m    Message
	data []byte
	err  error

	closed atomic.Bool
}

func (c *TCPConn) connected(m Message) error {
	defer m.Release()
	if m.Type == agentproto.TypeTCPFailed {
		return c.failed(m)
	}
	return m.expect(agentproto.TypeTCPConnected, &agentproto.None{})
}

func (c *TCPConn) failed(m Message) error {
	var f agentproto.TCPFailed
	if err := m.expect(agentproto.TypeTCPFailed, &f); err != nil {
		return err
	}
	return &sandbox.Error{Op: "dial " + string(c.remote), Kind: sandbox.IO, Message: f.Message}
}

// Read reads what the peer said.
func (c *TCPConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.data) == 0 && c.err == nil && !c.closed.Load() {
		err := c.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		c.err = err
	}
	switch {
	case c.closed.Load():
		return 0, net.ErrClosed
	case len(c.data) == 0:
		return 0, c.err
	}
	n := copy(p, c.data)
	c.data = c.data[n:]
	return n, nil
}

func (c *TCPConn) next() error {
	c.m.Release()
	m, err := c.s.Recv(c.reading.context())
	if err != nil {
		return c.reading.explain(err)
	}
	switch m.Type {
	case agentproto.TypeTCPData:
		c.m = m
		c.data, err = agentproto.DecodeData(m.Payload)
		return err
	case agentproto.TypeTCPEOF, agentproto.TypeTCPClosed:
		m.Release()
		return io.EOF
	}
	defer m.Release()
	return c.failed(m)
}

// Write says something to the peer. It waits while the peer does not listen.
func (c *TCPConn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.s.SendData(c.writing.context(), agentproto.TypeTCPData, p); err != nil {
		return 0, c.writing.explain(err)
	}
	return len(p), nil
}

// CloseWrite tells the peer that this was all.
func (c *TCPConn) CloseWrite() error { return c.s.Send(agentproto.TypeTCPEOF, nil) }

// Close ends the connection.
func (c *TCPConn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	_ = c.s.Send(agentproto.TypeTCPClose, nil)
	c.s.Close()
	c.reading.stop()
	c.writing.stop()
	return nil
}

// LocalAddr is not known: the connection begins in the guest.
func (c *TCPConn) LocalAddr() net.Addr { return tcpAddr("guest") }

// RemoteAddr is what was dialled.
func (c *TCPConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline bounds reads and writes.
func (c *TCPConn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return nil
}

// SetReadDeadline bounds reads.
func (c *TCPConn) SetReadDeadline(t time.Time) error { c.reading.set(t); return nil }

// SetWriteDeadline bounds writes.
func (c *TCPConn) SetWriteDeadline(t time.Time) error { c.writing.set(t); return nil }

type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }

// deadline turns a net.Conn's deadlines into contexts, one until the next is set.
type deadline struct {
	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func (d *deadline) init() { d.ctx, d.cancel = context.WithCancelCause(context.Background()) }

func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.ctx.Err() != nil {
		d.init()
	}
	if t.IsZero() {
		return
	}
	cancel := d.cancel
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { cancel(os.ErrDeadlineExceeded) })
		return
	}
	cancel(os.ErrDeadlineExceeded)
}

// explain makes the end of a deadline's context the error that net.Conn promises.
func (d *deadline) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// stop ends the timer. Whoever waits is woken by the stream's end.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}
