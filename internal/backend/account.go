package backend

import (
	"context"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Renamer is a backend that can give a sandbox another name.
type Renamer interface {
	// Rename gives a sandbox that does not run another name, under which all of it is found from then on. Kinds: NotFound,
	// InvalidConfig for what is no name, AlreadyExists, StillRunning, Unsupported for one that is ephemeral.
	Rename(ctx context.Context, ref sandbox.Ref, to sandbox.Name) (sandbox.Info, error)
}

// Accountant is a backend that remembers what sandboxes used.
type Accountant interface {
	// Usage returns the runs of a namespace's sandboxes that went on after a time, in the order in which they began: those that ended, of sandboxes
	// that were removed, too, and those that go on.
	Usage(ctx context.Context, namespace string, since time.Time) ([]Usage, error)
	// Account has runs of ephemeral sandboxes remembered, too, that end while this process is there.
	Account()
}

// Usage is a run of a sandbox: what it had, and what it used of that.
type Usage struct {
	ID             string // the sandbox's
	Ref            sandbox.Ref
	Started, Ended time.Time // Ended is the present where it goes on
	CPUs           int
	MemoryMiB      int
	DiskMiB        int           // what its disk may hold; 0 is none on the host
	CPUTime        time.Duration // that it computed, as far as it was sampled
}

// Keeper is a backend that can keep values of secrets that were given inline, so that a sandbox can be started again.
type Keeper interface {
	// KeepValues has values kept from now on, encrypted under key, and those found that were. The key has 32 bytes.
	KeepValues(key []byte)
}
