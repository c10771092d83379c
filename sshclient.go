package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/console"
	"github.com/microsandbox-go/microsandbox/internal/sshserver"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// OpenClient connects by SSH within this process. Kind: ErrSandboxNotRunning.
func (o *SandboxSSHOps) OpenClient(ctx context.Context, opts ...SSHClientOption) (*SSHClient, error) {
	opt := sshOptions{term: os.Getenv("TERM")}
	for _, f := range opts {
		f(&opt)
	}
	if opt.term == "" {
		opt.term = "xterm"
	}
	server, err := o.server(opt)
	if err == nil {
		_, _, err = o.s.agent(ctx)
	}
	if err == nil {
		server.HostKey, err = sshserver.NewKey()
	}
	var ours, theirs net.Conn
	if err == nil {
		ours, theirs, err = socketpair()
	}
	if err != nil {
		return nil, wrap(err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &SSHClient{term: opt.term, cancel: cancel}
	c.serving.Go(func() { _ = server.Serve(life, theirs) }) // what fails there ends the connection here
	stop := context.AfterFunc(ctx, cancel)
	conn, channels, requests, err := ssh.NewClientConn(ours, "sandbox", &ssh.ClientConfig{User: "root", HostKeyCallback: ssh.FixedHostKey(server.HostKey.PublicKey())})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		_ = ours.Close()
		c.serving.Wait()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, sshError(err)
	}
	c.client = ssh.NewClient(conn, channels, requests)
	return c, nil
}

// socketpair is two connections that are one.
func socketpair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &sandbox.Error{Op: "ssh", Kind: sandbox.IO, Err: err}
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "ssh")
		c, cerr := net.FileConn(f)
		conns[i], err = c, errors.Join(err, cerr)
		_ = f.Close()
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, &sandbox.Error{Op: "ssh", Kind: sandbox.IO, Err: err}
	}
	return conns[0], conns[1], nil
}

func sshError(err error) error {
	var known *sandbox.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return wrap(err)
	}
	return wrap(&sandbox.Error{Op: "ssh", Kind: sandbox.Runtime, Err: err})
}

// SSHClient is a connection by SSH. Close ends it.
type SSHClient struct {
	client  *ssh.Client
	term    string
	cancel  context.CancelFunc
	serving sync.WaitGroup
}

// Client is the connection for package golang.org/x/crypto/ssh.
func (c *SSHClient) Client() *ssh.Client { return c.client }

// Close ends the connection and all that it began. It may be called twice.
func (c *SSHClient) Close(ctx context.Context) error {
	err := c.client.Close()
	c.cancel()
	c.serving.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		err = nil
	}
	return sshError(err)
}

// SSHExecOption changes SSHClient.Exec.
type SSHExecOption func(*sshExecOptions)

type sshExecOptions struct{ tty bool }

// WithSSHTTY says whether the command gets a terminal.
func WithSSHTTY(enabled bool) SSHExecOption { return func(o *sshExecOptions) { o.tty = enabled } }

// SSHOutput is what a command printed, and its exit code, -1 when a signal killed it.
type SSHOutput struct {
	Status int
	Stdout []byte
	Stderr []byte
}

// Success reports whether the exit code is 0.
func (o SSHOutput) Success() bool { return o.Status == 0 }

// session opens a session that ends with ctx; the returned function is to be called.
func (c *SSHClient) session(ctx context.Context) (*ssh.Session, func(), error) {
	s, err := c.client.NewSession()
	if err != nil {
		return nil, nil, sshError(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	return s, func() { stop(); _ = s.Close() }, nil
}

// exitStatus is how a session ended.
func exitStatus(ctx context.Context, err error) (int, error) {
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return -1, nil
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	case ctx.Err() != nil:
		return -1, wrap(ctx.Err())
	}
	return -1, sshError(err)
}

// Exec runs a line of /bin/sh and returns when it has ended. What is kept is bounded as in Sandbox.Exec.
func (c *SSHClient) Exec(ctx context.Context, command string, opts ...SSHExecOption) (*SSHOutput, error) {
	o := sshExecOptions{}
	for _, f := range opts {
		f(&o)
	}
	s, done, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if o.tty {
		if err := s.RequestPty(c.term, 24, 80, nil); err != nil {
			return nil, sshError(err)
		}
	}
	var mu sync.Mutex
	left := maxOutput
	stdout, stderr := lockedCapture{mu: &mu, capture: capture{left: &left}}, lockedCapture{mu: &mu, capture: capture{left: &left}}
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(nil), &stdout, &stderr
	status, err := exitStatus(ctx, s.Run(command))
	if err != nil {
		return nil, err
	}
	if left < 0 {
		return nil, errTooMuch
	}
	return &SSHOutput{Status: status, Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}, nil
}

// lockedCapture is written to by a goroutine of its own.
type lockedCapture struct {
	mu *sync.Mutex
	capture
}

func (c *lockedCapture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.capture.Write(p)
}

// SSHAttachOption changes SSHClient.Attach.
type SSHAttachOption func(*sshAttachOptions)

type sshAttachOptions struct{ term, keys string }

// WithSSHAttachTerm sets TERM.
func WithSSHAttachTerm(term string) SSHAttachOption {
	return func(o *sshAttachOptions) { o.term = term }
}

// WithSSHDetachKeys sets the keys that leave the session (default ctrl-]).
func WithSSHDetachKeys(keys string) SSHAttachOption {
	return func(o *sshAttachOptions) { o.keys = keys }
}

// Attach runs the sandbox's shell on this process's terminal and returns its exit code, and -1 when the session was left with
// the detach keys.
func (c *SSHClient) Attach(ctx context.Context, opts ...SSHAttachOption) (int, error) {
	o := sshAttachOptions{term: c.term, keys: defaultDetach}
	for _, f := range opts {
		f(&o)
	}
	keys, err := sandbox.ParseDetachKeys(o.keys)
	if err != nil {
		return -1, wrap(err)
	}
	s, done, err := c.session(ctx)
	if err != nil {
		return -1, err
	}
	defer done()
	input, err := console.NewInput(os.Stdin)
	if err != nil {
		return -1, wrap(&sandbox.Error{Op: "ssh", Kind: sandbox.IO, Err: err})
	}
	defer input.Close()
	size := func() (uint16, uint16) { return console.Size(os.Stdout, os.Stdin, os.Stderr) }
	rows, cols := size()
	if err := s.RequestPty(o.term, int(rows), int(cols), nil); err != nil {
		return -1, sshError(err)
	}
	detached := make(chan struct{})
	s.Stdin = &console.DetachReader{In: input, Keys: keys, Detached: func() { close(detached); _ = s.Close() }}
	s.Stdout, s.Stderr = os.Stdout, os.Stderr
	t := console.Terminal{In: os.Stdin}
	t.Raw()
	defer t.Restore()
	if err := s.Shell(); err != nil {
		return -1, sshError(err)
	}
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, syscall.SIGWINCH)
	defer signal.Stop(winch)
	over := make(chan struct{})
	defer close(over)
	go func() {
		for {
			select {
			case <-winch:
				rows, cols := size()
				_ = s.WindowChange(int(rows), int(cols))
			case <-over:
				return
			}
		}
	}()
	err = s.Wait()
	select {
	case <-detached:
		return -1, nil
	default:
		return exitStatus(ctx, err)
	}
}
