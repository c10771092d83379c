package local

import (
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logDir is where the runner of a sandbox writes its logs. Those of an ephemeral one are in its run directory, and go with it.
func (b *Backend) logDir(info sandbox.Info) string {
	if info.Spec.Lifecycle.Ephemeral {
		return b.store.Path(info.Ref)
	}
	return filepath.Join(b.dirOf(info.Ref), logsDir)
}
