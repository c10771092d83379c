package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
	"github.com/microsandbox-go/microsandbox/internal/metering"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// retireGrace is how long a sandbox may take to end in order when the runner wants it to (contract msb-0.6 §2.1).
const retireGrace = 10 * time.Second

// retire ends the sandbox for a reason of the runner's own. One that is kept ends as by a stop, so that what it wrote is
// there the next time. The first to ask says why.
func (s *supervisor) retire(reason sandbox.Reason, message string) {
	if s.cfg.Info.Spec.Lifecycle.Ephemeral {
		s.end(reason, message)
		return
	}
	e := end(reason, message)
	if !s.retires.CompareAndSwap(nil, &e) {
		return
	}
	asked := make(chan error, 1)
	go func() { asked <- s.relay.toAgent(agentproto.Append(nil, 0, agentproto.TypeShutdown, nil)) }()
	go func() {
		grace := time.NewTimer(retireGrace) // an agent that reads nothing has no longer to hear of it
		defer grace.Stop()
		for {
			select {
			case <-s.gone:
				return
			case err := <-asked:
				if err == nil {
					continue
				}
			case <-grace.C:
			}
			s.end(reason, message)
			return
		}
	}()
}

// holdsBack reports whether the end of a session is not to be told: it is the sandbox that ends, and why is the runner's to say.
func (s *supervisor) holdsBack() bool { return s.retires.Load() != nil || s.outOfMemory() }

// attachedWait is how long the log of a sandbox whose owner reads its output, and which leaves nothing, is not begun.
const attachedWait = 200 * time.Millisecond

// openLog begins the log of this run.
func (s *supervisor) openLog() {
	wait := time.Duration(0)
	if s.cfg.Attached && s.cfg.Info.Spec.Lifecycle.Ephemeral {
		wait = attachedWait
	}
	if !s.cfg.Info.Spec.Lifecycle.Ephemeral { // what the last run left
		err := errors.Join(execlog.ClearBootError(s.cfg.LogDir), metering.Remove(s.cfg.LogDir))
		if err != nil {
			s.log.Warn("logs of the last run are in the way", "err", err)
		}
	}
	s.out = execlog.NewWriter(s.cfg.LogDir, wait, s.log)
	s.out.System(execlog.Started)
	s.events.Store(s.out)
}

// lastWords logs why the sandbox ends, where that is more than that it was done or was stopped.
func (s *supervisor) lastWords(e sandbox.End) {
	switch e.Reason {
	case sandbox.ReasonCompleted, sandbox.ReasonShutdown, sandbox.ReasonParentGone:
	default:
		if s.out != nil {
			s.out.System(fmt.Sprintf("--- sandbox ends: %s: %s ---\n", e.Reason, e.Message))
		}
	}
}
