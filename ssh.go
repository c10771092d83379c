package microsandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/console"
	"github.com/microsandbox-go/microsandbox/internal/sshserver"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// SandboxSSHOps is SSH to a sandbox. The server is on this machine: the guest needs none.
type SandboxSSHOps struct{ s *Sandbox }

// SSH is SSH to the sandbox.
func (s *Sandbox) SSH() *SandboxSSHOps { return &SandboxSSHOps{s} }

type sshOptions struct {
	user, term              string
	hostKey, authorizedKeys string
	noSFTP                  bool
	inactivity              *time.Duration // nil is that of config.json
}

// SSHClientOption changes a client.
type SSHClientOption func(*sshOptions)

// WithSSHUser says whom commands run as (default root).
func WithSSHUser(user string) SSHClientOption { return func(o *sshOptions) { o.user = user } }

// WithSSHTerm sets TERM of sessions with a terminal (default that of this process, or xterm).
func WithSSHTerm(term string) SSHClientOption { return func(o *sshOptions) { o.term = term } }

// WithSSHClientSFTP says whether the client may open SFTP sessions, which it may by default.
func WithSSHClientSFTP(enabled bool) SSHClientOption {
	return func(o *sshOptions) { o.noSFTP = !enabled }
}

// WithSSHClientInactivityTimeout ends the connection after this time without traffic (default 10 minutes); 0 is never.
func WithSSHClientInactivityTimeout(timeout time.Duration) SSHClientOption {
	return func(o *sshOptions) { o.inactivity = &timeout }
}

// SSHServerOption changes a server.
type SSHServerOption func(*sshOptions)

// WithSSHHostKeyPath names the server's private key, which is made if it is not there (default ssh/host_ed25519 of MSB_HOME).
func WithSSHHostKeyPath(path string) SSHServerOption { return func(o *sshOptions) { o.hostKey = path } }

// WithSSHAuthorizedKeysPath names the file with the public keys that are let in (default ssh/authorized_keys of MSB_HOME).
func WithSSHAuthorizedKeysPath(path string) SSHServerOption {
	return func(o *sshOptions) { o.authorizedKeys = path }
}

// WithSSHServerUser says whom commands run as (default root).
func WithSSHServerUser(user string) SSHServerOption { return func(o *sshOptions) { o.user = user } }

// WithSSHServerSFTP says whether clients may open SFTP sessions, which they may by default. Those always are root's.
func WithSSHServerSFTP(enabled bool) SSHServerOption {
	return func(o *sshOptions) { o.noSFTP = !enabled }
}

// WithSSHServerInactivityTimeout ends a connection after this time without traffic (default 10 minutes); 0 is never.
func WithSSHServerInactivityTimeout(timeout time.Duration) SSHServerOption {
	return func(o *sshOptions) { o.inactivity = &timeout }
}

// server is what serves connections to the sandbox.
func (o *SandboxSSHOps) server(opt sshOptions) (*sshserver.Server, error) {
	idle := o.s.handle.e.set.File.SSHInactivity
	if opt.inactivity != nil {
		if idle = *opt.inactivity; idle < 0 {
			return nil, fail(ErrInvalidArgument, "an inactivity timeout is not negative")
		}
		idle = roundUp(idle, time.Second)
	}
	if err := sandbox.ValidateUser(opt.user); err != nil {
		return nil, err
	}
	return &sshserver.Server{User: opt.user, NoSFTP: opt.noSFTP, Inactivity: idle,
		Agent: o.s.agent}, nil
}

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

// SFTP opens an SFTP session.
func (c *SSHClient) SFTP(ctx context.Context) (*SFTPClient, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap(err)
	}
	client, err := sftp.NewClient(c.client)
	if err != nil {
		return nil, sshError(err)
	}
	return &SFTPClient{client}, nil
}

// SFTPClient is an SFTP session. Its paths are the guest's; relative ones are of the sandbox's working directory.
type SFTPClient struct{ c *sftp.Client }

// Client is the session for package github.com/pkg/sftp.
func (f *SFTPClient) Client() *sftp.Client { return f.c }

func sftpError(ctx context.Context, err error) error {
	if err == nil {
		return wrap(ctx.Err())
	}
	kind := sandbox.Filesystem
	if errors.Is(err, os.ErrNotExist) {
		kind = sandbox.PathNotFound
	}
	return wrap(&sandbox.Error{Op: "sftp", Kind: kind, Err: err})
}

