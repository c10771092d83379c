package runner

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Bounds of requests to the runner. Only its own user can make them; a mistake of his must not hold up the sandbox.
const (
	controlClients = 16
	controlTime    = 5 * time.Second
	controlLine    = 32 << 20 // bytes: all secrets, escaped
)

// openControl listens for requests to the runner itself. The sandbox runs without, too.
func (s *supervisor) openControl() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path(launch.ControlFile), Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false) // it goes with the directory
		if err = os.Chmod(s.path(launch.ControlFile), 0o600); err != nil {
			l.Close()
		}
	}
	if err != nil {
		s.log.Error("the runner cannot be spoken to", "err", err)
		return
	}
	s.control = l
	s.terms = s.cfg.Info.Spec
	if s.cfg.Proxy != nil {
		s.values = s.cfg.Proxy.Secrets
	}
	s.tasks.Go(func() {
		slots := make(chan struct{}, controlClients)
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(acceptPause)
				continue
			}
			select {
			case slots <- struct{}{}:
				s.tasks.Go(func() {
					s.answer(conn)
					<-slots
				})
			default:
				conn.Close()
			}
		}
	})
}

// answer serves one request.
func (s *supervisor) answer(conn net.Conn) {
	done := make(chan struct{})
	defer close(done)
	defer conn.Close()
	go func() {
		select {
		case <-s.gone:
			conn.Close()
		case <-done:
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(controlTime))
	var req launch.ControlRequest
	resp := launch.ControlResponse{OK: true}
	line, err := bufio.NewReader(io.LimitReader(conn, controlLine)).ReadBytes('\n')
	if err != nil {
		return
	}
	if err := json.Unmarshal(line, &req); err != nil {
		resp = refusal(&sandbox.Error{Kind: sandbox.InvalidArgument, Message: "the request to the runner is no JSON", Err: err})
	} else if err := s.perform(req, &resp); err != nil {
		resp = refusal(err)
	}
	b, err := json.Marshal(resp)
	if err == nil {
		_, _ = conn.Write(append(b, '\n'))
	}
}

func refusal(err error) launch.ControlResponse {
	return launch.ControlResponse{Failure: launch.FailureOf(err)}
}

func (s *supervisor) perform(req launch.ControlRequest, resp *launch.ControlResponse) error {
	switch req.Op {
	case launch.OpCapabilities:
		resp.Capabilities = []string{launch.OpCapabilities, launch.OpDrain, launch.OpLimits, launch.OpDefaults, launch.OpNetwork, launch.OpPolicy, launch.OpSecrets, launch.OpMetrics}
		return nil
	case launch.OpDrain:
		return s.drain()
	case launch.OpDefaults:
		return s.redefine(req.Defaults)
	case launch.OpLimits:
		return s.resize(req.Limits)
	case launch.OpNetwork:
		st := s.networkState()
		resp.Network = &st
		return nil
	case launch.OpMetrics:
		var err error
		resp.Metrics, err = s.samples.get()
		return err
	case launch.OpPolicy:
		if req.Policy == nil {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "the request has no policy"}
		}
		return s.setPolicy(*req.Policy, req.Strict)
	case launch.OpSecrets:
		return s.setSecrets(req.Secrets)
	}
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: fmt.Sprintf("the sandbox's runner does not know %q", req.Op), Hint: "restart the sandbox to update its runner"}
}

// resize holds the sandbox to other limits, within those that its kernel was started with.
func (s *supervisor) resize(l *launch.Limits) error {
	r := s.cfg.Info.Spec.Resources
	if l == nil || l.CPUs < 1 || l.CPUs > r.MaxCPUs || l.MemoryMiB < 1 || l.MemoryMiB > r.MaxMemoryMiB {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the limits must be within %d CPUs and %d MiB", r.MaxCPUs, r.MaxMemoryMiB)}
	}
	s.bounding.Wait() // settle's own
	return s.limits.resize(filepath.Base(s.cfg.RunDir), s.inst, uint64(l.MemoryMiB)<<20, l.CPUs)
}

// redefine tells the agent what commands to come get that say nothing else.
func (s *supervisor) redefine(d *launch.Defaults) error {
	if d == nil {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "no defaults are given"}
	}
	s.termsMu.Lock()
	defer s.termsMu.Unlock()
	s.terms.Env, s.terms.Runtime.Workdir = d.Env, d.Workdir
	return s.tellDefaults()
}

// tellDefaults tells the agent what commands to come get. termsMu is held.
func (s *supervisor) tellDefaults() error {
	m := &agentproto.Bootstrap{DefaultCwd: s.terms.Runtime.Workdir, DefaultEnv: defaultEnv(s.terms, s.cfg.Proxy)}
	return s.relay.toAgent(agentproto.Append(nil, 0, agentproto.TypeBootstrap, m))
}

// drain lets no session begin, and ends the sandbox with the last one.
func (s *supervisor) drain() error {
	if s.relay.work.drain(func() { s.retire(sandbox.ReasonDrain, "it was drained") }) {
		return s.recordRunning()
	}
	return nil
}
