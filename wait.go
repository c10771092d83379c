package microsandbox

import (
	"context"
	"errors"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// SandboxStopResult says how a sandbox ended.
type SandboxStopResult struct {
	Name       string
	Status     SandboxStatus // stopped or crashed
	ExitCode   *int
	Signal     *int
	ObservedAt time.Time
	Source     *string // why it ended, e.g. "idle-timeout"
}

// WaitUntilStopped returns when the sandbox has ended, and how. Of one that was ephemeral nothing may be known but that.
func (h *SandboxHandle) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	info, err := h.await(ctx, func(i sandbox.Info) bool { return i.Status == sandbox.Stopped || i.Status == sandbox.Crashed })
	if errors.Is(err, sandbox.NotFound) && h.info.Spec.Lifecycle.Ephemeral {
		info, err = h.info, nil
		info.Status, info.End = sandbox.Stopped, nil
	}
	if err != nil {
		return nil, wrap(err)
	}
	r := &SandboxStopResult{Name: h.Name(), Status: SandboxStatus(info.Status), ObservedAt: time.Now()}
	if e := info.End; e != nil {
		source := string(e.Reason)
		r.ExitCode, r.Signal, r.Source = e.ExitCode, e.Signal, &source
	}
	return r, nil
}

// WaitForStatus returns when the sandbox is in that state. Kind: ErrSandboxNotFound, when it was removed.
func (h *SandboxHandle) WaitForStatus(ctx context.Context, status SandboxStatus) (*SandboxHandle, error) {
	info, err := h.await(ctx, func(i sandbox.Info) bool { return SandboxStatus(i.Status) == status })
	if err != nil {
		return nil, wrap(err)
	}
	return newHandle(h.e, info), nil
}

// await polls the record (contract msb-0.6 §2.3).
func (h *SandboxHandle) await(ctx context.Context, done func(sandbox.Info) bool) (sandbox.Info, error) {
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	for {
		info, err := h.refresh(ctx)
		if err != nil || done(info) {
			return info, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return info, ctx.Err()
		}
	}
}
