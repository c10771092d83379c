package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Window is how much of a session's data may be under way in either direction, in bytes, if the agent can count.
const Window = 1 << 20

// maxQueue is how much of a stream may wait to be received before the connection waits, in bytes. A stream with a
// window stays below it.
const maxQueue = 2 * Window

// Message is one message that was received. It is valid until it is released.
type Message struct {
	agentproto.Message
	frame *agentproto.Frame
}

// Release gives the message's memory back.
func (m *Message) Release() {
	if m.frame != nil {
		m.frame.Release()
		m.frame = nil
	}
}

// Terminal reports whether this is the last message of its stream.
func (m *Message) Terminal() bool { return m.frame.Flags&agentproto.Terminal != 0 }

// Raw is the message's flags and its whole body, valid until it is released.
func (m *Message) Raw() (flags uint8, body []byte) { return uint8(m.frame.Flags), m.frame.Body() }

// size is what the message costs while it waits.
func (m *Message) size() int { return len(m.frame.Raw()) }

// expect decodes a message that has to be of one type. core.error becomes an error.
func (m *Message) expect(t agentproto.Type, into agentproto.Payload) error {
	switch m.Type {
	case t:
		if err := agentproto.Decode(m.Payload, into); err != nil {
			return &sandbox.Error{Kind: sandbox.Protocol, Err: err}
		}
		return nil
	case agentproto.TypeError:
		var refused agentproto.Error
		if err := agentproto.Decode(m.Payload, &refused); err != nil {
			return &sandbox.Error{Kind: sandbox.Protocol, Err: err}
		}
		return &sandbox.Error{Kind: sandbox.Protocol, Err: &refused}
	}
	return &sandbox.Error{Kind: sandbox.Protocol, Message: fmt.Sprintf("have %q, want %q", m.Type, t)}
}

// Stream is the messages of one id. One goroutine receives; any may send.
type Stream struct {
	c      *Client
	id     uint32
	window uint64 // 0 is none

	mu      sync.Mutex
	queue   []Message
	bytes   int
	ended   bool   // the terminal message is in the queue or received
	closed  bool   // by us
	open    uint64 // bytes sent and not acknowledged
	more    chan struct{}
	room    chan struct{}
	credit  chan struct{}
	gone    chan struct{} // closed by Close or with the last message
	goneOne sync.Once

	unacked uint64 // bytes received and not acknowledged; of the receiver
}

// Stream begins a stream with its first message. The window is the one that the message asks for, 0 for none.
func (c *Client) Stream(t agentproto.Type, p agentproto.Payload, window uint32) (*Stream, error) {
	if err := c.check(t); err != nil {
		return nil, err
	}
	s := newStream(c, window)
	if err := c.register(s); err != nil {
		return nil, err
	}
	if err := s.Send(t, p); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func newStream(c *Client, window uint32) *Stream {
	return &Stream{c: c, window: uint64(window), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
		credit: make(chan struct{}, 1), gone: make(chan struct{})}
}

// offered is the window to ask for: Window, if the agent can count.
func (c *Client) offered() uint32 {
	if c.ready.Has(agentproto.TypeAck) {
		return Window
	}
	return 0
}

// register gives a stream the next free id.
func (c *Client) register(s *Stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if uint64(len(c.streams)) >= uint64(c.end)-uint64(c.start) {
		return &sandbox.Error{Kind: sandbox.Internal, Message: "the connection has no id left"}
	}
	for {
		s.id = c.next
		if c.next++; c.next >= c.end || c.next == 0 {
			c.next = max(1, c.start)
		}
		if c.streams[s.id] == nil {
			c.streams[s.id] = s
			return nil
		}
	}
}

// ID is the correlation id of the stream's frames.
func (s *Stream) ID() uint32 { return s.id }

// Send writes a message.
func (s *Stream) Send(t agentproto.Type, p agentproto.Payload) error {
	return s.c.write(agentproto.Append(nil, s.id, t, p))
}

// SendFrame writes data of which buf has the first n bytes, and waits for the window to have room.
func (s *Stream) SendFrame(ctx context.Context, t agentproto.Type, buf *agentproto.DataBuffer, n int) error {
	if err := s.take(ctx, n); err != nil {
		return err
	}
	return s.c.write(buf.Frame(s.id, t, n))
}

// maxChunk is the most data that SendData puts into one frame.
const maxChunk = 64 << 10

// SendData writes data in frames of a type whose payload is {data}, each when the window has room for it. Without data
// it writes one empty frame, which ends the input.
func (s *Stream) SendData(ctx context.Context, t agentproto.Type, data []byte) error {
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), maxChunk)
		if err := s.take(ctx, n); err != nil {
			return err
		}
		if err := s.c.write(agentproto.AppendData(nil, s.id, t, data[:n])); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// errEnded is the error of sending on a stream that is over.
