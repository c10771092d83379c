package microsandbox

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/guest"
)

// ExecEventKind says which fields an [ExecEvent] has.
type ExecEventKind string

// The kinds of events. Exited or failed comes once, and done after it.
const (
	ExecEventStarted    ExecEventKind = "started"     // PID
	ExecEventStdout     ExecEventKind = "stdout"      // Data
	ExecEventStderr     ExecEventKind = "stderr"      // Data
	ExecEventExited     ExecEventKind = "exited"      // ExitCode
	ExecEventFailed     ExecEventKind = "failed"      // Failure: it could not be started
	ExecEventStdinError ExecEventKind = "stdin_error" // Failure: it does not read any more
	ExecEventDone       ExecEventKind = "done"
)

// ExecFailure says why a command could not be started, or written to.
type ExecFailure struct {
	Kind      string // not_found, permission_denied, not_executable, bad_cwd, …
	Errno     *int
	ErrnoName string
	Message   string
	Stage     string
}

// ExecEvent is one thing that a command did.
type ExecEvent struct {
	Kind     ExecEventKind
	PID      uint32 // in the guest
	Data     []byte
	ExitCode int // -1 when a signal killed it
	Failure  *ExecFailure
}

// ExecStream starts a command whose output is received piece by piece. ctx bounds only the start. A command that cannot be
// started is an event, not an error. A command whose output is not received waits; it does not hinder others.
func (s *Sandbox) ExecStream(ctx context.Context, cmd string, args []string, opts ...ExecOption) (*ExecHandle, error) {
	c, cfg, err := commandOf(cmd, args, opts)
	if err != nil {
		return nil, wrap(err)
	}
	return s.stream(ctx, c, cfg.StdinPipe)
}

// ShellStream starts a line of the sandbox's shell as ExecStream does.
func (s *Sandbox) ShellStream(ctx context.Context, line string, opts ...ExecOption) (*ExecHandle, error) {
	c, cfg, err := commandOf(line, nil, opts)
	if err != nil {
		return nil, wrap(err)
	}
	c.what = guest.Line
	return s.stream(ctx, c, cfg.StdinPipe)
}

// ExecDefaultStream starts the entrypoint and the command of the sandbox, or of its image, as ExecStream does. Kind:
// ErrNoDefaultCommand.
func (s *Sandbox) ExecDefaultStream(ctx context.Context, opts ...ExecOption) (*ExecHandle, error) {
	c, cfg, err := commandOf("", nil, opts)
	if err != nil {
		return nil, wrap(err)
	}
	c.what = guest.Default
	return s.stream(ctx, c, cfg.StdinPipe)
}

func (s *Sandbox) stream(ctx context.Context, c command, stdin bool) (*ExecHandle, error) {
	x, err := s.start(ctx, c)
	var failed *agentproto.ExecFailed
	switch {
	case errors.As(err, &failed):
		f := failureOf(string(failed.Kind), failed.Errno, failed.ErrnoName, failed.Message, failed.Stage)
		return &ExecHandle{s: s, queue: []ExecEvent{{Kind: ExecEventFailed, Failure: f}}, over: true, failed: err}, nil
	case err != nil:
		return nil, wrap(err)
	}
	h := &ExecHandle{s: s, x: x, timeout: c.timeout, queue: []ExecEvent{{Kind: ExecEventStarted, PID: x.PID()}}, events: make(chan ExecEvent), gone: make(chan struct{}), idle: make(chan struct{})}
	if stdin {
		h.stdin = &ExecSink{x: x}
	}
	s.mu.Lock()
	s.running.Add(1) // Close waits for it
	s.mu.Unlock()
	go h.receive()
	return h, nil
}

// start starts a command that lives until the connection ends. ctx bounds only the start.
func (s *Sandbox) start(ctx context.Context, c command) (*agentclient.Session, error) {
	client, spec, err := s.agent(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.complete(spec); err != nil {
		return nil, err
	}
	c.req.Timeout = c.timeout
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	x, err := client.Exec(life, c.req)
	if err != nil {
		stop()
		cancel(nil)
		return nil, err
	}
	if !stop() {
		x.Close()
		return nil, ctx.Err()
	}
	return x, nil
}

func failureOf(kind string, errno int32, name, message, stage string) *ExecFailure {
	f := &ExecFailure{Kind: kind, ErrnoName: name, Message: message, Stage: stage}
	if errno != 0 {
		n := int(errno)
		f.Errno = &n
	}
	return f
}

// ExecHandle is a command that was started. One goroutine receives; any may signal. Close gives it back.
type ExecHandle struct {
	s       *Sandbox
	x       *agentclient.Session
	timeout time.Duration
	events  chan ExecEvent
	gone    chan struct{} // closed when the session is over
	idle    chan struct{} // closed when nobody will receive any more
	closed  sync.Once
	err     error // why the session was over, for after gone

	// Of the goroutine that receives:
	queue  []ExecEvent // to be returned first
	over   bool        // only done is left
	failed error       // it did not start
	code   int

	mu    sync.Mutex
	stdin *ExecSink // until it is taken
}

// receive hands out events one by one, so that Recv can be given up without losing one. Once nobody wants them, it drops
// them: a command must not wait for a reader that is gone.
func (h *ExecHandle) receive() {
	defer h.s.running.Done()
	defer close(h.gone)
	defer h.x.Close()
	for {
		e, err := h.x.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				h.err = err
			}
			return
		}
		out := ExecEvent{}
		switch e.Kind {
		case agentclient.EventStdout, agentclient.EventStderr:
			out.Kind, out.Data = ExecEventStdout, slices.Clone(e.Data)
			if e.Kind == agentclient.EventStderr {
				out.Kind = ExecEventStderr
			}
		case agentclient.EventStdinError:
			f := e.StdinError
			out.Kind, out.Failure = ExecEventStdinError, failureOf("stdin", f.Errno, f.ErrnoName, f.Message, "")
		case agentclient.EventExited:
			if _, err := h.x.Wait(); err != nil { // it was killed for its timeout
				h.err = err
				return
			}
			out.Kind, out.ExitCode = ExecEventExited, e.Code
		default:
			continue
		}
		select {
		case h.events <- out:
		case <-h.idle:
		case <-h.s.closing:
		}
	}
}

