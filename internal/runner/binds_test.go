package runner

import (
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestBindOf has all mounts of users served by our own file server, which looks whether they are what was to be mounted.
func TestBindOf(t *testing.T) {
	for _, stat := range []string{sandbox.StatStrict, sandbox.StatRelaxed, sandbox.StatOff} {
		if b := bindOf(launch.Mount{Source: "/a", Target: "/b", Stat: stat}); b.Files == nil || b.Files.Stat != stat {
			t.Errorf("%s: %+v", stat, b)
		}
	}
}
