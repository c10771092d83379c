package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Cmd is a command of a sandbox in the shape of os/exec's: set its fields, then Run or Start it, once.
type Cmd struct {
	Path string   // looked for on the guest's PATH
	Args []string // without Path
	Env  []string // K=V, over the sandbox's
	Dir  string   // default the sandbox's working directory
	User string   // default the sandbox's user
	// Stdin is what the command reads; nil is nothing, and its input is empty. A read of it that is under way when the
	// command ends is not waited for.
	Stdin io.Reader
	// Stdout and Stderr get what it prints; nil drops it. If they are the same, one Write at a time is called.
	Stdout, Stderr io.Writer

	// ProcessState is how the command ended, once Wait or Run have returned.
	ProcessState *ProcessState

	s      *Sandbox
	ctx    context.Context
	x      *agentclient.Session
	pid    int
	waited bool
	ours   []io.Closer // ends of pipes, to be closed when the command has ended
	theirs []io.Closer // the other ends, to be closed by Wait
	done   chan struct{}
	code   int   // for after done
	err    error // for after done
}

// CommandContext returns a command for the sandbox. When ctx ends before the command, that is killed. Unlike in os/exec, Args
// does not have the name.
func (s *Sandbox) CommandContext(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Path: name, Args: args, s: s, ctx: ctx}
}

// Command is CommandContext without a context.
func (s *Sandbox) Command(name string, args ...string) *Cmd {
	return s.CommandContext(context.Background(), name, args...)
}

// ProcessState is how a command ended.
type ProcessState struct{ pid, code, signal int }

// Pid is the command's number in the guest.
func (p *ProcessState) Pid() int { return p.pid }

// ExitCode is the exit code, and -1 when a signal killed the command.
func (p *ProcessState) ExitCode() int { return p.code }

// Signal is the number of the signal that killed the command, 0 if none did.
func (p *ProcessState) Signal() int { return p.signal }

// Exited reports whether the command exited by itself.
func (p *ProcessState) Exited() bool { return p.code >= 0 }

// Success reports whether the exit code is 0.
func (p *ProcessState) Success() bool { return p.code == 0 }

// String is how a person says it.
func (p *ProcessState) String() string {
	switch {
	case p == nil:
		return "<nil>"
	case p.signal > 0:
		return fmt.Sprintf("signal: %d", p.signal)
	}
	return fmt.Sprintf("exit status %d", p.code)
}

// ExitError is the error of a command whose exit code is not 0.
type ExitError struct {
	*ProcessState
	Stderr []byte // the end of what it printed there, if it was Output that ran it and Stderr was nil
}

// Error is the state.
func (e *ExitError) Error() string { return e.ProcessState.String() }

// String is the command as a person would write it.
func (c *Cmd) String() string {
	s := c.Path
	for _, a := range c.Args {
		s += " " + a
	}
	return s
}

// Start starts the command. Kind: ErrExecFailed. Errors of ctx are ErrCancelled.
func (c *Cmd) Start() error {
	err := c.start()
	if err != nil {
		c.closePipes()
	}
	return wrap(err)
}

func (c *Cmd) start() error {
	switch {
	case c.x != nil || c.waited:
		return fail(ErrInvalidHandle, "the command was started already")
	}
	client, spec, err := c.s.agent(c.ctx)
	if err != nil {
		return err
	}
	cmd := command{req: agentclient.ExecRequest{Cmd: c.Path, Args: c.Args, Cwd: c.Dir, User: c.User, Stdout: c.Stdout, Stderr: c.Stderr}}
	for _, e := range c.Env {
		v, err := sandbox.ParseEnv(e)
		if err == nil {
			err = sandbox.ValidateEnv(v)
		}
		if err != nil {
			return err
		}
		cmd.env = append(cmd.env, v)
	}
	if err := sandbox.ValidateUser(c.User); err != nil {
		return err
	}
	if err := cmd.complete(spec); err != nil {
		return err
	}
	if cmd.req.Stdin = c.Stdin; c.Stdin == nil {
		cmd.req.Stdin = bytes.NewReader(nil)
	}
	if c.x, err = client.Exec(c.ctx, cmd.req); err != nil {
		c.x = nil
		return err
	}
	c.pid, c.done = int(c.x.PID()), make(chan struct{})
	go c.pump()
	return nil
}

