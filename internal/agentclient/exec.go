package agentclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ExecRequest says what to run. Only Cmd is needed. It is sent as it is: what a sandbox's spec adds to a command
// (contract msb-0.6 §2.4) the caller has added.
type ExecRequest struct {
	Cmd        string
	Args       []string
	Env        []string // K=V, over the guest's own
	Cwd        string   // default the guest's
	User       string   // NAME|UID[:GROUP|GID]; default the guest's
	TTY        bool
	Rows, Cols uint16 // of the TTY; default 24 and 80
	Rlimits    []sandbox.Rlimit
	Timeout    time.Duration // then the command is killed; 0 is never
	// Linger ends the session when the command has ended and those that it left behind with its output have printed nothing for so long.
	// 0 waits for their end.
	Linger time.Duration

	// Stdin is copied to the command until its end. When it is nil nothing is, and the command's input stays open until
	// CloseStdin.
	Stdin io.Reader
	// Stdout and Stderr get the output while Wait runs; nil drops it. A TTY has only output.
	Stdout, Stderr io.Writer
}

// Complete adds what the sandbox's spec says; the side that runs commands has to (contract msb-0.6 §2.4). env is over the
// spec's variables, and of its own the request has none yet. A TTY gets TERM from this process's environment.
func (r *ExecRequest) Complete(spec sandbox.Spec, env []sandbox.EnvVar) {
	r.Cwd = cmp.Or(r.Cwd, spec.Runtime.Workdir, "/")
	r.User = cmp.Or(r.User, spec.Runtime.User)
	term := r.TTY
	for _, e := range spec.Env {
		if !slices.ContainsFunc(env, func(own sandbox.EnvVar) bool { return own.Key == e.Key }) {
			r.Env = append(r.Env, e.Key+"="+e.Value)
			term = term && e.Key != "TERM"
		}
	}
	for _, e := range env {
		r.Env = append(r.Env, e.Key+"="+e.Value)
		term = term && e.Key != "TERM"
	}
	if term {
		r.Env = append(r.Env, "TERM="+cmp.Or(os.Getenv("TERM"), "xterm"))
	}
}

// Session is one command in the guest. It is received from with Recv, or with Wait, which receives the rest.
type Session struct {
	req    ExecRequest
	stream *Stream
	pid    uint32
	ctx    context.Context // of the command: its end kills it
	cancel context.CancelCauseFunc
	stop   func() bool // the watch over ctx
	killed chan struct{}

	// Of the goroutine that receives:
	last    Message         // of the event that Recv returned
	drain   context.Context // after the kill; nil before
	drained context.CancelFunc

	mu     sync.Mutex
	code   int
	over   bool
	signal int // that killed the command
	err    error
}

// drainTime is how long a command may take to die of SIGKILL before it is given up (contract msb-0.6 §2.4).
const drainTime = 5 * time.Second

// errTimeout is the cause of a command's end by ExecRequest.Timeout.
var errTimeout = errors.New("timeout")

