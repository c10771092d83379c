package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ExecConfig says how a command runs. Zero fields are what the sandbox's configuration says.
type ExecConfig struct {
	Cwd       string
	Timeout   time.Duration // rounded up to seconds; then the command is killed. 0 is never
	StdinPipe bool
	TTY       bool
	User      string            // NAME|UID[:GROUP|GID]
	Env       map[string]string // over the sandbox's
}

// ExecOption sets something of an [ExecConfig].
type ExecOption func(*ExecConfig)

// WithExecCwd sets the working directory.
func WithExecCwd(path string) ExecOption { return func(c *ExecConfig) { c.Cwd = path } }

// WithExecTimeout kills the command after this time, rounded up to seconds, and makes the call's error ErrExecTimeout.
func WithExecTimeout(d time.Duration) ExecOption { return func(c *ExecConfig) { c.Timeout = d } }

// WithExecStdinPipe lets ExecHandle.TakeStdin write to the command.
func WithExecStdinPipe() ExecOption { return func(c *ExecConfig) { c.StdinPipe = true } }

// WithExecTTY gives the command a terminal, of 24 rows of 80 columns at first. All its output is stdout then.
func WithExecTTY(tty bool) ExecOption { return func(c *ExecConfig) { c.TTY = tty } }

// WithExecUser says whom the command runs as.
func WithExecUser(user string) ExecOption { return func(c *ExecConfig) { c.User = user } }

// WithExecEnv adds environment variables. Later values win.
func WithExecEnv(env map[string]string) ExecOption {
	return func(c *ExecConfig) { merge(&c.Env, env) }
}

// ExecOutput is what a command printed and how it ended.
type ExecOutput struct {
	stdout, stderr []byte
	code           int
}

// Stdout is what it printed to its standard output.
func (o *ExecOutput) Stdout() string { return string(o.stdout) }

// StdoutBytes is what it printed to its standard output.
func (o *ExecOutput) StdoutBytes() []byte { return o.stdout }

// Stderr is what it printed to its standard error.
func (o *ExecOutput) Stderr() string { return string(o.stderr) }

// StderrBytes is what it printed to its standard error.
func (o *ExecOutput) StderrBytes() []byte { return o.stderr }

// ExitCode is its exit code, and -1 when a signal killed it.
func (o *ExecOutput) ExitCode() int { return o.code }

// Success reports whether the exit code is 0.
func (o *ExecOutput) Success() bool { return o.code == 0 }

// Exec runs a command and returns when it has ended. An exit code other than 0 is not an error. At most 256 MiB of output are
// kept; more is ErrBufferTooSmall, and the command is killed. Kinds also: ErrExecFailed, when it could not be started;
// ErrExecTimeout; ErrCancelled, when ctx ended first, which kills it, too; ErrSandboxNotRunning.
func (s *Sandbox) Exec(ctx context.Context, cmd string, args []string, opts ...ExecOption) (*ExecOutput, error) {
	c, _, err := commandOf(cmd, args, opts)
	if err != nil {
		return nil, wrap(err)
	}
	return s.collect(ctx, c)
}

// Shell runs a line of the sandbox's shell as Exec does.
func (s *Sandbox) Shell(ctx context.Context, line string, opts ...ExecOption) (*ExecOutput, error) {
	c, _, err := commandOf(line, nil, opts)
	if err != nil {
		return nil, wrap(err)
	}
	c.what = guest.Line
	return s.collect(ctx, c)
}

// ExecDefault runs the entrypoint and the command of the sandbox, or of its image, as Exec does. Kind: ErrNoDefaultCommand.
func (s *Sandbox) ExecDefault(ctx context.Context, opts ...ExecOption) (*ExecOutput, error) {
	c, _, err := commandOf("", nil, opts)
	if err != nil {
		return nil, wrap(err)
	}
	c.what = guest.Default
	return s.collect(ctx, c)
}

// maxOutput bounds what is kept of a command's output in memory, in bytes. Tests have less.
var maxOutput = 256 << 20

// capture keeps output up to a bound that it shares.
type capture struct {
	bytes.Buffer
	left *int
}

var errTooMuch = &Error{Kind: ErrBufferTooSmall, Message: "the command printed more than is kept in memory: stream it with ExecStream"}

func (c *capture) Write(p []byte) (int, error) {
	if *c.left -= len(p); *c.left < 0 {
		return 0, errTooMuch
	}
	return c.Buffer.Write(p)
}

func (s *Sandbox) collect(ctx context.Context, c command) (*ExecOutput, error) {
	client, spec, err := s.agent(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	if err := c.complete(spec); err != nil {
		return nil, wrap(err)
	}
	left := maxOutput
	stdout, stderr := capture{left: &left}, capture{left: &left}
	c.req.Timeout, c.req.Stdout, c.req.Stderr = c.timeout, &stdout, &stderr
	x, err := client.Exec(ctx, c.req)
	if err != nil {
		return nil, s.explain(ctx, err, c.timeout)
	}
	code, err := x.Wait()
	if err != nil {
		return nil, s.explain(ctx, err, c.timeout)
	}
	return &ExecOutput{stdout: stdout.Bytes(), stderr: stderr.Bytes(), code: code}, nil
}

// explain says what the end of a command's session means: of the connection's end, how the sandbox ended.
func (s *Sandbox) explain(ctx context.Context, err error, timeout time.Duration) error {
	switch sandbox.KindOf(err) {
	case sandbox.ExecTimeout:
		if timeout > 0 && ctx.Err() == nil {
			return &Error{Kind: ErrExecTimeout, Message: guest.TimedOut(timeout).Error(), Cause: err}
		}
	case sandbox.Cancelled:
	default:
		if s.isClosed() && guest.IsEnd(err) {
			return closed()
		}
		var ended *guest.Ended
		if errors.As(guest.Explain(ctx, err, s.handle.info, s.handle.refresh), &ended) && ended.What != "" {
			return &Error{Kind: ErrSandboxNotRunning, Message: ended.Info.NotRunning("").Message + ": it ended: " + ended.What, Cause: err}
		}
	}
	return wrap(err)
}

func (s *Sandbox) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