// pump writes what the command prints to where it belongs. Whoever waits waits for it.
func (c *Cmd) pump() {
	defer close(c.done)
	c.code, c.err = c.x.Wait()
	for _, p := range c.ours {
		_ = p.Close()
	}
}

// Wait waits for the command that Start started, and for all that it prints. Its error is an *ExitError for an exit code
// other than 0. It closes the command's pipes: read them to their end first.
func (c *Cmd) Wait() error {
	if c.x == nil || c.waited {
		return fail(ErrInvalidHandle, "the command is not running")
	}
	c.waited = true
	<-c.done
	c.closePipes()
	var known *sandbox.Error
	switch err := c.err; {
	case errors.As(err, &known):
		return c.s.explain(c.ctx, err, 0)
	case err != nil: // that of a writer
		return wrap(err)
	}
	c.ProcessState = &ProcessState{pid: c.pid, code: c.code, signal: c.x.Signaled()}
	if c.code != 0 {
		return &ExitError{ProcessState: c.ProcessState}
	}
	return nil
}

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// maxStderr bounds ExitError.Stderr, in bytes.
const maxStderr = 32 << 10

// Output runs the command and returns what it prints to its standard output, at most 256 MiB.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, fail(ErrInvalidArgument, "Stdout is set already")
	}
	left := maxOutput
	out := capture{left: &left}
	c.Stdout = &out
	var errs *tail
	if c.Stderr == nil {
		errs = &tail{}
		c.Stderr = errs
	}
	err := c.Run()
	var exit *ExitError
	if errs != nil && errors.As(err, &exit) {
		exit.Stderr = errs.b
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns all that it prints, at most 256 MiB.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, fail(ErrInvalidArgument, "Stdout or Stderr is set already")
	}
	left := maxOutput
	out := capture{left: &left}
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxStderr; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// Signal sends a signal to the command's process group.
func (c *Cmd) Signal(number int) error {
	if c.x == nil {
		return fail(ErrInvalidHandle, "the command is not running")
	}
	return wrap(c.x.Signal(number))
}

// Pid is the command's number in the guest, 0 before it was started.
func (c *Cmd) Pid() int { return c.pid }

// StdinPipe returns what writes to the command; closing it ends its input. Wait closes it, too.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	if c.Stdin != nil || c.x != nil {
		return nil, fail(ErrInvalidArgument, "Stdin is set already, or the command was started")
	}
	r, w := io.Pipe()
	c.Stdin = r
	c.ours, c.theirs = append(c.ours, r), append(c.theirs, w)
	return w, nil
}

// StdoutPipe returns what reads the command's standard output. It ends with the command. What is not read is waited for.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) { return c.pipe(&c.Stdout) }

// StderrPipe returns what reads the command's standard error. It ends with the command. What is not read is waited for.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) { return c.pipe(&c.Stderr) }

// pipe makes a pipe that a process of this machine could have: a little fits into it before it is read.
func (c *Cmd) pipe(to *io.Writer) (io.ReadCloser, error) {
	if *to != nil || c.x != nil {
		return nil, fail(ErrInvalidArgument, "the output is set already, or the command was started")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, wrap(&sandbox.Error{Op: "exec", Kind: sandbox.IO, Err: err})
	}
	*to = w
	c.ours, c.theirs = append(c.ours, w), append(c.theirs, r)
	return r, nil
}

func (c *Cmd) closePipes() {
	for _, p := range append(c.ours, c.theirs...) {
		_ = p.Close() // some for the second time
	}
}
