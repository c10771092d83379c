// Package agentclient is the host's side of the agent protocol, over any stream that leads to a sandbox's relay: run
// commands, move files, dial TCP inside the guest (contract msb-0.6 §4).
//
// [Connect] greets the relay and returns a [Client], on which any number of sessions run at the same time; Close ends
// them all. Each session has a bounded queue. With an agent of ours a session that is not read from only stops itself:
// windows (agentproto.ExecRequest.Window) keep its data in the guest. With another agent the wire has no windows, so
// a full queue stops the whole connection until it is read from; who cannot promise to read opens a second connection.
package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Client is one connection to a sandbox's agent. Its methods may be called from any goroutine.
type Client struct {
	conn     io.ReadWriteCloser
	frames   *agentproto.Reader
	readyRaw []byte
	ready    agentproto.Ready
	gen      uint32 // negotiated
	start    uint32
	end      uint32

	writing sync.Mutex // one frame at a time

	mu      sync.Mutex
	streams map[uint32]*Stream
	next    uint32
	err     error // why the connection ended

	done   chan struct{} // closed when the connection has ended
	closed chan struct{} // closed when nobody reads it any more
	once   sync.Once
}

// Connect reads what a relay greets with and returns a client that owns conn, which is closed on failure, too. The
// relay greets when the sandbox is ready; ctx bounds the wait for it.
func Connect(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c := &Client{conn: conn, frames: agentproto.NewReader(conn), streams: make(map[uint32]*Stream),
		done: make(chan struct{}), closed: make(chan struct{})}
	err := c.greet()
	if !stop() && ctx.Err() != nil {
		err = ctxError("connect", ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	go c.read()
	return c, nil
}

func (c *Client) greet() error {
	var err error
	if c.start, c.end, err = c.frames.Words(); err != nil {
		return lost(err)
	}
	if agentproto.MinLength <= c.end && c.end <= agentproto.MaxLength && (c.start == 0 || c.start >= c.end) {
		return protocolError("the sandbox runs an agent from before the handshake; restart it to update its runtime")
	}
	if c.start >= c.end {
		return protocolError("the relay gave the ids %d to %d", c.start, c.end)
	}
	f, err := c.frames.Next()
	if err != nil {
		return lost(err)
	}
	defer f.Release()
	m, err := agentproto.Open(f.Body())
	if err == nil && m.Type != agentproto.TypeReady {
		err = fmt.Errorf("have %q, want %q", m.Type, agentproto.TypeReady)
	}
	if err == nil {
		err = agentproto.Decode(m.Payload, &c.ready)
	}
	if err != nil {
		return &sandbox.Error{Op: "connect", Kind: sandbox.Protocol, Err: err}
	}
	c.readyRaw = append([]byte(nil), f.Raw()...)
	c.gen = min(agentproto.Generation, m.Gen)
	c.next = max(1, c.start)
	return nil
}

// Ready is what the agent said when it came up.
func (c *Client) Ready() agentproto.Ready { return c.ready }

// ReadyBytes is the frame that said it, as it was on the wire.
func (c *Client) ReadyBytes() []byte { return c.readyRaw }

// IDRange is the range of ids that this client may use: start is the first, end the first beyond.
func (c *Client) IDRange() (start, end uint32) { return c.start, c.end }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection, and with it every session: the guest kills their commands. It may be called twice.
func (c *Client) Close() error {
	c.fail(&sandbox.Error{Kind: sandbox.Cancelled, Message: "the connection to the sandbox was closed"})
	<-c.closed
	return nil
}

// fail ends the connection; the first reason stays.
func (c *Client) fail(err error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(c.done)
		_ = c.conn.Close()
	})
}

// failure is why the connection ended.
func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read hands each frame to its stream. It waits for a stream whose queue is full.
func (c *Client) read() {
	defer close(c.closed)
	for {
		f, err := c.frames.Next()
		if err != nil {
			c.fail(lost(err))
			return
		}
		c.mu.Lock()
		s := c.streams[f.ID]
		if s != nil && f.Flags&agentproto.Terminal != 0 {
			delete(c.streams, f.ID)
		}
		c.mu.Unlock()
		if s == nil { // its stream is closed
			f.Release()
			continue
		}
		m, err := agentproto.Open(f.Body())
		if err != nil {
			f.Release()
			c.fail(&sandbox.Error{Kind: sandbox.Protocol, Err: err})
			return
		}
		s.deliver(Message{Message: m, frame: f})
	}
}

