package runner

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
)

// sessionKind is what a session does.
type sessionKind int

const (
	execSession sessionKind = iota
	fsSession
	tcpSession
	cellSession // of an interpreter
)

// prints reports whether what such a session prints is logged. Those that do are numbered.
func (k sessionKind) prints() bool { return k == execSession || k == cellSession }

// session is one of a client's.
type session struct {
	kind sessionKind
	log  *execlog.Session // what it prints; nil: is not logged
}

// work counts what clients have the guest do. The counters are contract msb-0.6 §4.7's, kept where no guest can say otherwise.
type work struct {
	// activity counts messages but pings, touched, errors and the clock's. Who looks at it from time to time knows when
	// something happened last.
	activity atomic.Uint64

	mu       sync.Mutex
	execs    uint64 // and cells begun so far: the number of the last one
	open     int    // sessions
	draining bool
	drained  func() // called when the last session of a draining sandbox ends
}

func (w *work) isDraining() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining
}

// sessions is how many there are.
func (w *work) sessions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// enter begins a session, unless the sandbox is draining. n is the number of a session that prints.
func (w *work) enter(kind sessionKind) (n uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.draining {
		return 0, false
	}
	w.open++
	if kind.prints() {
		w.execs++
	}
	return w.execs, true
}

func (w *work) leave(sessions int) {
	w.mu.Lock()
	w.open -= sessions
	over := sessions > 0 && w.draining && w.open == 0
	w.mu.Unlock()
	if over {
		w.drained()
	}
}

// drain lets no session begin from now on, and calls done when there is none any more. It reports false if it was called before.
func (w *work) drain(done func()) bool {
	w.mu.Lock()
	again, over := w.draining, w.open == 0
	if !again {
		w.draining, w.drained = true, done
	}
	w.mu.Unlock()
	if !again && over {
		done()
	}
	return !again
}

// smallBody is how long a body is at most of those that are no activity, but core.error.
const smallBody = 128

// isActivity reports whether a message counts as work (contract msb-0.6 §4.7). Data is not looked into.
func isActivity(f *agentproto.Frame) bool {
	if len(f.Body()) > smallBody {
		return f.Flags&agentproto.Terminal == 0 || agentproto.TypeOf(f.Body()) != agentproto.TypeError
	}
	switch agentproto.TypeOf(f.Body()) {
	case agentproto.TypeClockSync, agentproto.TypePing, agentproto.TypePong, agentproto.TypeTouched, agentproto.TypeError:
		return false
	}
	return true
}

// begun notes what a client's message begins, and reports whether it is to reach the agent.
func (r *relay) begun(c *client, f *agentproto.Frame) bool {
	if f.Flags&agentproto.SessionStart == 0 {
		if isActivity(f) {
			r.work.activity.Add(1)
		}
		if len(f.Body()) <= smallBody && agentproto.TypeOf(f.Body()) == agentproto.TypeCancel {
			r.over(c, f.ID) // the agent does not answer
		}
		return true
	}
	m, err := agentproto.Open(f.Body())
	if err != nil {
		return true // the agent says what is wrong with it
	}
	var kind sessionKind
	switch m.Type {
	case agentproto.TypeExecRequest:
		kind = execSession
	case agentproto.TypeFSRequest, agentproto.TypeFSPut, agentproto.TypeFSGet:
		kind = fsSession
	case agentproto.TypeTCPConnect:
		kind = tcpSession
	case agentproto.TypeKernelRun:
		kind = cellSession
	case agentproto.TypeKernelRequest: // is answered at once
		r.work.activity.Add(1)
		return true
	default:
		return true
	}
	r.work.activity.Add(1)
	c.mu.Lock()
	_, twice := c.open[f.ID]
	c.mu.Unlock()
	if twice {
		return true // the agent refuses it; only this client's own reader adds to the map
	}
	n, ok := r.work.enter(kind)
	if !ok {
		r.refuse(c, f.ID, "the sandbox is draining: it begins nothing new")
		return false
	}
	s := &session{kind: kind}
	if kind.prints() && r.out != nil {
		var x agentproto.ExecRequest
		if kind == cellSession || agentproto.Decode(m.Payload, &x) == nil {
			s.log = r.out.Session(n, x.TTY, c.whole)
		}
	}
	c.mu.Lock()
	c.open[f.ID] = s
	c.mu.Unlock()
	return true
}

// refuse answers in place of the agent.
func (r *relay) refuse(c *client, id uint32, why string) {
	f := agentproto.NewFrame(agentproto.Append(nil, id, agentproto.TypeError, &agentproto.Error{Kind: agentproto.InvalidSession, Message: why}))
	r.mu.Lock()
	defer r.mu.Unlock() // or close could close the queue
	if r.closed {
		return
	}
	select {
	case c.out <- f:
		c.bytes.Add(int64(len(f.Raw())))
	default:
		c.leave() // it asks without reading the answers
	}
}

// observe notes what the agent's message to a client says: output is logged, the end of a session is counted.
func (r *relay) observe(c *client, f *agentproto.Frame) {
	if isActivity(f) {
		r.work.activity.Add(1)
	}
	if f.Flags&agentproto.Terminal != 0 {
		r.over(c, f.ID)
		return
	}
	c.mu.Lock()
	s := c.open[f.ID]
	c.mu.Unlock()
	if s == nil || s.log == nil {
		return
	}
	m, err := agentproto.Open(f.Body())
	if err != nil {
		return
	}
	write := s.log.Stdout
	switch m.Type {
	case agentproto.TypeExecStdout, agentproto.TypeKernelStdout:
	case agentproto.TypeExecStderr, agentproto.TypeKernelStderr:
		write = s.log.Stderr
	default:
		return
	}
	if data, err := agentproto.DecodeData(m.Payload); err == nil {
		write(data)
	}
}

// over ends a session, if there is one of that id.
func (r *relay) over(c *client, id uint32) {
	c.mu.Lock()
	s := c.open[id]
	delete(c.open, id)
	c.mu.Unlock()
	if s == nil {
		return
	}
	if s.log != nil {
		s.log.End()
	}
	r.work.leave(1)
}

// endAll ends the sessions of a client that has left, and returns them.
func (r *relay) endAll(c *client) map[uint32]*session {
	c.mu.Lock()
	all := maps.Clone(c.open)
	clear(c.open)
	c.mu.Unlock()
	for _, s := range all {
		if s.log != nil {
			s.log.End()
		}
	}
	r.work.leave(len(all))
	return all
}
