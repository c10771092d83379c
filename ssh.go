package microsandbox

import (
	"time"

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
