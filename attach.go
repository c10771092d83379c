package microsandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/console"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// AttachConfig says how a command gets this process's terminal.
type AttachConfig struct {
	Cwd        string
	User       string
	Env        map[string]string
	DetachKeys string // comma list of ctrl-X; default ctrl-]
}

// AttachOption sets something of an [AttachConfig].
type AttachOption func(*AttachConfig)

// WithAttachCwd sets the working directory.
func WithAttachCwd(path string) AttachOption { return func(c *AttachConfig) { c.Cwd = path } }

// WithAttachUser says whom the command runs as.
func WithAttachUser(user string) AttachOption { return func(c *AttachConfig) { c.User = user } }

// WithAttachEnv adds environment variables. Later values win.
func WithAttachEnv(env map[string]string) AttachOption {
	return func(c *AttachConfig) { merge(&c.Env, env) }
}

// WithAttachDetachKeys sets the keys that leave the session, e.g. "ctrl-p,ctrl-q".
func WithAttachDetachKeys(keys string) AttachOption {
	return func(c *AttachConfig) { c.DetachKeys = keys }
}

// Attach runs a command on this process's terminal and returns its exit code, and -1 when the session was left with the
// detach keys (ctrl-]), which ends the command.
func (s *Sandbox) Attach(ctx context.Context, cmd string, args ...string) (int, error) {
	return s.AttachWith(ctx, cmd, args)
}

// AttachWith is Attach with options.
func (s *Sandbox) AttachWith(ctx context.Context, cmd string, args []string, opts ...AttachOption) (int, error) {
	code, err := s.attach(ctx, command{req: agentclient.ExecRequest{Cmd: cmd, Args: args}}, opts)
	return code, wrap(err)
}

// AttachDefault is Attach with the entrypoint and the command of the sandbox, or of its image. Kind: ErrNoDefaultCommand.
func (s *Sandbox) AttachDefault(ctx context.Context, opts ...AttachOption) (int, error) {
	code, err := s.attach(ctx, command{what: guest.Default}, opts)
	return code, wrap(err)
}

// AttachShell is Attach with the sandbox's shell.
func (s *Sandbox) AttachShell(ctx context.Context, opts ...AttachOption) (int, error) {
	code, err := s.attach(ctx, command{what: guest.Shell}, opts)
	return code, wrap(err)
}

// defaultDetach is ctrl-].
const defaultDetach = "ctrl-]"

var errDetached = errors.New("detached")

func (s *Sandbox) attach(ctx context.Context, c command, opts []AttachOption) (int, error) {
	cfg := AttachConfig{DetachKeys: defaultDetach}
	for _, o := range opts {
		o(&cfg)
	}
	keys, err := sandbox.ParseDetachKeys(cfg.DetachKeys)
	if err != nil {
		return -1, err
	}
	with, _, err := commandOf(c.req.Cmd, c.req.Args, []ExecOption{WithExecCwd(cfg.Cwd), WithExecUser(cfg.User), WithExecEnv(cfg.Env), WithExecTTY(true)})
	if err != nil {
		return -1, err
	}
	with.what = c.what
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return -1, &sandbox.Error{Op: "attach", Kind: sandbox.InvalidArgument, Message: "terminal error: the standard input is not a terminal", Hint: "use ExecStream"}
	}
	client, spec, err := s.agent(ctx)
	if err != nil {
		return -1, err
	}
	if err := with.complete(spec); err != nil {
		return -1, err
	}
	return runOnTerminal(ctx, client, with.req, keys)
}

// runOnTerminal runs a command on the terminal of this process. -1 is a session that was left.
func runOnTerminal(ctx context.Context, client *agentclient.Client, req agentclient.ExecRequest, keys []byte) (int, error) {
	size := func() (uint16, uint16) { return console.Size(os.Stdout, os.Stdin, os.Stderr) }
	input, err := console.NewInput(os.Stdin)
	if err != nil {
		return -1, &sandbox.Error{Op: "attach", Kind: sandbox.IO, Err: err}
	}
	defer input.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req.TTY = true
	req.Rows, req.Cols = size()
	req.Stdin = &console.DetachReader{In: input, Keys: keys, Detached: func() { cancel(errDetached) }}
	req.Stdout, req.Stderr = os.Stdout, io.Discard
	t := console.Terminal{In: os.Stdin}
	t.Raw()
	defer t.Restore()
	x, err := client.Exec(ctx, req)
	if err != nil {
		return -1, err
	}
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	defer signal.Stop(winch)
	go func() {
		for {
			select {
			case <-winch:
				_ = x.Resize(size())
			case <-ctx.Done():
				return
			}
		}
	}()
	code, err := x.Wait()
	if context.Cause(ctx) == errDetached {
		return -1, nil
	}
	return code, err
}
