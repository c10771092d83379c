// Package sshserver serves SSH for a sandbox, on this machine: there is no sshd in the guest. What a client asks for becomes
// sessions of the agent protocol (contract msb-0.6 §2.8).
//
// A [Server] serves any number of connections with Serve. Clients prove who they are by public keys alone. Session channels
// run commands and shells, with or without a terminal, and the subsystem sftp; direct-tcpip dials from within the guest.
package sshserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Bounds of one connection.
const (
	handshakeTime = 30 * time.Second
	maxChannels   = 64
	maxEnv        = 64
)

// Server says how to serve. Of it, HostKey and Agent are needed.
type Server struct {
	HostKey ssh.Signer
	// Authorized returns the keys that are let in, at each try; nil lets anybody in, for connections within a process.
	Authorized func() ([]ssh.PublicKey, error)
	// Agent returns a connection to the sandbox's agent, which is the caller's, and the sandbox's configuration.
	Agent func(ctx context.Context) (*agentclient.Client, sandbox.Spec, error)
	// User is whom commands run as; default root. SFTP always is root's.
	User       string
	NoSFTP     bool
	Inactivity time.Duration // after which a connection without traffic ends; 0 is never
}

// Serve serves one connection, and returns when it has ended and all that belongs to it; conn is closed then. The end of ctx
// ends it. A client that goes away is no error; who is not let in is.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := watch(conn, s.Inactivity)
	defer watched.Close()
	stop := context.AfterFunc(ctx, func() { watched.Close() })
	defer stop()

	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	server, channels, requests, err := ssh.NewServerConn(watched, s.config())
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return fmt.Errorf("ssh: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	defer server.Close()
	client, spec, err := s.Agent(ctx)
	if err != nil {
		return err
	}
	c := &connection{s: s, client: client, spec: spec}
	var all sync.WaitGroup
	all.Go(func() { c.global(requests) })
	gone := make(chan struct{})
	all.Go(func() { // a sandbox that has ended has nothing to say any more
		select {
		case <-client.Done():
			server.Close()
		case <-gone:
		}
	})
	slots := make(chan struct{}, maxChannels)
	for ch := range channels {
		select {
		case slots <- struct{}{}:
			all.Go(func() {
				defer func() { <-slots }()
				c.channel(ctx, ch)
			})
		default:
			_ = ch.Reject(ssh.ResourceShortage, "too many channels")
		}
	}
	cancel() // the client is gone: so are its commands
	close(gone)
	all.Wait()
	return nil
}

func (s *Server) config() *ssh.ServerConfig {
	cfg := &ssh.ServerConfig{ServerVersion: "SSH-2.0-microsandbox_" + version.Version}
	cfg.AddHostKey(s.HostKey)
	if s.Authorized == nil {
		cfg.NoClientAuth = true
		return cfg
	}
	cfg.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		keys, err := s.Authorized()
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if bytes.Equal(k.Marshal(), key.Marshal()) {
				return nil, nil
			}
		}
		return nil, errors.New("the key is not authorized")
	}
	return cfg
}

// connection is one client.
type connection struct {
	s      *Server
	client *agentclient.Client
	spec   sandbox.Spec
}

// global answers what is asked of the whole connection: keepalives get their refusal, which is their answer.
func (c *connection) global(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

func (c *connection) channel(ctx context.Context, ch ssh.NewChannel) {
	switch ch.ChannelType() {
	case "session":
		c.session(ctx, ch)
	case "direct-tcpip":
		c.forward(ctx, ch)
	default:
		_ = ch.Reject(ssh.UnknownChannelType, "this kind of channel is not supported")
	}
}

// forward connects a client to what it names, from within the guest (RFC 4254 §7.2).
func (c *connection) forward(ctx context.Context, ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil || to.Port == 0 || to.Port > 0xffff {
		_ = ch.Reject(ssh.ConnectionFailed, "the destination cannot be read")
		return
	}
	conn, err := c.client.DialTCP(ctx, to.Host, uint16(to.Port))
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	channel, requests, err := ch.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(requests)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var out sync.WaitGroup
	out.Go(func() {
		_, _ = io.Copy(channel, conn)
		_ = channel.CloseWrite()
	})
	_, _ = io.Copy(conn, channel)
	_ = conn.(*agentclient.TCPConn).CloseWrite()
	out.Wait()
}

// watched is a connection that ends when nothing passes it for a time.
type watched struct {
	net.Conn
	idle  time.Duration
	timer *time.Timer // nil: never
}

func watch(conn net.Conn, idle time.Duration) *watched {
	w := &watched{Conn: conn, idle: idle}
	if idle > 0 {
		w.timer = time.AfterFunc(idle, func() { conn.Close() })
	}
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.passed(n)
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.passed(n)
	return n, err
}

func (w *watched) passed(n int) {
	if w.timer != nil && n > 0 {
		w.timer.Reset(w.idle)
	}
}

func (w *watched) Close() error {
	if w.timer != nil {
		w.timer.Stop()
	}
	return w.Conn.Close()
}
