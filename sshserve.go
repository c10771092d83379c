package microsandbox

import (
	"context"
	"net"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/internal/sshserver"
)

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