// Read returns a file, of at most 1 GiB.
func (f *SFTPClient) Read(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap(err)
	}
	file, err := f.c.Open(path)
	if err != nil {
		return nil, sftpError(ctx, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRead+1))
	if err == nil && len(data) > maxRead {
		return nil, fail(ErrBufferTooSmall, fmt.Sprintf("%s is larger than %d MiB", path, maxRead>>20))
	}
	if err != nil {
		return nil, sftpError(ctx, err)
	}
	return data, nil
}

// Write makes a file hold data.
func (f *SFTPClient) Write(ctx context.Context, path string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	file, err := f.c.Create(path)
	if err != nil {
		return sftpError(ctx, err)
	}
	_, err = file.Write(data)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return sftpError(ctx, err)
}

// do does one thing, unless ctx has ended.
func (f *SFTPClient) do(ctx context.Context, what func() error) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	return sftpError(ctx, what())
}

// Mkdir makes a directory.
func (f *SFTPClient) Mkdir(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.Mkdir(path) })
}

// RemoveFile removes what is not a directory.
func (f *SFTPClient) RemoveFile(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.Remove(path) })
}

// RemoveDir removes an empty directory.
func (f *SFTPClient) RemoveDir(ctx context.Context, path string) error {
	return f.do(ctx, func() error { return f.c.RemoveDirectory(path) })
}

// Rename moves a file or a directory.
func (f *SFTPClient) Rename(ctx context.Context, oldPath string, newPath string) error {
	return f.do(ctx, func() error { return f.c.PosixRename(oldPath, newPath) })
}

// RealPath resolves every link on the way.
func (f *SFTPClient) RealPath(ctx context.Context, path string) (real string, err error) {
	err = f.do(ctx, func() (err error) { real, err = f.c.RealPath(path); return err })
	return real, err
}

// ReadLink returns what a symbolic link says.
func (f *SFTPClient) ReadLink(ctx context.Context, path string) (target string, err error) {
	err = f.do(ctx, func() (err error) { target, err = f.c.ReadLink(path); return err })
	return target, err
}

// Symlink makes a symbolic link that says target.
func (f *SFTPClient) Symlink(ctx context.Context, target string, linkPath string) error {
	return f.do(ctx, func() error { return f.c.Symlink(target, linkPath) })
}

// Close ends the session.
func (f *SFTPClient) Close(ctx context.Context) error {
	err := f.c.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return sshError(err)
}

// PrepareServer returns a server for clients of other processes, who prove who they are by the keys of a file.
func (o *SandboxSSHOps) PrepareServer(ctx context.Context, opts ...SSHServerOption) (*SSHServer, error) {
	var opt sshOptions
	for _, f := range opts {
		f(&opt)
	}
	server, err := o.server(opt)
	if err == nil {
		_, _, err = o.s.agent(ctx)
	}
	if err == nil {
		err = server.Open(o.s.handle.e.set.Home, opt.hostKey, opt.authorizedKeys)
	}
	if err != nil {
		return nil, wrap(err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &SSHServer{server: server, life: life, cancel: cancel}, nil
}

// SSHServer serves SSH for a sandbox. Close ends its connections.
type SSHServer struct {
	server *sshserver.Server
	life   context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving sync.WaitGroup
}

// HostKey is the server's public key.
func (s *SSHServer) HostKey() ssh.PublicKey { return s.server.HostKey.PublicKey() }

// ServeConn serves one connection, and returns when it has ended; conn is closed then.
func (s *SSHServer) ServeConn(ctx context.Context, conn net.Conn) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = conn.Close()
		return fail(ErrInvalidHandle, "the server was closed")
	}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.life, cancel)
	defer stop()
	return sshError(s.server.Serve(ctx, conn))
}

// ServeConnection serves one connection on the standard input and output of this process, as an sshd of inetd does.
func (s *SSHServer) ServeConnection(ctx context.Context) error {
	return s.ServeConn(ctx, sshserver.Stdio(os.Stdin, os.Stdout))
}

// Close ends all connections. It may be called twice.
func (s *SSHServer) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.serving.Wait()
	return nil
}
