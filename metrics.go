package microsandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Metrics are one sample of what a sandbox uses. Counters run from the start of its last run; what is nil is not known here.
type Metrics struct {
	CPUPercent              float64 // over the last interval; 100 is one CPU
	VCPUTimeNs              uint64
	MemoryBytes             uint64
	MemoryAvailableBytes    *uint64
	MemoryHostResidentBytes *uint64
	MemoryLimitBytes        uint64
	DiskReadBytes           uint64
	DiskWriteBytes          uint64
	NetRxBytes              uint64
	NetTxBytes              uint64
	UpperUsedBytes          *uint64 // of the writable layer
	UpperFreeBytes          *uint64
	UpperHostAllocatedBytes *uint64
	Uptime                  time.Duration
}

func metricsOf(m sandbox.Metrics) *Metrics {
	return &Metrics{CPUPercent: m.CPUPercent, VCPUTimeNs: m.CPUTimeNS, MemoryBytes: m.MemoryBytes, MemoryAvailableBytes: m.MemoryAvailableBytes,
		MemoryHostResidentBytes: m.MemoryHostResidentBytes, MemoryLimitBytes: m.MemoryLimitBytes, DiskReadBytes: m.DiskReadBytes, DiskWriteBytes: m.DiskWriteBytes,
		NetRxBytes: m.NetRxBytes, NetTxBytes: m.NetTxBytes, UpperUsedBytes: m.UpperUsedBytes, UpperFreeBytes: m.UpperFreeBytes,
		UpperHostAllocatedBytes: m.UpperHostAllocatedBytes, Uptime: time.Duration(m.UptimeSecs) * time.Second}
}

// AllSandboxMetrics returns the last sample of each running sandbox, by name.
func AllSandboxMetrics(ctx context.Context) (map[string]*Metrics, error) {
	e, err := open()
	if err != nil {
		return nil, wrap(err)
	}
	b, err := capable[backend.Meterer](e, "all_sandbox_metrics")
	if err != nil {
		return nil, wrap(err)
	}
	all, err := b.AllMetrics(ctx, sandbox.DefaultNamespace)
	if err != nil {
		return nil, wrap(err)
	}
	out := make(map[string]*Metrics, len(all))
	for _, m := range all {
		if m.State != sandbox.MetricsExited {
			out[string(m.Name)] = metricsOf(m)
		}
	}
	return out, nil
}

// Metrics returns the last sample of what the sandbox uses. Kinds: ErrMetricsDisabled, ErrMetricsUnavailable,
// ErrSandboxNotRunning.
func (s *Sandbox) Metrics(ctx context.Context) (*Metrics, error) { return s.handle.Metrics(ctx) }

// Metrics returns the last sample of what the sandbox uses. Kinds: ErrMetricsDisabled, ErrMetricsUnavailable,
// ErrSandboxNotRunning.
func (h *SandboxHandle) Metrics(ctx context.Context) (*Metrics, error) {
	m, err := h.metrics(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return metricsOf(m), nil
}

func (h *SandboxHandle) metrics(ctx context.Context) (sandbox.Metrics, error) {
	b, err := capable[backend.Meterer](h.e, "Sandbox::metrics")
	if err != nil {
		return sandbox.Metrics{}, err
	}
	info, err := h.refresh(ctx)
	if err != nil {
		return sandbox.Metrics{}, err
	}
	if info.Status.Terminal() {
		return sandbox.Metrics{}, info.NotRunning("")
	}
	return b.Metrics(ctx, h.ref)
}

// minInterval bounds how often a stream looks.
const minInterval = time.Millisecond

// MetricsStream looks at the sandbox's metrics every interval, rounded up to milliseconds. Close ends the stream; ctx bounds
// only the call.
func (s *Sandbox) MetricsStream(ctx context.Context, interval time.Duration) (*MetricsStreamHandle, error) {
	if _, err := s.handle.metrics(ctx); err != nil {
		return nil, wrap(err)
	}
	return &MetricsStreamHandle{h: s.handle, tick: time.NewTicker(max(minInterval, roundUp(interval, time.Millisecond))), closed: make(chan struct{})}, nil
}

// MetricsStreamHandle is a sandbox's metrics, again and again. One goroutine receives.
type MetricsStreamHandle struct {
	h      *SandboxHandle
	tick   *time.Ticker
	first  bool // was received
	close  sync.Once
	closed chan struct{}
}

// Recv returns the next sample, the first one at once, and nil when the sandbox has ended or the stream was closed.
func (m *MetricsStreamHandle) Recv(ctx context.Context) (*Metrics, error) {
	if m.first {
		select {
		case <-m.tick.C:
		case <-m.closed:
			return nil, nil
		case <-ctx.Done():
			return nil, wrap(ctx.Err())
		}
	}
	m.first = true
	sample, err := m.h.metrics(ctx)
	switch {
	case errors.Is(err, sandbox.NotRunning), errors.Is(err, sandbox.NotFound), errors.Is(err, sandbox.Replaced):
		return nil, nil
	case err != nil:
		return nil, wrap(err)
	case sample.State == sandbox.MetricsExited:
		return nil, nil
	}
	return metricsOf(sample), nil
}

// Close ends the stream. It may be called twice.
func (m *MetricsStreamHandle) Close() error {
	m.close.Do(func() {
		m.tick.Stop()
		close(m.closed)
	})
	return nil
}
