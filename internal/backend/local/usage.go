package local

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/metering"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Accountant = (*Backend)(nil)

// Account has runs of ephemeral sandboxes remembered.
func (b *Backend) Account() { b.account.Store(true) }

// measured is what the last sample of a sandbox's run says.
func (b *Backend) measured(info sandbox.Info) state.Measured {
	s, err := metering.Read(b.logDir(info))
	if err != nil {
		return state.Measured{}
	}
	return state.Measured{At: s.At, CPUTime: s.CPUTime}
}

// use is a run of a sandbox that began when it is said to have changed last.
func use(info sandbox.Info, ended time.Time, cpu time.Duration) state.Usage {
	u := state.Usage{ID: info.ID, Ref: info.Ref, Started: info.UpdatedAt, Ended: ended, CPUTime: cpu}
	u.Of(info.Effective())
	return u
}

// noteUse records the run of an ephemeral sandbox that this process started, and whose agent had answered.
func (b *Backend) noteUse(c *child) {
	c.mu.Lock()
	end, began, cpu := c.end, c.began, c.cpu
	c.mu.Unlock()
	if !b.account.Load() || began.IsZero() {
		return
	}
	ended := time.Now()
	if end != nil {
		ended = end.At
	}
	if db, err := b.records(); err == nil {
		info := c.info
		info.UpdatedAt = began
		_ = db.AddUsage(use(info, ended, cpu)) // there is nobody to be told
	}
}

// Usage returns the runs of a namespace's sandboxes that went on after a time, in the order in which they began.
func (b *Backend) Usage(ctx context.Context, namespace string, since time.Time) ([]backend.Usage, error) {
	infos, err := b.List(ctx, namespace) // before what has ended is read: it records ends
	if err != nil {
		return nil, err
	}
	db, err := b.recordsIfAny()
	if err != nil {
		return nil, err
	}
	var runs []state.Usage
	if db != nil {
		if runs, err = db.Usage(namespace, since); err != nil {
			return nil, err
		}
	}
	now := time.Now().UTC()
	for _, info := range infos {
		if info.Status == sandbox.Running || info.Status == sandbox.Draining || info.Status == sandbox.Paused {
			runs = append(runs, use(info, now, b.measured(info).CPUTime))
		}
	}
	all := make([]backend.Usage, 0, len(runs))
	for _, u := range runs {
		all = append(all, backend.Usage(u))
	}
	slices.SortStableFunc(all, func(x, y backend.Usage) int { return cmp.Or(x.Started.Compare(y.Started), cmp.Compare(x.ID, y.ID)) })
	return all, nil
}