// Exec starts a command and returns when it runs. ctx is the command's: when it ends, the command is killed.
//
// A command that did not start is a sandbox.ExecFailed error with an [agentproto.ExecFailed] in its chain. Who got a
// Session calls Wait, or Recv until EventExited, or Close.
func (c *Client) Exec(ctx context.Context, req ExecRequest) (*Session, error) {
	m := &agentproto.ExecRequest{Cmd: req.Cmd, Args: req.Args, Env: req.Env, Cwd: req.Cwd, User: req.User, TTY: req.TTY,
		Rows: req.Rows, Cols: req.Cols, Window: c.offered(), Linger: uint32(req.Linger.Milliseconds())}
	for _, l := range req.Rlimits {
		m.Rlimits = append(m.Rlimits, agentproto.Rlimit{Resource: l.Resource, Soft: l.Soft, Hard: l.Hard})
	}
	if err := ctx.Err(); err != nil {
		return nil, ctxError("exec", ctx)
	}
	stream, err := c.Stream(agentproto.TypeExecRequest, m, m.Window)
	if err != nil {
		return nil, err
	}
	s := &Session{req: req, stream: stream, killed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if req.Timeout > 0 {
		timer := time.AfterFunc(req.Timeout, func() { s.cancel(errTimeout) })
		context.AfterFunc(s.ctx, func() { timer.Stop() })
	}
	s.stop = context.AfterFunc(s.ctx, s.kill)
	if err := s.started(); err != nil {
		s.Close()
		return nil, err
	}
	if req.Stdin != nil {
		go s.copyStdin()
	}
	return s, nil
}

// kill is what the end of ctx does.
func (s *Session) kill() {
	close(s.killed) // first: the exit may come before the signal's sender returns
	_ = s.Signal(int(syscall.SIGKILL))
}

// started receives the first message.
func (s *Session) started() error {
	m, err := s.recv()
	if err != nil {
		return err
	}
	defer m.Release()
	switch m.Type {
	case agentproto.TypeExecFailed:
		var failed agentproto.ExecFailed
		if err := m.expect(agentproto.TypeExecFailed, &failed); err != nil {
			return err
		}
		return &sandbox.Error{Op: "exec", Kind: sandbox.ExecFailed, Err: &failed}
	default:
		var started agentproto.ExecStarted
		if err := m.expect(agentproto.TypeExecStarted, &started); err != nil {
			return err
		}
		s.pid = started.PID
	}
	return nil
}

// recv receives the next message. After a kill it gives the command time to die.
func (s *Session) recv() (Message, error) {
	m, err := s.stream.Recv(s.ctx)
	if err == nil || s.ctx.Err() == nil {
		return m, err
	}
	if s.drain == nil {
		s.drain, s.drained = context.WithTimeout(context.WithoutCancel(s.ctx), drainTime)
	}
	m, err = s.stream.Recv(s.drain)
	if err != nil && s.drain.Err() != nil {
		err = s.giveUp()
	}
	return m, err
}

// endedBy is the error of a command that was killed because its context ended, else nil.
func (s *Session) endedBy() error {
	select {
	case <-s.killed:
		return s.giveUp()
	default:
		return nil
	}
}

// giveUp says why the context ended.
func (s *Session) giveUp() error {
	cause := context.Cause(s.ctx)
	switch {
	case errors.Is(cause, errTimeout):
		return &sandbox.Error{Op: "exec", Kind: sandbox.ExecTimeout, Message: fmt.Sprintf("exec timed out after %v", s.req.Timeout)}
	case errors.Is(cause, context.DeadlineExceeded):
		return &sandbox.Error{Op: "exec", Kind: sandbox.ExecTimeout, Message: "exec timed out", Err: cause}
	}
	return &sandbox.Error{Op: "exec", Kind: sandbox.Cancelled, Message: "exec", Err: cause}
}

// PID is the command's number in the guest.
func (s *Session) PID() uint32 { return s.pid }

// ID is the correlation id of the session.
func (s *Session) ID() uint32 { return s.stream.ID() }

// Write sends input to the command. It waits while the command does not read.
func (s *Session) Write(p []byte) (int, error) { return s.WriteContext(s.ctx, p) }

// WriteContext is Write until ctx ends. What of p was sent then is not known.
func (s *Session) WriteContext(ctx context.Context, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.stream.SendData(ctx, agentproto.TypeExecStdin, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseStdin ends the command's input. For a TTY it does nothing; there the end is a character (0x04).
func (s *Session) CloseStdin() error {
	return s.stream.SendData(s.ctx, agentproto.TypeExecStdin, nil)
}

// stdinRead is how much of Stdin goes into one frame.
const stdinRead = 32 << 10

// copyStdin lives until Stdin or the session ends. A read that is under way then is not interrupted.
func (s *Session) copyStdin() {
	buf := agentproto.NewDataBuffer(stdinRead)
	for {
		n, err := s.req.Stdin.Read(buf.Space())
		if n > 0 && s.stream.SendFrame(s.ctx, agentproto.TypeExecStdin, buf, n) != nil {
			return
		}
		if err != nil {
			_ = s.CloseStdin()
			return
		}
	}
}

// Resize tells the command's TTY its size.
func (s *Session) Resize(rows, cols uint16) error {
	return s.stream.Send(agentproto.TypeExecResize, &agentproto.ExecResize{Rows: rows, Cols: cols})
}

// Signal sends a signal to the command's process group.
func (s *Session) Signal(number int) error {
	return s.stream.Send(agentproto.TypeExecSignal, &agentproto.ExecSignal{Signal: int32(number)})
}

// EventKind says which of its fields an Event has.
type EventKind uint8

// The kinds of events. EventExited is the last one.
const (
	EventStdout EventKind = iota + 1
	EventStderr
	EventStdinError
	EventExited
)

// Event is one thing that a command did. Data is valid until the next Recv.
type Event struct {
	Kind       EventKind
	Data       []byte // EventStdout, EventStderr
	StdinError *agentproto.ExecStdinError
	Code       int // EventExited; -1 is the end by a signal
	Signal     int // EventExited: that signal, if the agent says it
}

// Recv returns the next event, and io.EOF after EventExited. One goroutine may call it.
func (s *Session) Recv() (Event, error) {
	s.last.Release()
	m, err := s.recv()
	if err != nil {
		s.end(-1, err)
		return Event{}, err
	}
	s.last = m
	switch m.Type {
	case agentproto.TypeExecStdout, agentproto.TypeExecStderr:
		data, err := agentproto.DecodeData(m.Payload)
		if err != nil {
			return Event{}, &sandbox.Error{Kind: sandbox.Protocol, Err: err}
		}
		kind := EventStdout
		if m.Type == agentproto.TypeExecStderr {
			kind = EventStderr
		}
		return Event{Kind: kind, Data: data}, nil
	case agentproto.TypeExecStdinError:
		var e agentproto.ExecStdinError
		err := m.expect(agentproto.TypeExecStdinError, &e)
		return Event{Kind: EventStdinError, StdinError: &e}, err
	case agentproto.TypeExecExited, agentproto.TypeError:
		var e agentproto.ExecExited
		if err := m.expect(agentproto.TypeExecExited, &e); err != nil {
			s.end(-1, err)
			return Event{}, err
		}
		s.mu.Lock()
		s.signal = int(e.Signal)
		s.mu.Unlock()
		s.end(int(e.Code), s.endedBy())
		return Event{Kind: EventExited, Code: int(e.Code), Signal: int(e.Signal)}, nil
	}
	return s.Recv() // not known to this generation
}

// Signaled is the signal that killed the command, once it has ended; 0 if none did, or if the agent does not say.
func (s *Session) Signaled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signal
}

// end notes how the session ended, once.
func (s *Session) end(code int, err error) {
	s.mu.Lock()
	if !s.over {
		s.over, s.code, s.err = true, code, err
	}
	s.mu.Unlock()
	s.stop()
	s.cancel(nil)
	if s.drained != nil {
		s.drained()
	}
}

// Wait receives what the command has yet to say, writes its output to Stdout and Stderr, and returns its exit code,
// which is -1 for a command that a signal killed. A code other than 0 is not an error. If one of the writers fails, the
// command is killed and the writer's error returned.
func (s *Session) Wait() (int, error) {
	defer s.Close()
	for {
		s.mu.Lock()
		over, code, err := s.over, s.code, s.err
		s.mu.Unlock()
		if over {
			return code, err
		}
		e, err := s.Recv()
		if err != nil {
			continue // it is over
		}
		to := s.req.Stdout
		if e.Kind == EventStderr {
			to = s.req.Stderr
		}
		if to == nil || len(e.Data) == 0 {
			continue
		}
		if _, err := to.Write(e.Data); err != nil {
			_ = s.Signal(int(syscall.SIGKILL))
			return -1, err
		}
	}
}

// Close lets go of the session. A command that still runs is killed. It may be called twice, but not while Recv or Wait
// run: what ends those is the end of ctx, or Signal.
func (s *Session) Close() {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if !over {
		_ = s.Signal(int(syscall.SIGKILL)) // for agents that cannot be told to drop a session
		s.end(-1, errEnded)
	}
	s.last.Release()
	s.stream.Close()
}
