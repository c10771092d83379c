package rest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// uuidOf is a UUID (version 8, RFC 9562) that belongs to a text.
func uuidOf(s string) string {
	u := sha256.Sum256([]byte(s))
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// orgID is the organisation that a namespace is.
func orgID(namespace string) string { return uuidOf("namespace/" + namespace) }

// event is one that was audited.
type event struct {
	ID        string    `json:"id"`
	OrgID     string    `json:"org_id"`
	Category  string    `json:"category"`
	Type      string    `json:"event_type"`
	Actor     actor     `json:"actor"`
	Payload   payload   `json:"payload"`
	Timestamp time.Time `json:"timestamp"`

	namespace string
}

type actor struct {
	Kind  string `json:"kind"` // api_key | system
	KeyID string `json:"api_key_id,omitempty"`
	Name  string `json:"name,omitempty"`
	Code  string `json:"code,omitempty"`
	Label string `json:"label,omitempty"`
}

type payload struct {
	Name      string       `json:"name,omitempty"`
	OK        bool         `json:"ok"`
	Kind      sandbox.Kind `json:"kind,omitempty"`
	Error     string       `json:"error,omitempty"`
	RequestID string       `json:"request_id"`
}

// keptEvents is how many events of all namespaces are remembered. The audit log has them all.
const keptEvents = 10_000

// events are the last ones, the oldest first.
type events struct {
	mu  sync.Mutex
	seq int64
	all []event
}

func newEvents() *events { return &events{} }

func (e *events) add(a server.Audit) {
	category := "sandbox"
	if len(a.Action) > 7 && a.Action[:7] == "volume." {
		category = "volume"
	}
	by := actor{Kind: "system", Code: "development", Label: "development mode"}
	if a.Caller.KeyID != "" {
		by = actor{Kind: "api_key", KeyID: uuidOf("key/" + a.Caller.KeyID), Name: a.Caller.KeyID}
	}
	p := payload{Name: string(a.Ref.Name), OK: a.Err == nil, RequestID: a.Request}
	if a.Err != nil {
		p.Kind, p.Error = sandbox.KindOf(a.Err), a.Err.Error()
	}
	kind := a.Action
	if category == "sandbox" {
		kind = "sandbox." + kind
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seq++
	id := uuidOf(fmt.Sprintf("event/%d/%d/%s", a.At.UnixNano(), e.seq, a.Request))
	e.all = append(e.all, event{ID: id, OrgID: orgID(a.Ref.Namespace), Category: category, Type: kind, Actor: by, Payload: p, Timestamp: a.At, namespace: a.Ref.Namespace})
	if len(e.all) > keptEvents {
		e.all = slices.Delete(e.all, 0, len(e.all)-keptEvents)
	}
}

// of returns those of a namespace, newest first.
func (e *events) of(namespace string) []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []event
	for _, v := range slices.Backward(e.all) {
		if v.namespace == namespace {
			all = append(all, v)
		}
	}
	return all
}

func (h *Handler) listEvents(r *request) (any, error) {
	q := r.URL.Query()
	var bounds [2]time.Time
	for i, name := range []string{"since", "until"} {
		if s := q.Get(name); s != "" {
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				return nil, invalid(name + " is not a time")
			}
			bounds[i] = t
		}
	}
	all := slices.DeleteFunc(h.events.of(r.namespace), func(e event) bool {
		return q.Get("event_type") != "" && e.Type != q.Get("event_type") || e.Timestamp.Before(bounds[0]) || !bounds[1].IsZero() && !e.Timestamp.Before(bounds[1])
	})
	slices.SortStableFunc(all, func(a, b event) int {
		return map[bool]int{true: 1, false: -1}[place{a.Timestamp.UnixNano(), a.ID}.behind(place{b.Timestamp.UnixNano(), b.ID})]
	})
	return paged(r, all, func(e event) place { return place{e.Timestamp.UnixNano(), e.ID} })
}

func (h *Handler) getEvent(r *request) (any, error) {
	for _, e := range h.events.of(r.namespace) {
		if e.ID == r.PathValue("id") {
			return e, nil
		}
	}
	return nil, &server.Failure{Status: 404, Message: "there is no such event, or it is only in the audit log by now"}
}

func (h *Handler) org(r *request) (any, error) {
	role := "member"
	if server.CallerOf(r.Context()).All() {
		role = "owner"
	}
	return map[string]any{"id": orgID(r.namespace), "name": r.namespace, "slug": r.namespace, "mfa_required": false, "role": role,
		"created_at": time.Unix(0, 0).UTC(), "updated_at": time.Unix(0, 0).UTC()}, nil
}

