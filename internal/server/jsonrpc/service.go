package jsonrpc

import (
	"context"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Service does what the methods of the API say. Each checks that the caller of its context may.
type Service struct {
	server  *server.Server
	backend backend.Backend

	mu     sync.Mutex
	starts map[sandbox.Ref]*starting
}

// New returns the service of a server.
func New(s *server.Server) *Service {
	return &Service{server: s, backend: s.Backend(), starts: map[sandbox.Ref]*starting{}}
}

// agent is the connection to a sandbox that runs, and what it runs with.
func (v *Service) agent(ctx context.Context, ref sandbox.Ref) (*agentclient.Client, func(), sandbox.Spec, error) {
	info, err := v.backend.Get(ctx, ref)
	if err != nil {
		return nil, nil, sandbox.Spec{}, err
	}
	client, release, err := v.server.Agent(ctx, ref)
	return client, release, info.Effective(), err
}
