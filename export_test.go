package microsandbox

import (
	"io"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

// CloseEngines gives back what the engines hold, as the end of the process does.
func CloseEngines() error {
	engines.Lock()
	defer engines.Unlock()
	for _, e := range engines.byHome {
		e.mu.Lock()
		for _, b := range []backend.Backend{e.b, e.before} {
			if b == nil {
				continue
			}
			if err := b.(io.Closer).Close(); err != nil {
				return err
			}
		}
		e.mu.Unlock()
	}
	engines.byHome = nil
	return nil
}

// SetMaxOutput changes what is kept of a command's output, and returns what changes it back.
func SetMaxOutput(n int) (restore func()) {
	was := maxOutput
	maxOutput = n
	return func() { maxOutput = was }
}
