package proxy

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// httpConn is the guest's side of a connection in the hands of the HTTP server.
type httpConn struct {
	net.Conn
	s    *session
	once sync.Once
	gone chan struct{}
	idle atomic.Bool // no request, and no answer that is still to be sent

	linger atomic.Bool // the guest may still be sending what nobody wants
	asked  atomic.Bool // the request that was read is one
}

// lastFrames is how long the last frames of HTTP/2 may take to be sent when nothing is open any more.
const lastFrames = time.Second

// state is told of the connection's state by the server.
func (c *httpConn) state(state http.ConnState) {
	c.idle.Store(state == http.StateIdle)
	switch state {
	case http.StateActive:
		c.asked.Store(c.s.h2)
	case http.StateIdle:
		c.endIfUnused()
	case http.StateClosed:
		c.end()
	}
}

// endIfUnused ends an idle connection whose other side the server has ended.
func (c *httpConn) endIfUnused() {
	if c.s.client.Err() == nil || !c.idle.Load() {
		return
	}
	if c.s.h2 {
		time.AfterFunc(lastFrames, func() { _ = c.Close() })
		return
	}
	_ = c.Close()
}

// An answer that came before the whole request would be lost by a RST if the connection were closed while the guest still
// sends. So for lingerTime, or until so many bytes have come, it is listened to.
const (
	lingerTime = 500 * time.Millisecond
	lingerSize = 16 << 20
)

// CloseWrite lets the server end its side before it stops listening.
func (c *httpConn) CloseWrite() error { return closeWrite(c.Conn) }

func (c *httpConn) Close() error {
	if c.linger.Swap(false) {
		_ = closeWrite(c.Conn)
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, c.Conn, lingerSize)
	}
	return c.Conn.Close()
}

// Write tells of an answer that the server gave by itself, for the request made no sense to it.
func (c *httpConn) Write(b []byte) (int, error) {
	if line, ok := bytes.CutPrefix(b, []byte("HTTP/1.1 ")); ok && !c.asked.Swap(true) {
		line, _, _ = bytes.Cut(line, []byte("\r\n"))
		c.s.conn.Refuse(c.s.name, policy.Verdict{Rule: policy.BuiltIn, Reason: "the request is malformed: " + string(line)})
	}
	return c.Conn.Write(b)
}

func (c *httpConn) end() { c.once.Do(func() { close(c.gone) }) }