// write writes whole frames.
func (c *Client) write(frames []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	select {
	case <-c.done:
		return c.failure()
	default:
	}
	if _, err := c.conn.Write(frames); err != nil {
		c.fail(lost(err))
		return c.failure()
	}
	return nil
}

// check refuses a type that the agent is too old for (contract msb-0.6 §4.3).
func (c *Client) check(t agentproto.Type) error {
	info, ok := agentproto.Lookup(t)
	if !ok {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("unknown message type %q", t)}
	}
	if uint32(info.MinGen) > c.gen {
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: fmt.Sprintf("the sandbox runtime is too old for '%s' "+
			"(needs protocol generation %d, the sandbox speaks %d); restart the sandbox to update its runtime", t, info.MinGen, c.gen)}
	}
	return nil
}

// Send writes one message on an id of the caller's choice.
func (c *Client) Send(id uint32, t agentproto.Type, p agentproto.Payload) error {
	if err := c.check(t); err != nil {
		return err
	}
	return c.write(agentproto.Append(nil, id, t, p))
}

// Request sends one message on an id of its own and returns the first answer. The caller releases it.
func (c *Client) Request(ctx context.Context, t agentproto.Type, p agentproto.Payload) (Message, error) {
	s, err := c.Stream(t, p, 0)
	if err != nil {
		return Message{}, err
	}
	defer s.Close()
	return s.Recv(ctx)
}

// Ping asks the agent for a sign of life. It does not count as activity.
func (c *Client) Ping(ctx context.Context) error {
	return c.ask(ctx, agentproto.TypePing, agentproto.TypePong, &agentproto.None{})
}

// Touch counts as activity, and returns how many messages did so far.
func (c *Client) Touch(ctx context.Context) (uint64, error) {
	var touched agentproto.Touched
	err := c.ask(ctx, agentproto.TypeTouch, agentproto.TypeTouched, &touched)
	return touched.ActivitySeq, err
}

func (c *Client) ask(ctx context.Context, t, answer agentproto.Type, into agentproto.Payload) error {
	m, err := c.Request(ctx, t, nil)
	if err != nil {
		return err
	}
	defer m.Release()
	return m.expect(answer, into)
}

// Shutdown asks the guest to end: its commands get SIGTERM, and SIGKILL 2 s later. It does not wait for that; Done does.
func (c *Client) Shutdown(context.Context) error {
	return c.Send(0, agentproto.TypeShutdown, nil)
}

// lost says that the connection ended, which is how a sandbox's end looks from here.
func lost(err error) error {
	if errors.Is(err, agentproto.ErrLength) || errors.Is(err, agentproto.ErrMalformed) {
		return &sandbox.Error{Kind: sandbox.Protocol, Err: err}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		err = nil
	}
	return &sandbox.Error{Kind: sandbox.NotRunning, Message: "the connection to the sandbox ended", Err: err}
}

func protocolError(format string, args ...any) error {
	return &sandbox.Error{Op: "connect", Kind: sandbox.Protocol, Message: fmt.Sprintf(format, args...)}
}

// ctxError says that the caller gave up. It matches the context's error, too.
func ctxError(op string, ctx context.Context) error {
	return &sandbox.Error{Op: op, Kind: sandbox.Cancelled, Message: op, Err: context.Cause(ctx)}
}

// ReadyBody is the CBOR of the frame that Ready is from.
func (c *Client) ReadyBody() []byte { return append([]byte(nil), c.readyRaw[agentproto.HeaderLen:]...) }

// RawStream begins a stream with a frame whose body is the caller's. It has no window: what is not received stops the
// whole connection.
func (c *Client) RawStream(flags uint8, body []byte) (*Stream, error) {
	s := newStream(c, 0)
	if err := c.register(s); err != nil {
		return nil, err
	}
	if err := c.SendRaw(s.id, flags, body); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// SendRaw writes a frame whose body is the caller's. The id is 0 or one of IDRange: the relay ends the connection for others.
func (c *Client) SendRaw(id uint32, flags uint8, body []byte) error {
	switch {
	case len(body) > agentproto.MaxBody:
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("a frame's body of %d bytes is too long", len(body))}
	case id != 0 && (id < c.start || id >= c.end), id == 0 && agentproto.Flags(flags)&agentproto.Shutdown == 0:
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the id %d is not one of this connection", id)}
	}
	return c.write(agentproto.AppendFrame(nil, id, agentproto.Flags(flags), body))
}
