package rest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

const day = 24 * time.Hour

// sandboxUse is what a sandbox had and used on a day, all its runs together. The first three are time multiplied by what it had, as the
// API wants them; CPU is what it computed of that, and ours.
type sandboxUse struct {
	ID     string    `json:"sandbox_id"`
	Day    time.Time `json:"day"` // its midnight, UTC
	VCPU   float64   `json:"vcpu_seconds"`
	Memory float64   `json:"mem_mib_seconds"`
	Disk   float64   `json:"disk_mib_seconds"`
	CPU    float64   `json:"cpu_seconds"`

	name sandbox.Name
}

// month is when the month of a time began.
func month(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }

// daily adds up runs by sandbox and day, since a time. What a run computed is spread evenly over its time.
func daily(runs []backend.Usage, since time.Time) []sandboxUse {
	type key struct {
		id  string
		day time.Time
	}
	sums := map[key]*sandboxUse{}
	for _, u := range runs {
		whole := u.Ended.Sub(u.Started)
		for from := u.Started.UTC(); from.Before(u.Ended); {
			midnight := from.Truncate(day)
			to := midnight.Add(day)
			if to.After(u.Ended) {
				to = u.Ended
			}
			if to.After(since) {
				if from.Before(since) {
					from = since
				}
				k := key{u.ID, midnight}
				if sums[k] == nil {
					sums[k] = &sandboxUse{ID: u.ID, Day: midnight}
				}
				s, secs := sums[k], to.Sub(from).Seconds()
				s.name = u.Ref.Name
				s.VCPU += secs * float64(u.CPUs)
				s.Memory += secs * float64(u.MemoryMiB)
				s.Disk += secs * float64(u.DiskMiB)
				s.CPU += u.CPUTime.Seconds() * secs / whole.Seconds()
			}
			from = midnight.Add(day)
		}
	}
	all := make([]sandboxUse, 0, len(sums))
	for _, s := range sums {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b sandboxUse) int {
		return cmp.Or(b.Day.Compare(a.Day), cmp.Compare(a.name, b.name), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// used is what the sandboxes of a namespace, those that are gone included, used this month.
func (h *Handler) used(ctx context.Context, namespace string) ([]sandboxUse, error) {
	a, ok := h.backend.(backend.Accountant)
	if !ok {
		return []sandboxUse{}, nil
	}
	since := month(time.Now().UTC())
	runs, err := a.Usage(ctx, namespace, since)
	if err != nil {
		return nil, err
	}
	return daily(runs, since), nil
}

// sum is all of it.
func sum(all []sandboxUse) (total sandboxUse) {
	for _, u := range all {
		total.VCPU += u.VCPU
		total.Memory += u.Memory
		total.Disk += u.Disk
		total.CPU += u.CPU
	}
	return total
}

func most(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func (h *Handler) quotas(r *request) (any, error) {
	infos, err := h.backend.List(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	kept, brief := 0, 0
	for _, i := range infos {
		switch {
		case i.Status.Terminal():
		case i.Spec.Lifecycle.Ephemeral:
			brief++
		default:
			kept++
		}
	}
	all, err := h.used(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	total := sum(all)
	l := h.server.Config().Limits
	return map[string]any{"hard_cap": true, "vcpu_hours_used": total.VCPU / 3600, "memory_gib_hours_used": total.Memory / 1024 / 3600,
		"pool_exhausted": l.Sandboxes > 0 && kept+brief >= l.Sandboxes, "total_sandboxes": len(infos), "concurrent_ephemeral_running": brief,
		"concurrent_persistent_running": kept, "is_suspended": false, "max_concurrent_persistent_running": most(l.Sandboxes),
		"max_concurrent_ephemeral_running": most(l.Sandboxes), "max_memory_mib_per_sandbox": most(l.MemoryMiB), "max_vcpus_per_sandbox": most(l.CPUs),
		"max_disk_size_mib_per_sandbox": most(l.DiskMiB)}, nil
}

func (h *Handler) usage(r *request) (any, error) {
	all, err := h.used(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	total, now := sum(all), time.Now().UTC()
	item := func(name, unit string, n float64) map[string]any {
		return map[string]any{"name": name, "unit": unit, "quantity": n, "amount_cents": 0}
	}
	return map[string]any{"period_start": month(now), "period_end": now, "total_cents": 0, "line_items": []any{item("vcpu", "vcpu_hours", total.VCPU/3600),
		item("memory", "gib_hours", total.Memory/1024/3600), item("disk", "gib_hours", total.Disk/1024/3600), item("cpu", "cpu_hours", total.CPU/3600)}}, nil
}

func (h *Handler) sandboxUsage(r *request) (any, error) {
	all, err := h.used(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	names, seen := []any{}, map[string]bool{}
	for _, u := range all { // the newest first: that has its last name
		if !seen[u.ID] {
			seen[u.ID] = true
			names = append(names, map[string]any{"id": u.ID, "name": u.name, "slug": u.name})
		}
	}
	return map[string]any{"rows": all, "sandboxes": names}, nil
}

func (h *Handler) storageUsage(r *request) (any, error) {
	all, err := h.allVolumes(r)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	rows, names := []any{}, []any{}
	for _, v := range all {
		day := now.Truncate(24 * time.Hour)
		since := day
		if v.CreatedAt.After(since) {
			since = v.CreatedAt
		}
		rows = append(rows, map[string]any{"volume_id": v.ID, "day": day, "mib_seconds": float64(v.Used) / mib * now.Sub(since).Seconds()})
		names = append(names, map[string]any{"id": v.ID, "name": v.Name})
	}
	return map[string]any{"rows": rows, "volumes": names}, nil
}
