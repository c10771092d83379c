// Package metrics counts what a server does and tells it to Prometheus at /metrics, in the text format 0.0.4; /healthz, /readyz, /version
// and /openapi.json are here, too.
//
// The format is written here: the initialisation of Prometheus' own client library takes longer than many commands of msb do.
package metrics

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// buckets are the upper bounds of the latencies that are told apart, in seconds.
var buckets = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180}

// histogram counts latencies of one sort.
type histogram struct {
	counts [len(buckets)]uint64
	count  uint64
	sum    float64
}

// Handler counts and answers.
type Handler struct {
	server *server.Server
	began  time.Time

	mu      sync.Mutex
	latency map[[2]string]*histogram // by operation and class of status
	actions map[[2]string]uint64     // by action and outcome

	leaks leaks
}

// New returns the handler of a server and begins to count.
func New(s *server.Server) *Handler {
	h := &Handler{server: s, began: time.Now(), latency: map[[2]string]*histogram{}, actions: map[[2]string]uint64{}}
	s.Observe(h.served)
	s.ObserveActions(func(action string, ok bool) {
		outcome := "ok"
		if !ok {
			outcome = "error"
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if key := [2]string{action, outcome}; len(h.actions) < maxSeries || h.actions[key] > 0 {
			h.actions[key]++
		}
	})
	return h
}

// maxSeries bounds what is told apart: operations are words of ours, whatever is asked.
const maxSeries = 500

func (h *Handler) served(r server.Served) {
	op := r.Operation
	if op == "" {
		op = r.Route
	}
	if op == "" {
		op = "other"
	}
	key := [2]string{op, strconv.Itoa(r.Status/100) + "xx"}
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.latency[key]
	if one == nil {
		if len(h.latency) >= maxSeries {
			return
		}
		one = &histogram{}
		h.latency[key] = one
	}
	s := r.Took.Seconds()
	one.count++
	one.sum += s
	for i, b := range buckets {
		if s <= b {
			one.counts[i]++
		}
	}
}

// Routes are the endpoints. What is counted is for those whose key is for everything.
func (h *Handler) Routes() []server.Route {
	return []server.Route{
		{Pattern: "GET /metrics", Handler: http.HandlerFunc(h.metrics)},
		{Pattern: "GET /healthz", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			server.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
		})},
		{Pattern: "GET /readyz", Public: true, Handler: http.HandlerFunc(h.ready)},
		{Pattern: "GET /version", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			server.WriteJSON(w, http.StatusOK, map[string]string{"version": version.Version})
		})},
		{Pattern: "GET /openapi.json", Public: true, Handler: http.HandlerFunc(openAPI)},
	}
}

// ready asks whether sandboxes can be had.
func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, err := h.server.Backend().List(ctx, sandbox.DefaultNamespace); err != nil {
		server.WriteJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "unavailable"}) // why is in the log
		return
	}
	server.WriteJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (h *Handler) metrics(w http.ResponseWriter, r *http.Request) {
	if err := server.CallerOf(r.Context()).Check(server.AllNamespaces); err != nil {
		server.WriteFailure(w, r, server.FailureOf(err))
		return
	}
	infos, err := h.server.Backend().List(r.Context(), "")
	if err != nil {
		server.WriteFailure(w, r, server.FailureOf(err))
		return
	}
	p := &page{}
	h.counted(p)
	h.sandboxes(p, infos)
	h.left(r.Context(), p)
	h.process(p)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(p.Bytes())
}

// page is what is told.
type page struct{ bytes.Buffer }