// ID tells the session from the sandbox's others; it is that of LogEntry.SessionID's client.
func (h *ExecHandle) ID() (string, error) {
	if h.x == nil {
		return "", wrap(h.failed)
	}
	return strconv.FormatUint(uint64(h.x.ID()), 10), nil
}

// TakeStdin returns what writes to the command, once; nil at the second call, and without [WithExecStdinPipe].
func (h *ExecHandle) TakeStdin() *ExecSink {
	h.mu.Lock()
	defer h.mu.Unlock()
	sink := h.stdin
	h.stdin = nil
	return sink
}

// Recv returns the next event; after the last one it returns ExecEventDone, again and again. Kinds: ErrExecTimeout,
// ErrSandboxNotRunning, ErrCancelled by ctx, which does not end the command.
func (h *ExecHandle) Recv(ctx context.Context) (*ExecEvent, error) {
	if len(h.queue) > 0 {
		e := h.queue[0]
		h.queue = h.queue[1:]
		return &e, nil
	}
	if h.over {
		return &ExecEvent{Kind: ExecEventDone}, nil
	}
	select {
	case e := <-h.events:
		if e.Kind == ExecEventExited {
			h.over, h.code = true, e.ExitCode
		}
		return &e, nil
	case <-h.gone:
		h.over = true
		if h.err != nil {
			return nil, h.s.explain(ctx, h.err, h.timeout)
		}
		return &ExecEvent{Kind: ExecEventDone}, nil
	case <-ctx.Done():
		return nil, wrap(ctx.Err())
	}
}

// each receives what is left and returns the exit code.
func (h *ExecHandle) each(ctx context.Context, do func(*ExecEvent) error) (int, error) {
	for {
		e, err := h.Recv(ctx)
		switch {
		case err != nil:
			return -1, err
		case e.Kind == ExecEventFailed:
			return -1, wrap(h.failed)
		case e.Kind == ExecEventDone && h.failed != nil:
			return -1, wrap(h.failed)
		case e.Kind == ExecEventDone:
			return h.code, nil
		}
		if err := do(e); err != nil {
			return -1, err
		}
	}
}

// Collect receives what is left and returns it. What is kept is bounded as in Sandbox.Exec. Kind: ErrExecFailed.
func (h *ExecHandle) Collect(ctx context.Context) (*ExecOutput, error) {
	left := maxOutput
	stdout, stderr := capture{left: &left}, capture{left: &left}
	code, err := h.each(ctx, func(e *ExecEvent) (err error) {
		switch e.Kind {
		case ExecEventStdout:
			_, err = stdout.Write(e.Data)
		case ExecEventStderr:
			_, err = stderr.Write(e.Data)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ExecOutput{stdout: stdout.Bytes(), stderr: stderr.Bytes(), code: code}, nil
}

// Wait receives what is left, drops it and returns the exit code. Kind: ErrExecFailed.
func (h *ExecHandle) Wait(ctx context.Context) (int, error) {
	return h.each(ctx, func(*ExecEvent) error { return nil })
}

// Kill kills the command and all of its process group.
func (h *ExecHandle) Kill(ctx context.Context) error { return h.Signal(ctx, int(syscall.SIGKILL)) }

// Signal sends a signal to the command's process group. One that has ended gets none.
func (h *ExecHandle) Signal(ctx context.Context, signal int) error {
	if err := ctx.Err(); err != nil || h.x == nil {
		return wrap(err)
	}
	return wrap(h.x.Signal(signal))
}

// Resize tells the command's terminal its size.
func (h *ExecHandle) Resize(ctx context.Context, rows, cols uint16) error {
	if err := ctx.Err(); err != nil || h.x == nil {
		return wrap(err)
	}
	return wrap(h.x.Resize(rows, cols))
}

// Close gives the handle back. The command goes on, and what it prints is dropped: to end it, Kill it first. It ends when the
// Sandbox is closed. Close may be called twice.
func (h *ExecHandle) Close() error {
	if h.idle != nil {
		h.closed.Do(func() { close(h.idle) })
	}
	return nil
}

// ExecSink writes to a command.
type ExecSink struct {
	x      *agentclient.Session
	closed sync.Once
}

// Write sends input. It waits while the command does not read, until that ends.
func (s *ExecSink) Write(p []byte) (int, error) {
	n, err := s.x.Write(p)
	return n, wrap(err)
}

// WriteCtx is Write, unless ctx has ended.
func (s *ExecSink) WriteCtx(ctx context.Context, p []byte) (int, error) {
	n, err := s.x.WriteContext(ctx, p)
	return n, wrap(err)
}

// Close ends the command's input. It may be called twice.
func (s *ExecSink) Close() (err error) {
	s.closed.Do(func() { err = s.x.CloseStdin() })
	return wrap(err)
}
