package runner

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestRetireEndsASandboxWhoseAgentDoesNotListen has an agent that reads nothing any more: the root of a guest may stop it.
func TestRetireEndsASandboxWhoseAgentDoesNotListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := net.Pipe()
		s := &supervisor{cfg: launch.Config{}, relay: &relay{agent: host}, ending: make(chan sandbox.End, 1), gone: make(chan struct{})}
		began := time.Now()
		s.retire(sandbox.ReasonMaxDuration, "it is over")
		s.retire(sandbox.ReasonIdle, "nothing happened")
		if e := <-s.ending; e.Reason != sandbox.ReasonMaxDuration || time.Since(began) != retireGrace {
			t.Errorf("ended after %v: %+v", time.Since(began), e)
		}
		guest.Close()
	})
}
