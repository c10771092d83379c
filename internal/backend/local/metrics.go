package local

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/metering"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Meterer = (*Backend)(nil)

// sampleWait is how long the first sample of a sandbox that has just started may take.
const sampleWait = time.Second

// stalledAfter is after how many intervals without a sample its runner hangs (contract msb-0.6 §5.5).
const stalledAfter = 3

// Metrics returns the last sample of a sandbox.
func (b *Backend) Metrics(ctx context.Context, ref sandbox.Ref) (sandbox.Metrics, error) {
	for deadline := time.Now().Add(sampleWait); ; {
		info, err := b.Get(ctx, ref)
		if err != nil {
			return sandbox.Metrics{}, err
		}
		m, err := b.metricsOf(ctx, info)
		if sandbox.KindOf(err) != sandbox.MetricsUnavailable || info.Status.Terminal() || time.Now().After(deadline) {
			return m, err
		}
		select {
		case <-time.After(20 * time.Millisecond): // neither it nor we are in a hurry
		case <-ctx.Done():
			return m, err
		}
	}
}

// AllMetrics returns the last samples of a namespace's sandboxes.
func (b *Backend) AllMetrics(ctx context.Context, namespace string) ([]sandbox.Metrics, error) {
	infos, err := b.List(ctx, namespace)
	if err != nil {
		return nil, err
	}
	all := make([]sandbox.Metrics, 0, len(infos))
	for _, info := range infos {
		if m, err := b.metricsOf(ctx, info); err == nil { // else it has none, or is none any more
			all = append(all, m)
		}
	}
	return all, nil
}

// freshWait is how long a runner may take to hand out its last sample.
const freshWait = 500 * time.Millisecond

// fresh asks a runner for a newer sample than the recorded one. If it does not answer, that one is the last there is.
func (b *Backend) fresh(ctx context.Context, ref sandbox.Ref, recorded metering.Sample) metering.Sample {
	ctx, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	conn, err := dialSocket(ctx, b.store.Path(ref), launch.ControlFile)
	if err != nil {
		return recorded
	}
	resp, err := exchange(ctx, conn, launch.ControlRequest{Op: launch.OpMetrics})
	if err != nil {
		return recorded
	}
	if s, err := metering.Decode(resp.Metrics); err == nil && s.At.After(recorded.At) {
		return s
	}
	return recorded
}

func (b *Backend) metricsOf(ctx context.Context, info sandbox.Info) (sandbox.Metrics, error) {
	fail := func(kind sandbox.Kind, hint string, err error) (sandbox.Metrics, error) {
		return sandbox.Metrics{}, &sandbox.Error{Op: "metrics", Ref: info.Ref, Kind: kind, Message: string(info.Ref.Name), Hint: hint, Err: err}
	}
	if info.Spec.Runtime.DisableMetrics {
		return fail(sandbox.MetricsDisabled, "", nil)
	}
	s, err := metering.Read(b.logDir(info))
	ended := info.Status.Terminal()
	switch {
	case errors.Is(err, fs.ErrNotExist) && ended:
		return sandbox.Metrics{}, notRunning(info.Ref, info.Status)
	case errors.Is(err, fs.ErrNotExist), err == nil && s.Exited && !ended:
		return fail(sandbox.MetricsUnavailable, "it was not sampled yet; try again", nil)
	case err != nil:
		return fail(sandbox.MetricsUnavailable, "", err)
	}
	if !ended && time.Since(s.At) > s.Interval {
		s = b.fresh(ctx, info.Ref, s)
	}
	m := sandbox.Metrics{
		Ref: info.Ref, Name: info.Ref.Name, State: sandbox.MetricsRunning, CPUs: int(s.CPUs), Timestamp: s.At,
		CPUPercent: s.CPUPercent, CPUTimeNS: uint64(s.CPUTime), MemoryBytes: s.Memory, MemoryLimitBytes: s.MemoryLimit,
		DiskReadBytes: s.DiskRead, DiskWriteBytes: s.DiskWritten, NetRxBytes: s.Received, NetTxBytes: s.Sent,
		UptimeSecs: uint64(max(0, s.At.Sub(s.Started)) / time.Second),
	}
	if s.MemoryLimit > 0 {
		available := s.MemoryLimit - min(s.Memory, s.MemoryLimit)
		m.MemoryAvailableBytes = &available
	}
	if s.Resident > 0 {
		m.MemoryHostResidentBytes = &s.Resident
	}
	if s.Upper {
		m.UpperUsedBytes, m.UpperFreeBytes = &s.UpperUsed, &s.UpperFree
	}
	switch {
	case ended:
		m.State, m.CPUPercent = sandbox.MetricsExited, 0
	case time.Since(s.At) > stalledAfter*s.Interval:
		m.State = sandbox.MetricsStalled
	}
	return m, nil
}
