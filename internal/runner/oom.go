package runner

import (
	"fmt"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

const oomHint = "give it more with -m"

func oomMessage(spec sandbox.Spec) string {
	return fmt.Sprintf("it went over its memory limit of %d MiB", spec.Resources.MemoryMiB)
}

// outOfMemory reports whether the kernel has killed a process of the sandbox for want of memory, and if so ends it. Which of
// gVisor's processes that is cannot be foreseen; a command may seem to have died by itself.
func (s *supervisor) outOfMemory() bool {
	if !s.limits.oom() {
		return false
	}
	s.end(sandbox.ReasonOOM, oomMessage(s.cfg.Info.Spec))
	return true
}

// reasonOfKill says why a sentry that was killed was killed.
func (s *supervisor) reasonOfKill(sig int) (sandbox.Reason, string) {
	if s.limits.oom() {
		return sandbox.ReasonOOM, oomMessage(s.cfg.Info.Spec)
	}
	return sandbox.ReasonSignal, fmt.Sprintf("its kernel was killed by signal %d", sig)
}
