package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/metering"
)

// TestMetricsSeeAGuestThatComputes has a guest that makes no system calls: its CPU time is that of processes besides its kernel.
// Nobody who only looks is taken for work, and the guest's own is: it does not end as idle.
func TestMetricsSeeAGuestThatComputes(t *testing.T) {
	each(t, func(w *world) {
		w.ok("create", "-q", "--name", "busy", "--idle-timeout", "2s", "host")
		// The session ends; the program goes on by itself.
		w.ok("exec", "busy", "--", "sh", "-c", "setsid sh -c 'while :; do :; done' >/dev/null 2>&1 &")
		var m struct {
			State   string
			CPU     float64 `json:"cpu_percent"`
			CPUTime uint64  `json:"vcpu_time_ns"`
			Memory  uint64  `json:"memory_bytes"`
			Uptime  uint64  `json:"uptime_secs"`
		}
		if !until(patience, func() bool {
			w.must(json.Unmarshal([]byte(w.ok("metrics", "busy", "--format", "json")), &m))
			return m.CPUTime > 1e9 && m.Uptime > 4
		}) {
			t.Errorf("after all that time: %+v", m)
		}
		if m.State != "running" || m.Memory == 0 || m.CPU == 0 {
			t.Errorf("metrics: %+v", m)
		}
		if status := w.inspect("busy").Status; status != "Running" {
			t.Errorf("a sandbox that computes is %s", status)
		}
		w.ok("rm", "-qf", "busy")
	})
}

// TestMetricsOfASandboxAtRest looks at one in which nothing happens, whose sample is recorded seldom: whoever asks gets the last one
// all the same, and is told when its runner hangs.
func TestMetricsOfASandboxAtRest(t *testing.T) {
	each(t, func(w *world) {
		w.ok("create", "-q", "--name", "calm", "host")
		var m struct {
			State     string
			Timestamp time.Time
		}
		metrics := func() { w.must(json.Unmarshal([]byte(w.ok("metrics", "calm", "--format", "json")), &m)) }
		recorded := func() metering.Sample {
			s, err := metering.Read(filepath.Join(w.home, "sandboxes", "default", "calm", "logs"))
			w.must(err)
			return s
		}
		metrics()
		if !until(patience, func() bool { s := recorded(); return time.Since(s.At) > 4*s.Interval }) {
			t.Error("every sample is recorded")
		}
		before := recorded().At
		metrics()
		if m.State != "running" || !m.Timestamp.After(before) {
			t.Errorf("at rest, recorded last at %v: %+v", before, m)
		}
		runner := w.runner("calm")
		w.must(unix.Kill(runner, unix.SIGSTOP))
		if !until(patience, func() bool { metrics(); return m.State == "stalled" }) {
			t.Errorf("of a runner that hangs: %+v", m)
		}
		w.must(unix.Kill(runner, unix.SIGCONT))
		if !until(patience, func() bool { metrics(); return m.State == "running" }) {
			t.Errorf("after it hung: %+v", m)
		}
		w.ok("rm", "-qf", "calm")
	})
}
