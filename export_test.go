package microsandbox

// CloseEngines gives back what the engines hold, as the end of the process does.
func CloseEngines() error {
	engines.Lock()
	defer engines.Unlock()
	for _, e := range engines.byHome {
		e.mu.Lock()
		if e.b != nil {
			if err := e.b.Close(); err != nil {
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
