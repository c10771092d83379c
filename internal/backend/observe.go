package backend

import (
	"context"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// LogReader is a backend that keeps what sandboxes print.
type LogReader interface {
	// OpenLogs reads the log of a sandbox, whether it runs or not. ctx bounds the stream. Kinds: NotFound, InvalidCursor.
	OpenLogs(ctx context.Context, ref sandbox.Ref, opt sandbox.LogOptions) (LogStream, error)
}

// LogStream is the entries of a log in the order of their times. It holds one entry in memory.
type LogStream interface {
	// Next returns the next entry, and io.EOF after the last. It waits if the stream follows. What it returns is valid until
	// the next call. Kinds: Cancelled, MissedRotation, IO.
	Next() (sandbox.LogEntry, error)
	// Close gives back what the stream holds. Nobody may be in Next.
	Close() error
}

// Meterer is a backend that samples what sandboxes use. Reading a sample does not wake the guest.
type Meterer interface {
	// Metrics returns the last sample of a sandbox. Kinds: NotFound, NotRunning (it never ran), MetricsDisabled,
	// MetricsUnavailable (there is no sample yet).
	Metrics(ctx context.Context, ref sandbox.Ref) (sandbox.Metrics, error)
	// AllMetrics returns the last samples of a namespace's sandboxes, those that ended included, in the order of List.
	AllMetrics(ctx context.Context, namespace string) ([]sandbox.Metrics, error)
}

// Drainer is a backend whose sandboxes can be told to finish their work and end.
type Drainer interface {
	// Drain lets a running sandbox begin no new session and end with its last one. It does not wait for that. Kinds:
	// NotFound, NotRunning.
	Drain(ctx context.Context, ref sandbox.Ref) error
}
