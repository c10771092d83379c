package rest

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

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

// audited is a line of the audit log.
type audited struct {
	Time      time.Time    `json:"time"`
	Message   string       `json:"msg"`
	ID        string       `json:"event"`
	Request   string       `json:"request"`
	Key       string       `json:"key"`
	Action    string       `json:"action"`
	Namespace string       `json:"namespace"`
	Sandbox   string       `json:"sandbox"`
	OK        bool         `json:"ok"`
	Kind      sandbox.Kind `json:"kind"`
	Error     string       `json:"error"`
}

// event is the line in the words of the API.
func (a audited) event() event {
	category, kind := "sandbox", a.Action
	if c, _, ok := strings.Cut(a.Action, "."); ok {
		category = c // volume, image
	} else {
		kind = "sandbox." + kind
	}
	by := actor{Kind: "system", Code: "development", Label: "development mode"}
	if a.Key != "" {
		by = actor{Kind: "api_key", KeyID: uuidOf("key/" + a.Key), Name: a.Key}
	}
	return event{ID: uuidOf("event/" + a.ID), OrgID: orgID(a.Namespace), Category: category, Type: kind, Actor: by,
		Payload: payload{Name: a.Sandbox, OK: a.OK, Kind: a.Kind, Error: a.Error, RequestID: a.Request}, Timestamp: a.Time, namespace: a.Namespace}
}

// keptEvents is how many events are remembered, and keptOfOne how many of one namespace. The audit log has more. Where there are too many,
// the oldest goes of the namespace that has most.
const (
	keptEvents = 10_000
	keptOfOne  = 1_000
)

// events are the last ones of each namespace, the oldest first: those of this process, and before them what the audit log had when it
// was first asked for.
type events struct {
	log  string // "" is none
	read sync.Once

	mu  sync.Mutex
	all map[string][]event // by namespace
	n   int                // of all
}

func (e *events) add(a server.Audit) {
	line := audited{Time: a.At, ID: a.ID, Request: a.Request, Key: a.Caller.KeyID, Action: a.Action, Namespace: a.Ref.Namespace, Sandbox: string(a.Ref.Name), OK: a.Kind == "", Kind: a.Kind, Error: a.Failure}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addLocked(line.event())
}

func (e *events) addLocked(v event) {
	if e.all == nil {
		e.all = map[string][]event{}
	}
	e.all[v.namespace] = append(e.all[v.namespace], v)
	e.n++
	if len(e.all[v.namespace]) > keptOfOne {
		e.dropLocked(v.namespace)
	}
	if e.n > keptEvents {
		most := v.namespace
		for ns, of := range e.all {
			if len(of) > len(e.all[most]) {
				most = ns
			}
		}
		e.dropLocked(most)
	}
}

// dropLocked forgets the oldest of a namespace.
func (e *events) dropLocked(namespace string) {
	e.all[namespace] = slices.Delete(e.all[namespace], 0, 1)
	if len(e.all[namespace]) == 0 {
		delete(e.all, namespace)
	}
	e.n--
}

// remember reads what was before this process. Lines that are none, or were torn off, are passed over.
func (e *events) remember() {
	if e.log == "" {
		return
	}
	var before []event
	of := map[string]int{}
	server.ReadLog(e.log, func(text []byte) bool {
		var line audited
		if json.Unmarshal(text, &line) != nil || line.Message != "audit" || line.Time.IsZero() {
			return true
		}
		if of[line.Namespace]++; of[line.Namespace] > keptOfOne {
			return true
		}
		if line.ID == "" { // of an msb that did not number them
			line.ID = string(text)
		}
		before = append(before, line.event())
		return len(before) < keptEvents
	})
	slices.Reverse(before)
	e.mu.Lock()
	defer e.mu.Unlock()
	have, now := map[string]bool{}, []event(nil)
	for _, all := range e.all {
		now = append(now, all...)
	}
	for _, v := range now {
		have[v.ID] = true
	}
	slices.SortStableFunc(now, func(a, b event) int { return a.Timestamp.Compare(b.Timestamp) })
	before = slices.DeleteFunc(before, func(v event) bool { return have[v.ID] })
	e.all, e.n = nil, 0
	for _, v := range append(before, now...) {
		e.addLocked(v)
	}
}

// of returns those of a namespace, newest first.
func (e *events) of(namespace string) []event {
	e.read.Do(e.remember)
	e.mu.Lock()
	defer e.mu.Unlock()
	all := slices.Clone(e.all[namespace])
	slices.Reverse(all)
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
		return q.Get("event_type") != "" && e.Type != q.Get("event_type") || e.Timestamp.Before(bounds[0]) || !bounds[1].IsZero() && e.Timestamp.After(bounds[1])
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
