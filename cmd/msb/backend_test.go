package main

import (
	"os"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/backendtest"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// TestLocalBackend runs the suite of all backends on that of this machine.
func TestLocalBackend(t *testing.T) {
	needSandboxes(t)
	backendtest.Run(t, func(t *testing.T) backend.Backend {
		home, err := os.MkdirTemp("/tmp", "backend")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(home) })
		leakcheck.Check(t, leakcheck.Home(home, "bin/*", "images/*", "run/.lock", "db/*", "sandboxes/default", "sandboxes/team"), leakcheck.Within(10*time.Second))
		b := local.New(local.Config{Home: home, Runner: os.Getenv(config.RunnerVar), Agent: os.Getenv(config.AgentVar)})
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return b
	}, backendtest.Options{})
}
