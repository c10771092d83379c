// Package agent is the guest's side of a sandbox: its PID 1, which runs commands, serves files and dials TCP for the
// clients on the other side of one connection (contract msb-0.6 §4).
//
// An [Agent] is filled in and run once. Run reads core.bootstrap, applies it, says core.ready and then serves until
// the connection ends or core.shutdown arrives; before it returns, every process it started is dead.
//
// One goroutine reads the connection and never writes to it, and never waits for a command, so that a signal reaches a
// session however much another one has to say. Output takes the other way: whoever reads a pipe writes the connection
// itself, and waits there when the host does.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// Agent is the guest's agent. Conn is all it needs.
type Agent struct {
	Conn io.ReadWriteCloser // to the host
	Init bool               // this process is PID 1: it adopts orphans, and all that runs is its own to kill
	// TakesOver is set in the process that serves the guest of an agent which has become the guest's own init (see HandedOver).
	TakesOver bool
	Root      string        // where the guest's root is; default /
	Version   string        // for core.ready
	Started   time.Time     // when the process started; default now
	Boot      time.Duration // how long the kernel ran before that; for core.ready
	// AckTimeout is how long to wait for core.init.ack; default 60 s (contract msb-0.6 §4.4).
	AckTimeout time.Duration
	// Grace is how long core.shutdown leaves commands to end by themselves; default 2 s.
	Grace time.Duration

	frames *agentproto.Reader
	out    *wire
	reaper *reaper
	users  userDB
	pipes  spare
	guest  atomic.Pointer[guest] // what core.bootstrap asked for

	activity atomic.Uint64
	stopping atomic.Bool

	mu       sync.Mutex
	sessions map[uint32]session
	running  sync.WaitGroup // sessions
	handles  handleTable
	kernels  kernels
}

// session is something with an id that takes frames until it ends.
type session interface {
	// message takes one frame of the session, and with it the duty to release it. It does not block for long.
	message(t agentproto.Type, payload []byte, f *agentproto.Frame) error
	// drop ends the session at once, because nobody is there any more to hear of it.
	drop()
	// terminate asks the session to end.
	terminate()
}

// maxSessions bounds what the host may have open at once.
const maxSessions = 4096

// errGone is the end of the connection, in whichever way it came.
var errGone = errors.New("the host is gone")

// Run serves the connection until it ends. It returns nil after core.shutdown and at the end of the connection.
func (a *Agent) Run() error {
	if a.Root == "" {
		a.Root = "/"
	}
	if a.Started.IsZero() {
		a.Started = time.Now()
	}
	if a.AckTimeout == 0 {
		a.AckTimeout = 60 * time.Second
	}
	if a.Grace == 0 {
		a.Grace = 2 * time.Second
	}
	if f, ok := a.Conn.(*os.File); ok {
		a.Conn = quickFile(f)
	}
	a.frames = agentproto.NewReader(a.Conn)
	a.out = newWire(a.Conn, &a.activity)
	a.reaper = newReaper(a.Init)
	a.users = userDB{root: a.Root}
	a.sessions = make(map[uint32]session)
	a.kernels.a = a
	defer a.end()

	begin := a.bootstrap
	if a.TakesOver {
		begin = a.takeOver
	}
	if err := begin(); err != nil {
		if errors.Is(err, errGone) {
			return nil
		}
		_ = a.out.send(0, agentproto.TypeError, &agentproto.Error{Kind: agentproto.InvalidPayload, Message: err.Error(),
			OffendingType: string(agentproto.TypeBootstrap)})
		return fmt.Errorf("bring up the guest: %w", err)
	}
	if a.Init {
		ignoreChildren()
		go a.watchSignals()
	}
	a.pipes.fill()
	return a.serve()
}

// serve reads frames until the connection ends.
func (a *Agent) serve() error {
	for {
		f, err := a.next()
		switch {
		case err == nil:
			a.dispatch(f)
		case errors.Is(err, errGone) || a.stopping.Load():
			return nil
		default:
			return err
		}
	}
}

// end kills what is left and waits for it.
func (a *Agent) end() {
	a.out.close()
	a.mu.Lock()
	a.stopping.Store(true)
	a.mu.Unlock()
	a.drop(func(uint32) bool { return true })
	a.handles.closeAll()
	if a.Init {
		killAll()
	}
	_ = a.Conn.Close()
	a.kernels.close()
	a.running.Wait()
	a.pipes.close()
}

// next reads a frame from the host.
func (a *Agent) next() (*agentproto.Frame, error) {
	f, err := a.frames.Next()
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe), connectionGone(err):
		return nil, errGone
	}
	return nil, fmt.Errorf("read from the host: %w", err)
}

// open registers a session; it refuses an id that is taken, and more than maxSessions.
func (a *Agent) open(id uint32, s session) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.stopping.Load():
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: agentproto.ShuttingDown}
	case id == 0:
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: "a session needs an id other than 0"}
	case a.sessions[id] != nil:
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: fmt.Sprintf("session %d exists", id)}
	case len(a.sessions) >= maxSessions:
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: fmt.Sprintf("more than %d sessions", maxSessions)}
	}
	a.sessions[id] = s
	a.running.Add(1)
	return nil
}

// forget forgets a session and lets its id be used again. It comes before the session's terminal frame.
func (a *Agent) forget(id uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, id)
}

func (a *Agent) session(id uint32) session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[id]
}

// drop drops the sessions whose ids match.
func (a *Agent) drop(match func(id uint32) bool) {
	var gone []session
	a.mu.Lock()
	for id, s := range a.sessions {
		if match(id) {
			gone = append(gone, s)
		}
	}
	a.mu.Unlock()
	for _, s := range gone {
		s.drop()
	}
}

// shutdown asks every session to end, kills what has not after the grace, and ends the connection.
func (a *Agent) shutdown() {
	a.mu.Lock()
	again := a.stopping.Swap(true) // under mu: no session comes after the loop below
	a.mu.Unlock()
	if again {
		return
	}
	if a.Init {
		terminateAll()
	}
	a.kernels.stop()
	a.mu.Lock()
	for _, s := range a.sessions {
		s.terminate()
	}
	a.mu.Unlock()
	go func() {
		done := make(chan struct{})
		go func() {
			a.running.Wait()
			if a.Init {
				a.reaper.waitEmpty()
			}
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(a.Grace):
		}
		a.reaper.killAll()
		syncFS()
		if a.TakesOver {
			endInit()
		}
		stopReading(a.Conn)
	}()
}
