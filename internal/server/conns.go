package server

import (
	"context"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// idleConn is how long a connection that nobody uses is kept.
const idleConn = time.Minute

// conns are the connections to sandboxes' agents, one for each sandbox: a relay has 128 places, and a request each would take
// more (contract msb-0.6 §4.3).
type conns struct {
	backend backend.Backend

	mu     sync.Mutex
	all    map[sandbox.Ref]*conn
	closed bool
}

// conn is one of them. Its fields are conns.mu's but for those that ready guards.
type conn struct {
	users int
	idle  *time.Timer
	ready chan struct{} // closed when client or err is set
	// Of whoever waited for ready:
	client *agentclient.Client
	err    error
}

func newConns(b backend.Backend) *conns {
	return &conns{backend: b, all: map[sandbox.Ref]*conn{}}
}

// Agent returns the connection to the agent of a running sandbox, which others use at the same time. The caller calls release
// once, after its sessions have ended, and never closes the client. Kinds: NotFound, NotRunning, Protocol.
func (s *Server) Agent(ctx context.Context, ref sandbox.Ref) (client *agentclient.Client, release func(), err error) {
	return s.conns.acquire(ctx, ref)
}

// Connections is how many connections to agents there are.
func (s *Server) Connections() int {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return len(s.conns.all)
}

func (p *conns) acquire(ctx context.Context, ref sandbox.Ref) (*agentclient.Client, func(), error) {
	for {
		c, mine, err := p.join(ref)
		if err != nil {
			return nil, nil, err
		}
		if mine {
			// The dial is everybody's who waits, so that the end of this request does not end it.
			go p.dial(context.WithoutCancel(ctx), ref, c)
		}
		release := sync.OnceFunc(func() { p.leave(ref, c) })
		select {
		case <-c.ready:
		case <-ctx.Done():
			release()
			return nil, nil, &sandbox.Error{Op: "connect", Ref: ref, Kind: sandbox.Cancelled, Message: "connect", Err: context.Cause(ctx)}
		}
		if c.err != nil {
			release()
			return nil, nil, c.err
		}
		select {
		case <-c.client.Done(): // the sandbox ended; there may be another of that name
			p.forget(ref, c)
			release()
			continue
		default:
			return c.client, release, nil
		}
	}
}

// join counts the caller among the users of a connection. mine says that the caller has to dial it.
func (p *conns) join(ref sandbox.Ref) (c *conn, mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, &sandbox.Error{Op: "connect", Ref: ref, Kind: sandbox.Cancelled, Message: "the server is shutting down"}
	}
	c = p.all[ref]
	if c == nil {
		c, mine = &conn{ready: make(chan struct{})}, true
		p.all[ref] = c
	}
	c.users++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	return c, mine, nil
}

// dialTimeout is how long a relay may take to greet.
const dialTimeout = 15 * time.Second

func (p *conns) dial(ctx context.Context, ref sandbox.Ref, c *conn) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := p.backend.Dial(ctx, ref)
	if err == nil {
		c.client, err = agentclient.Connect(ctx, raw)
	}
	if err != nil {
		c.err = err
		p.forget(ref, c)
	}
	close(c.ready)
}

// leave is called once by each user.
func (p *conns) leave(ref sandbox.Ref, c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.users--
	if c.users > 0 {
		return
	}
	if p.all[ref] != c || p.closed {
		p.end(c)
		return
	}
	c.idle = time.AfterFunc(idleConn, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c.users == 0 && p.all[ref] == c {
			delete(p.all, ref)
			p.end(c)
		}
	})
}

// end closes a connection that has no users, once it is dialled.
func (p *conns) end(c *conn) {
	go func() {
		<-c.ready
		if c.client != nil {
			_ = c.client.Close()
		}
	}()
}

// forget takes a connection out, which its last user closes.
func (p *conns) forget(ref sandbox.Ref, c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[ref] == c {
		delete(p.all, ref)
	}
}

// drain lets no new user in.
func (p *conns) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// close ends all connections, and with them what still runs over them.
func (p *conns) close() {
	p.drain()
	p.mu.Lock()
	all := p.all
	p.all = map[sandbox.Ref]*conn{}
	for _, c := range all {
		if c.idle != nil {
			c.idle.Stop()
		}
	}
	p.mu.Unlock()
	for _, c := range all {
		<-c.ready
		if c.client != nil {
			_ = c.client.Close()
		}
	}
}