var errEnded = errors.New("the session has ended")

// take waits until the window is not full, then takes n bytes of it.
func (s *Stream) take(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		switch {
		case s.closed || s.ended:
			s.mu.Unlock()
			wake(s.credit)
			return errEnded
		case s.window == 0 || n == 0 || s.open < s.window:
			s.open += uint64(n)
			more := s.open < s.window
			s.mu.Unlock()
			if more { // another sender may be waiting
				wake(s.credit)
			}
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.credit:
		case <-s.gone:
		case <-s.c.done:
			return s.c.failure()
		case <-ctx.Done():
			return ctxError("send", ctx)
		}
	}
}

// deliver queues a message. It waits while the queue is full.
func (s *Stream) deliver(m Message) {
	if m.Type == agentproto.TypeAck {
		s.acked(m)
		return
	}
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			m.Release()
			return
		}
		if s.bytes == 0 || s.bytes+m.size() <= maxQueue || m.Terminal() {
			s.queue = append(s.queue, m)
			s.bytes += m.size()
			s.ended = s.ended || m.Terminal()
			ended := s.ended
			s.mu.Unlock()
			if ended {
				s.goneOne.Do(func() { close(s.gone) })
			}
			wake(s.more)
			return
		}
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.gone:
		case <-s.c.done:
			m.Release()
			return
		}
	}
}

func (s *Stream) acked(m Message) {
	defer m.Release()
	var ack agentproto.Ack
	if agentproto.Decode(m.Payload, &ack) != nil {
		return
	}
	s.mu.Lock()
	s.open -= min(ack.Bytes, s.open)
	s.mu.Unlock()
	wake(s.credit)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recv returns the next message, which the caller releases. After the terminal one it returns io.EOF.
func (s *Stream) Recv(ctx context.Context) (Message, error) {
	for {
		if ctx.Err() != nil {
			return Message{}, ctxError("receive", ctx)
		}
		m, ended, ok := s.pop()
		switch {
		case ok:
			return m, s.acknowledge(&m)
		case ended:
			return Message{}, io.EOF
		}
		select {
		case <-s.more:
		case <-ctx.Done():
		case <-s.c.done:
			if m, _, ok := s.pop(); ok { // what came before the end still counts
				return m, nil
			}
			return Message{}, s.c.failure()
		}
	}
}

func (s *Stream) pop() (m Message, ended, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Message{}, s.ended || s.closed, false
	}
	m = s.queue[0]
	s.queue[0] = Message{}
	s.queue = s.queue[1:]
	s.bytes -= m.size()
	wake(s.room)
	return m, false, true
}

// acknowledge counts data towards the agent's window.
func (s *Stream) acknowledge(m *Message) error {
	if s.window == 0 || m.Terminal() {
		return nil
	}
	switch m.Type {
	case agentproto.TypeExecStdout, agentproto.TypeExecStderr, agentproto.TypeFSData, agentproto.TypeTCPData,
		agentproto.TypeKernelStdout, agentproto.TypeKernelStderr, agentproto.TypeKernelResult:
	default:
		return nil
	}
	data, err := agentproto.DecodeData(m.Payload)
	if err != nil {
		m.Release()
		return &sandbox.Error{Kind: sandbox.Protocol, Err: err}
	}
	if s.unacked += uint64(len(data)); s.unacked >= s.window/4 {
		n := s.unacked
		s.unacked = 0
		_ = s.Send(agentproto.TypeAck, &agentproto.Ack{Bytes: n}) // if the connection broke, Recv says so
	}
	return nil
}

// Close forgets the stream: what comes for it is dropped. An agent that knows how is told to drop the session, if it has
// not ended. It may be called twice.
func (s *Stream) Close() {
	s.mu.Lock()
	cancel := !s.ended && !s.closed && s.c.ready.Has(agentproto.TypeCancel)
	s.mu.Unlock()
	if cancel {
		_ = s.Send(agentproto.TypeCancel, nil)
	}
	s.c.mu.Lock()
	if s.c.streams[s.id] == s {
		delete(s.c.streams, s.id)
	}
	s.c.mu.Unlock()
	s.mu.Lock()
	s.closed = true
	queue := s.queue
	s.queue, s.bytes = nil, 0
	s.mu.Unlock()
	for _, m := range queue {
		m.Release()
	}
	s.goneOne.Do(func() { close(s.gone) })
	wake(s.more)
}
