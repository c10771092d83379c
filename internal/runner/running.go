package runner

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (s *supervisor) running() launch.Running {
	return launch.Running{PID: os.Getpid(), StartedAt: s.startedAt, Confinement: s.confinement(), Draining: s.relay.work.isDraining(), Ports: s.ports}
}

// recordRunning writes what readers of a running sandbox see.
func (s *supervisor) recordRunning() error {
	s.recording.Lock()
	defer s.recording.Unlock()
	b, err := json.Marshal(s.running())
	if err == nil {
		err = atomicfile.Write(s.path(launch.RunningFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the running sandbox: %w", err)
	}
	return nil
}

func (s *supervisor) confinement() sandbox.Confinement {
	c := sandbox.Confinement{Driver: s.driver.Name(), Memory: s.limits.memoryBy(), CPU: s.limits.cpuBy(), Network: "none", User: "root"}
	if s.gateway != nil {
		c.Network = "gateway"
	}
	if s.cfg.UserNS {
		c.User = "userns"
	}
	return c
}