func (p *page) family(name, kind, help string) {
	fmt.Fprintf(p, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (p *page) sample(name string, value any, labels ...string) {
	p.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		fmt.Fprintf(p, `%s%s="%s"`, map[bool]string{true: "{", false: ","}[i == 0], labels[i], escaper.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		p.WriteByte('}')
	}
	fmt.Fprintf(p, " %v\n", value)
}

// counted tells of requests and actions.
func (h *Handler) counted(p *page) {
	h.mu.Lock()
	defer h.mu.Unlock()
	order := func(a, b [2]string) int { return strings.Compare(a[0]+"\x00"+a[1], b[0]+"\x00"+b[1]) }
	p.family("msb_request_duration_seconds", "histogram", "How long requests took, by operation and class of status.")
	for _, key := range slices.SortedFunc(maps.Keys(h.latency), order) {
		one := h.latency[key]
		labels := []string{"operation", key[0], "status", key[1]}
		for i, b := range buckets {
			p.sample("msb_request_duration_seconds_bucket", one.counts[i], append(slices.Clone(labels), "le", strconv.FormatFloat(b, 'g', -1, 64))...)
		}
		p.sample("msb_request_duration_seconds_bucket", one.count, append(slices.Clone(labels), "le", "+Inf")...)
		p.sample("msb_request_duration_seconds_sum", one.sum, labels...)
		p.sample("msb_request_duration_seconds_count", one.count, labels...)
	}
	p.family("msb_actions_total", "counter", "What was done to sandboxes, by action and outcome: start, create, stop, command, code and others.")
	for _, key := range slices.SortedFunc(maps.Keys(h.actions), order) {
		p.sample("msb_actions_total", h.actions[key], "action", key[0], "outcome", key[1])
	}
}

// leaks are what the last look at this machine has found, by area.
type leaks struct {
	sync.Mutex
	looked time.Time
	found  map[string]int
}

// lookEvery is how often this machine is looked through at most.
const lookEvery = time.Minute

// left tells of what sandboxes have left on this machine and nothing has removed yet.
func (h *Handler) left(ctx context.Context, p *page) {
	c, ok := h.server.Backend().(backend.Checker)
	if !ok {
		return
	}
	h.leaks.Lock()
	defer h.leaks.Unlock()
	if time.Since(h.leaks.looked) > lookEvery {
		findings, err := c.Check(ctx, false)
		if err != nil {
			return // no sample is better than one that is not true
		}
		h.leaks.looked, h.leaks.found = time.Now(), map[string]int{"runs": 0, "sandboxes": 0, "volumes": 0}
		for _, f := range findings {
			if _, ok := h.leaks.found[f.Area]; ok {
				h.leaks.found[f.Area]++
			}
		}
	}
	p.family("msb_leaks", "gauge", "What is on this machine, or in the records, and belongs to no sandbox or volume, as msb fsck finds it, at most a minute ago.")
	for _, area := range slices.Sorted(maps.Keys(h.leaks.found)) {
		p.sample("msb_leaks", h.leaks.found[area], "area", area)
	}
}

// sandboxes tells how many there are.
func (h *Handler) sandboxes(p *page, infos []sandbox.Info) {
	by := map[sandbox.Status]int{}
	for _, s := range []sandbox.Status{sandbox.Created, sandbox.Starting, sandbox.Running, sandbox.Draining, sandbox.Paused, sandbox.Stopped, sandbox.Crashed} {
		by[s] = 0
	}
	cpus, memory := 0, 0
	for _, i := range infos {
		by[i.Status]++
		if !i.Status.Terminal() {
			cpus += i.Effective().Resources.CPUs
			memory += i.Effective().Resources.MemoryMiB
		}
	}
	p.family("msb_sandboxes", "gauge", "Sandboxes, by status.")
	for _, s := range slices.Sorted(maps.Keys(by)) {
		p.sample("msb_sandboxes", by[s], "status", string(s))
	}
	p.family("msb_sandbox_cpus", "gauge", "CPUs of running sandboxes.")
	p.sample("msb_sandbox_cpus", cpus)
	p.family("msb_sandbox_memory_bytes", "gauge", "Memory limits of running sandboxes.")
	p.sample("msb_sandbox_memory_bytes", int64(memory)<<20)
}

// process tells of this process: what it holds for sandboxes must not grow.
func (h *Handler) process(p *page) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.family("msb_agent_connections", "gauge", "Connections to sandboxes' agents. More than there are running sandboxes is a leak.")
	p.sample("msb_agent_connections", h.server.Connections())
	done, failed := h.server.Pulls()
	p.family("msb_image_pulls_total", "counter", "Images that were pulled for requests, by outcome.")
	p.sample("msb_image_pulls_total", done, "outcome", "ok")
	p.sample("msb_image_pulls_total", failed, "outcome", "error")
	p.family("msb_starts_waiting", "gauge", "Starts that wait for their turn.")
	p.sample("msb_starts_waiting", h.server.Waiting())
	p.family("go_goroutines", "gauge", "Goroutines of the server.")
	p.sample("go_goroutines", runtime.NumGoroutine())
	p.family("go_memstats_heap_inuse_bytes", "gauge", "Memory of the server's heap.")
	p.sample("go_memstats_heap_inuse_bytes", m.HeapInuse)
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		p.family("process_open_fds", "gauge", "Open files of the server.")
		p.sample("process_open_fds", len(fds))
	}
	p.family("process_start_time_seconds", "gauge", "When the server started, as seconds since 1970.")
	p.sample("process_start_time_seconds", h.began.Unix())
	p.family("msb_build_info", "gauge", "The version of the server.")
	p.sample("msb_build_info", 1, "version", version.Version)
}
