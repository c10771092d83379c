package runner

import (
	"encoding/json"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// linger is how long the record of a sandbox that nobody owns stays after its end, for those who were connected to ask.
const linger = 300 * time.Millisecond

// finish tells how the run ended, gives back all that it took, and removes what nobody will ask for again.
func (s *supervisor) finish(e sandbox.End) {
	watched := !s.cfg.Attached && s.relay != nil && s.relay.busy()
	if watched || !s.cfg.Info.Spec.Lifecycle.Ephemeral {
		s.record(e) // before the clients see the end
	}
	s.lastWords(e)
	s.release()
	if err := s.words.Encode(launch.Word{End: &e, CPUTime: time.Duration(s.cpuTime.Load())}); err != nil {
		s.log.Debug("the creator has gone", "err", err)
	}
	if !s.cfg.Info.Spec.Lifecycle.Ephemeral {
		return
	}
	if watched {
		time.Sleep(linger)
	}
	s.forget()
}

// fail undoes a start that did not succeed and says why. The directory of a sandbox that is kept is its creator's to remove,
// who first records the failure.
func (s *supervisor) fail(err error) int {
	s.release()
	if s.cfg.Info.Spec.Lifecycle.Ephemeral {
		s.forget()
	}
	if err := s.words.Encode(launch.Word{Failure: launch.FailureOf(err)}); err != nil {
		s.log.Debug("the creator has gone", "err", err)
	}
	return 1
}

func (s *supervisor) release() {
	close(s.gone)
	s.alarm.close()
	s.bounding.Wait()
	if s.inst != nil {
		if err := s.inst.Destroy(); err != nil {
			s.log.Warn("the driver left something behind", "err", err)
		}
	}
	if s.relay != nil {
		s.relay.end()
	}
	if s.listen != nil {
		_ = s.listen.Close()
	}
	if s.control != nil {
		_ = s.control.Close()
	}
	if s.gateway != nil {
		_ = s.gateway.Close()
		_ = s.proxy.Close()
		_ = s.flows.close()
	}
	s.tasks.Wait() // all of them end with the agent or the listeners
	if s.out != nil {
		s.out.System(execlog.Stopped)
		s.out.Close()
	}
	if s.limits != nil {
		if err := s.limits.getGroup().Remove(); err != nil {
			s.log.Warn("a control group is left for the next sweep", "err", err)
		}
	}
}

// record writes the end where readers find it, and removes what only a running sandbox has.
func (s *supervisor) record(e sandbox.End) {
	b, err := json.Marshal(e)
	if err == nil {
		err = atomicfile.Write(s.path(launch.EndFile), b, 0o600)
	}
	if err != nil {
		s.log.Error("the end could not be recorded", "err", err)
	}
	for _, name := range []string{launch.SocketFile, launch.ControlFile, launch.RunningFile} {
		_ = os.Remove(s.path(name)) // a reader goes by the lock
	}
}

// forget removes the run directory, in one step for those who look. From then on the name is free.
func (s *supervisor) forget() {
	if err := atomicfile.Discard(s.cfg.RunDir); err != nil {
		s.log.Warn("the run directory is left for the next sweep", "err", err)
	}
}
