package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/backendtest"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/backend/remote"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/server/rest"
)

// TestLocalBackend runs the suite of all backends on that of this machine.
func TestLocalBackend(t *testing.T) {
	needSandboxes(t)
	backendtest.Run(t, func(t *testing.T) backend.Backend { return newLocal(t) }, backendtest.Options{})
}

func newLocal(t *testing.T) *local.Backend {
	home, err := os.MkdirTemp("/tmp", "backend")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	leakcheck.Check(t, leakcheck.Home(home, "tls", "bin/*", "images/*", "run/.lock", "db/*", "sandboxes/default", "sandboxes/team", "volumes", "volumes/default"), leakcheck.Within(10*time.Second))
	b := local.New(local.Config{Home: home, Runner: os.Getenv(config.RunnerVar), Agent: os.Getenv(config.AgentVar)})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestRemoteBackend runs it on a server of that one, over the control plane API.
func TestRemoteBackend(t *testing.T) {
	needSandboxes(t)
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		s := server.New(server.Config{Backend: newLocal(t)})
		s.Mount(rest.New(s).Routes()...)
		ctx, stop := context.WithCancel(context.Background())
		l, err := s.Listen(ctx, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, l) }()
		b := remote.New(remote.Config{URL: "http://" + l.Addr().String()})
		t.Cleanup(func() {
			_ = b.Close()
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return b
	}, backendtest.Options{})
}