// members are the keys of the namespace.
func (h *Handler) members(r *request) (any, error) {
	c := server.CallerOf(r.Context())
	all := []any{}
	if c.KeyID != "" {
		role := "member"
		if c.All() {
			role = "owner"
		}
		all = append(all, map[string]any{"id": uuidOf("key/" + c.KeyID), "user_id": uuidOf("key/" + c.KeyID), "email": "", "display_name": c.KeyID, "role": role,
			"joined_at": time.Unix(0, 0).UTC()})
	}
	return cloudapi.Page[any]{Data: all}, nil
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
	used, err := h.measured(r.Context(), r.namespace, infos)
	if err != nil {
		return nil, err
	}
	var cpu, memory float64
	for _, u := range used {
		cpu += u.CPU
		memory += u.Memory
	}
	l := h.server.Config().Limits
	return map[string]any{"hard_cap": true, "vcpu_hours_used": cpu / 3600, "memory_gib_hours_used": memory / 1024 / 3600,
		"pool_exhausted": l.Sandboxes > 0 && kept+brief >= l.Sandboxes, "total_sandboxes": len(infos), "concurrent_ephemeral_running": brief,
		"concurrent_persistent_running": kept, "is_suspended": false, "max_concurrent_persistent_running": most(l.Sandboxes),
		"max_concurrent_ephemeral_running": most(l.Sandboxes), "max_memory_mib_per_sandbox": most(l.MemoryMiB), "max_vcpus_per_sandbox": most(l.CPUs),
		"max_disk_size_mib_per_sandbox": most(l.DiskMiB)}, nil
}

// sandboxUse is what a sandbox used in its present or last run.
type sandboxUse struct {
	ID     string    `json:"sandbox_id"`
	Day    time.Time `json:"day"`
	CPU    float64   `json:"vcpu_seconds"`
	Memory float64   `json:"mem_mib_seconds"` // of its limit
	Disk   float64   `json:"disk_mib_seconds"`
}

// measured is what the last samples say.
func (h *Handler) measured(ctx context.Context, namespace string, infos []sandbox.Info) ([]sandboxUse, error) {
	all := []sandboxUse{}
	m, ok := h.backend.(backend.Meterer)
	if !ok {
		return all, nil
	}
	samples, err := m.AllMetrics(ctx, namespace)
	if err != nil {
		return nil, err
	}
	ids := map[sandbox.Ref]string{}
	for _, i := range infos {
		ids[i.Ref] = i.ID
	}
	for _, s := range samples {
		id := ids[s.Ref]
		if id == "" {
			continue
		}
		up := float64(s.UptimeSecs)
		u := sandboxUse{ID: id, Day: s.Timestamp.UTC().Truncate(24 * time.Hour), CPU: float64(s.CPUTimeNS) / 1e9, Memory: float64(s.MemoryLimitBytes) / mib * up}
		if s.UpperUsedBytes != nil {
			u.Disk = float64(*s.UpperUsedBytes) / mib * up
		}
		all = append(all, u)
	}
	return all, nil
}

func (h *Handler) uses(r *request) ([]sandbox.Info, []sandboxUse, error) {
	infos, err := h.backend.List(r.Context(), r.namespace)
	if err != nil {
		return nil, nil, err
	}
	all, err := h.measured(r.Context(), r.namespace, infos)
	return infos, all, err
}

func (h *Handler) usage(r *request) (any, error) {
	_, all, err := h.uses(r)
	if err != nil {
		return nil, err
	}
	var cpu, memory float64
	for _, u := range all {
		cpu += u.CPU
		memory += u.Memory
	}
	now := time.Now().UTC()
	item := func(name, unit string, n float64) map[string]any {
		return map[string]any{"name": name, "unit": unit, "quantity": n, "amount_cents": 0}
	}
	return map[string]any{"period_start": time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), "period_end": now, "total_cents": 0,
		"line_items": []any{item("vcpu", "vcpu_hours", cpu/3600), item("memory", "gib_hours", memory/1024/3600)}}, nil
}

func (h *Handler) sandboxUsage(r *request) (any, error) {
	infos, all, err := h.uses(r)
	if err != nil {
		return nil, err
	}
	names := []any{}
	for _, i := range infos {
		names = append(names, map[string]any{"id": i.ID, "name": i.Ref.Name, "slug": i.Ref.Name})
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
