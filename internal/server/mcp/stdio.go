package mcp

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// patience is how long requests that came before the end of the input have for their answers: the SDK drops what is under way
// when it reads the end, which would leave a client that writes and closes (printf … | msb mcp) without any. A client that is
// gone waits for nothing, so it is bounded.
const patience = 10 * time.Second

// draining is a transport whose end of input is seen when what came before is answered.
type draining struct{ mcp.Transport }

func (d draining) Connect(ctx context.Context) (mcp.Connection, error) {
	c, err := d.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &drainingConn{Connection: c, idle: make(chan struct{}, 1), closed: make(chan struct{})}, nil
}

type drainingConn struct {
	mcp.Connection

	mu      sync.Mutex
	pending map[any]bool  // the IDs of requests without an answer
	idle    chan struct{} // has a value when there may be none
	once    sync.Once
	closed  chan struct{}
}

// Read returns the next message, and the end when every request is answered, after patience, or at Close.
func (c *drainingConn) Read(ctx context.Context) (jsonrpc.Message, error) {
	msg, err := c.Connection.Read(ctx)
	if r, ok := msg.(*jsonrpc.Request); ok && err == nil && r.IsCall() {
		c.mu.Lock()
		if c.pending == nil {
			c.pending = map[any]bool{}
		}
		c.pending[r.ID.Raw()] = true
		c.mu.Unlock()
	}
	if !errors.Is(err, io.EOF) {
		return msg, err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	for c.waited() > 0 {
		select {
		case <-c.idle:
		case <-late.C:
			return msg, err
		case <-c.closed:
			return msg, err
		case <-ctx.Done():
			return msg, err
		}
	}
	return msg, err
}

func (c *drainingConn) waited() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// Write sends a message. What cannot be sent is waited for no more.
func (c *drainingConn) Write(ctx context.Context, msg jsonrpc.Message) error {
	err := c.Connection.Write(ctx, msg)
	if r, ok := msg.(*jsonrpc.Response); ok {
		c.mu.Lock()
		delete(c.pending, r.ID.Raw())
		c.mu.Unlock()
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
	return err
}

func (c *drainingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Connection.Close()
}
