// Package guest is what the command line and the SDK both do with a sandbox through a backend: connect to its agent, once or again after each
// start, complete a command with what the sandbox says, and say how it ended. It knows neither terminals nor the SDK's types (ADR 19).
package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ConnectTimeout is how long a connection to an agent and its greeting may take (contract msb-0.6 §2.1).
const ConnectTimeout = 10 * time.Second

// ErrConnect is the cause of an end by ConnectTimeout.
var ErrConnect = fmt.Errorf("the sandbox's agent did not answer within %v", ConnectTimeout)

// Dialer is the part of a backend that Connect takes.
type Dialer interface {
	Dial(ctx context.Context, ref sandbox.Ref) (net.Conn, error)
}

// Connect connects to the agent of a sandbox that runs, within ConnectTimeout. Kinds: NotFound, NotRunning, Runtime (it did not answer).
func Connect(ctx context.Context, d Dialer, ref sandbox.Ref) (*agentclient.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ConnectTimeout, ErrConnect)
	defer cancel()
	conn, err := d.Dial(ctx, ref)
	var client *agentclient.Client
	if err == nil {
		client, err = agentclient.Connect(ctx, conn)
	}
	if err != nil && context.Cause(ctx) == ErrConnect {
		return nil, &sandbox.Error{Op: "connect", Ref: ref, Kind: sandbox.Runtime, Message: ErrConnect.Error()}
	}
	return client, err
}

// Get asks what is recorded of one sandbox.
type Get func(context.Context) (sandbox.Info, error)

// ErrClosed is the error of a Link that was closed.
var ErrClosed = errors.New("the connection to the sandbox was closed")

// Link is one connection to a sandbox's agent that all share who have the Link. It is made when it is first needed, and anew when the
// sandbox was started again. Get and Dial are to be set.
type Link struct {
	Get  Get
	Dial func(context.Context) (*agentclient.Client, error)

	Stamp func() any

	mu     sync.Mutex
	closed bool
	client *agentclient.Client
	spec   sandbox.Spec // what Get said when Stamp returned seen
	seen   any
}

// Agent returns the connection, and the configuration of the sandbox's present run. Kinds: NotRunning, those of Get and Dial; ErrClosed.
func (l *Link) Agent(ctx context.Context) (*agentclient.Client, sandbox.Spec, error) {
	var stamp any
	if l.Stamp != nil && ctx.Err() == nil {
		if stamp = l.Stamp(); stamp != nil {
			l.mu.Lock()
			client, spec, same := l.living(), l.spec, l.seen == stamp
			l.mu.Unlock()
			if client != nil && same {
				return client, spec, nil
			}
		}
	}
	info, err := l.Get(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, sandbox.Spec{}, ErrClosed
	case err != nil:
		return nil, sandbox.Spec{}, err
	case !info.Status.Reachable():
		return nil, sandbox.Spec{}, info.NotRunning("")
	}
	if l.living() == nil {
		if l.client != nil { // the sandbox was started again since
			_ = l.client.Close()
		}
		if l.client, err = l.Dial(ctx); err != nil {
			return nil, sandbox.Spec{}, err
		}
	}
	l.seen, l.spec = stamp, info.Effective()
	return l.client, l.spec, nil
}

// living returns the connection if it has not ended. It is called with mu held.
func (l *Link) living() *agentclient.Client {
	if l.client != nil {
		select {
		case <-l.client.Done():
		default:
			return l.client
		}
	}
	return nil
}

// Client returns the connection alone. One that lives is not asked about: it ends with the sandbox's run. Kinds: those of Agent.
func (l *Link) Client(ctx context.Context) (*agentclient.Client, error) {
	l.mu.Lock()
	client := l.living()
	l.mu.Unlock()
	if client != nil && ctx.Err() == nil {
		return client, nil
	}
	client, _, err := l.Agent(ctx)
	return client, err
}

// Close ends the connection, and with it all that goes on over it. It may be called twice.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	client := l.client
	l.client = nil
	l.mu.Unlock()
	if client == nil {
		return nil
	}
	return client.Close()
}

// StopWithin asks a sandbox to end and kills it after that time; 0 and less, and force, kill it at once.
func StopWithin(timeout time.Duration, force bool) backend.StopOptions {
	return backend.StopOptions{Force: force || timeout <= 0, Timeout: max(0, timeout)}
}

// Restart stops a sandbox that runs, and starts it again. One of which nothing would be left, or that could not be
// started, is refused before it is stopped. Kinds: InvalidArgument, those of CheckStart, Stop and Start.
func Restart(ctx context.Context, b backend.Backend, info sandbox.Info, stop backend.StopOptions, start func() error) error {
	if info.Spec.Lifecycle.Ephemeral {
		return &sandbox.Error{Op: "restart", Ref: info.Ref, Kind: sandbox.InvalidArgument, Message: "sandbox '" + string(info.Ref.Name) + "' is ephemeral: nothing of it would be left to start",
			Hint: "make one that is kept with: msb create --name NAME IMAGE"}
	}
	if c, ok := b.(backend.StartChecker); ok {
		if err := c.CheckStart(ctx, info); err != nil {
			return err
		}
	}
	if !info.Status.Terminal() {
		if err := b.Stop(ctx, info.Ref, stop); err != nil && sandbox.KindOf(err) != sandbox.NotRunning {
			return err
		}
	}
	return start()
}
