package runner

import (
	"context"
	"fmt"
	"net"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// runStartup runs the startup command as a client of the relay like any other; its end is the sandbox's.
func (s *supervisor) runStartup() {
	code, err := s.startup()
	if s.asked.Load() || s.retires.Load() != nil {
		return // it was told to end, and what it wrote is still being synced
	}
	if s.cfg.Info.Spec.Lifecycle.OutlivesStartup {
		message := fmt.Sprintf("the startup command exited with code %d", code)
		if err != nil {
			message = "the startup command: " + err.Error()
		}
		s.log.Info(message)
		return
	}
	if err != nil {
		select {
		case <-s.gone: // the sandbox ended first
		default:
			s.end(sandbox.ReasonFailed, err.Error())
		}
		return
	}
	e := end(sandbox.ReasonCompleted, fmt.Sprintf("its startup command exited with code %d", code))
	e.ExitCode = &code
	select {
	case s.ending <- e:
	default:
	}
}

func (s *supervisor) startup() (int, error) {
	ours, relays := net.Pipe()
	s.relay.mu.Lock()
	s.relay.startup = relays
	s.relay.mu.Unlock()
	s.relay.serve(relays)
	ctx := context.Background() // the relay ends the connection with the sandbox
	c, err := agentclient.Connect(ctx, ours)
	if err != nil {
		return 0, fmt.Errorf("run the startup command: %w", err)
	}
	defer c.Close()
	spec := s.cfg.Info.Spec
	x, err := c.Exec(ctx, agentclient.ExecRequest{Cmd: s.cfg.Startup[0], Args: s.cfg.Startup[1:], Cwd: spec.Runtime.Workdir, User: spec.Runtime.User})
	if err != nil {
		return 0, err
	}
	defer x.Close()
	if err := x.CloseStdin(); err != nil {
		return 0, fmt.Errorf("run the startup command: %w", err)
	}
	code, err := x.Wait()
	if err != nil {
		return 0, fmt.Errorf("run the startup command: %w", err)
	}
	return code, nil
}
