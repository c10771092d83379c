package agent

import (
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// tcpSession is one connection out of the agent, on behalf of a client.
type tcpSession struct {
	a      *Agent
	id     uint32
	req    agentproto.TCPConnect
	input  *inbox
	window window
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	dropped bool
	conn    *net.TCPConn // once there is one
	closing bool         // the client said so
	halves  int          // directions that have ended
}

// lingerTime is how long a peer may take to accept what was said before the client closed the connection.
const lingerTime = 10 * time.Second

// connectTimeout is how long a connection may take to be made (contract msb-0.6 §4.2).
const connectTimeout = 30 * time.Second

func (a *Agent) tcp(id uint32, payload []byte) error {
	s := &tcpSession{a: a, id: id, input: newInbox()}
	if err := agentproto.Decode(payload, &s.req); err != nil {
		return err
	}
	s.window.init(s.req.Window)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := a.open(id, s); err != nil {
		s.cancel()
		return err
	}
	go s.run()
	return nil
}

func (s *tcpSession) run() {
	defer s.a.running.Done()
	defer s.input.close()
	defer s.cancel()
	err := s.relay()
	s.a.forget(s.id)
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if err != nil && !closing {
		s.say(agentproto.TypeTCPFailed, &agentproto.TCPFailed{Message: err.Error()})
		return
	}
	s.say(agentproto.TypeTCPClosed, nil)
}

// relay connects and moves bytes until both sides have said their last.
func (s *tcpSession) relay() error {
	dialer := net.Dialer{Timeout: connectTimeout}
	c, err := dialer.DialContext(s.ctx, "tcp", net.JoinHostPort(s.req.Host, strconv.Itoa(int(s.req.Port))))
	if err != nil {
		return err
	}
	conn := c.(*net.TCPConn)
	stop := context.AfterFunc(s.ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	s.mu.Lock()
	s.conn = conn
	closing := s.closing
	s.mu.Unlock()
	if closing {
		return nil
	}
	s.say(agentproto.TypeTCPConnected, nil)

	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() {
		if readErr = s.copy(conn); readErr != nil {
			s.input.close()
			return
		}
		s.say(agentproto.TypeTCPEOF, nil)
		s.half()
	})
	writeErr := s.feed(conn)
	s.window.close()
	_ = conn.Close()
	reader.Wait()
	if writeErr != nil {
		return writeErr
	}
	return readErr
}

// half says that one of the two directions has ended. After both there is nothing to wait for.
func (s *tcpSession) half() {
	s.mu.Lock()
	s.halves++
	over := s.halves == 2
	s.mu.Unlock()
	if over {
		s.input.close()
	}
}

// copy sends what the peer says.
func (s *tcpSession) copy(conn *net.TCPConn) error {
	buf := readBuffers.Get().(*agentproto.DataBuffer)
	defer readBuffers.Put(buf)
	for {
		s.window.wait()
		n, err := conn.Read(buf.Space())
		if n > 0 {
			s.window.sent(n)
			s.a.out.count(agentproto.TypeTCPData)
			if s.isDropped() {
				return os.ErrClosed
			}
			if err := s.a.out.write(buf.Frame(s.id, agentproto.TypeTCPData, n)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// feed writes to the peer what the client says, until there is nothing more to do for the connection.
func (s *tcpSession) feed(conn *net.TCPConn) error {
	ended := false
	for {
		c, ok := s.input.pop()
		if !ok {
			return nil
		}
		if c.last {
			return nil
		}
		if c.end && ended {
			continue
		}
		if c.end {
			ended = true
			if err := conn.CloseWrite(); err != nil {
				return err
			}
			s.half()
			continue
		}
		_, err := conn.Write(c.data)
		n := len(c.data)
		c.frame.Release()
		s.input.done(n)
		if err != nil {
			return err
		}
		if ack := s.window.received(n); ack > 0 {
			s.say(agentproto.TypeAck, &agentproto.Ack{Bytes: ack})
		}
	}
}

func (s *tcpSession) message(t agentproto.Type, payload []byte, f *agentproto.Frame) error {
	if t == agentproto.TypeTCPData {
		c, err := newChunk(payload, f)
		if err != nil {
			return err
		}
		if c.end { // no bytes are no end here
			f.Release()
			return nil
		}
		if !s.input.push(c) {
			s.cancel()
		}
		return nil
	}
	defer f.Release()
	switch t {
	case agentproto.TypeTCPEOF:
		s.input.push(chunk{end: true})
	case agentproto.TypeTCPClose:
		s.close()
	case agentproto.TypeAck:
		return s.window.ack(payload)
	default:
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: "the session is a connection"}
	}
	return nil
}

// close ends the connection after what the client said before.
func (s *tcpSession) close() {
	s.mu.Lock()
	s.closing = true
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		s.cancel()
	} else {
		_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	}
	s.input.push(chunk{last: true})
}

func (s *tcpSession) say(t agentproto.Type, p agentproto.Payload) {
	if !s.isDropped() {
		_ = s.a.out.send(s.id, t, p)
	}
}

func (s *tcpSession) isDropped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

func (s *tcpSession) drop() {
	s.mu.Lock()
	s.dropped = true
	s.mu.Unlock()
	s.terminate()
}

func (s *tcpSession) terminate() {
	s.cancel()
	s.window.close()
	s.input.close()
}
