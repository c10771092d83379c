package microsandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Flags of a [RawFrame].
const (
	FlagTerminal     uint8 = 0b0000_0001 // the last one of its id
	FlagSessionStart uint8 = 0b0000_0010 // the first one of a session
	FlagShutdown     uint8 = 0b0000_0100
)

// Other names of the flags.
const (
	FLAG_TERMINAL      = FlagTerminal
	FLAG_SESSION_START = FlagSessionStart
	FLAG_SHUTDOWN      = FlagShutdown
)

// RawFrame is one frame of the agent protocol (contract msb-0.6 §4.1). Body is its CBOR.
type RawFrame struct {
	ID    uint32
	Flags uint8
	Body  []byte
}

// AgentClient speaks the agent protocol frame by frame, for what the rest of this package does not do. Bodies are the caller's.
type AgentClient struct{ c *agentclient.Client }

// ConnectAgentSandbox connects to a sandbox's agent. ctx bounds the call, as do 10 s.
func ConnectAgentSandbox(ctx context.Context, name string) (*AgentClient, error) {
	h, err := GetSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	client, err := h.dial(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return &AgentClient{client}, nil
}

// ConnectAgentPath connects to an agent's relay by the path of its socket. ctx bounds the call, as do 10 s.
func ConnectAgentPath(ctx context.Context, path string) (*AgentClient, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, guest.ConnectTimeout, guest.ErrConnect)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, wrap(&sandbox.Error{Op: "connect", Kind: sandbox.IO, Err: err})
	}
	client, err := agentclient.Connect(ctx, conn)
	if err != nil {
		return nil, wrap(err)
	}
	return &AgentClient{client}, nil
}

// AgentSocketPath is where the socket of a sandbox's relay is while it runs. The sandbox need not be there.
func AgentSocketPath(name string) (string, error) {
	e, err := open()
	if err != nil {
		return "", wrap(err)
	}
	ref := sandbox.DefaultRef(name)
	if err := ref.Validate(); err != nil {
		return "", wrap(err)
	}
	b, ok := e.manage().(*local.Backend)
	if !ok {
		return "", unsupported("agent_socket_path", "use a local backend")
	}
	return filepath.Join(b.RunDir(ref), launch.SocketFile), nil
}

// Request sends a frame with a new id and returns the first one that comes back.
func (c *AgentClient) Request(ctx context.Context, flags uint8, body []byte) (*RawFrame, error) {
	s, err := c.Stream(ctx, flags, body)
	if err != nil {
		return nil, err
	}
	defer s.s.Close()
	f, err := s.Next(ctx)
	if err == nil && f == nil {
		err = fail(ErrInternal, "the agent did not answer")
	}
	return f, err
}

// Stream sends a frame with a new id and returns what comes back.
func (c *AgentClient) Stream(ctx context.Context, flags uint8, body []byte) (*AgentStream, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap(err)
	}
	s, err := c.c.RawStream(flags, body)
	if err != nil {
		return nil, wrap(err)
	}
	return &AgentStream{s}, nil
}

// Send sends another frame with the id of a stream.
func (c *AgentClient) Send(ctx context.Context, id uint32, flags uint8, body []byte) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	return wrap(c.c.SendRaw(id, flags, body))
}

// ReadyBytes is the body of core.ready, which the agent greets with.
func (c *AgentClient) ReadyBytes() ([]byte, error) { return c.c.ReadyBody(), nil }

// Close ends the connection and all that it began. It may be called twice.
func (c *AgentClient) Close() error { return wrap(c.c.Close()) }

// CloseCtx is Close, unless ctx has ended.
func (c *AgentClient) CloseCtx(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	return c.Close()
}

// AgentStream is the frames of one id. One goroutine receives.
type AgentStream struct{ s *agentclient.Stream }

// Next returns the next frame, and nil after the terminal one.
func (s *AgentStream) Next(ctx context.Context) (*RawFrame, error) {
	m, err := s.s.Recv(ctx)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err)
	}
	defer m.Release()
	flags, body := m.Raw()
	return &RawFrame{ID: s.s.ID(), Flags: flags, Body: append([]byte(nil), body...)}, nil
}

// ID is the stream's id, for AgentClient.Send.
func (s *AgentStream) ID() uint32 { return s.s.ID() }

// Close forgets the stream: what comes for it is dropped, and the agent ends its session. It may be called twice.
func (s *AgentStream) Close(ctx context.Context) error {
	s.s.Close()
	return nil
}

// DialContext connects from within the guest, to what its network and the sandbox's policy let it reach; the guest's own
// services are at 127.0.0.1. Only TCP is known. It has the shape of net.Dialer's, for http.Transport and its like. ctx bounds
// the making of the connection, which ends with the Sandbox.
func (s *Sandbox) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, wrap(&sandbox.Error{Op: "dial", Kind: sandbox.Unsupported, Message: "network " + network + " is not supported: only tcp is"})
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, wrap(&sandbox.Error{Op: "dial", Kind: sandbox.InvalidArgument, Err: err})
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return nil, wrap(&sandbox.Error{Op: "dial", Kind: sandbox.InvalidArgument, Message: "port " + text + " is not from 1 to 65535"})
	}
	client, err := s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	conn, err := client.DialTCP(ctx, host, uint16(port))
	if err != nil {
		return nil, wrap(err)
	}
	return conn, nil
}
