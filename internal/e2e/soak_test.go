package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// footprint is what a home, its sandboxes and the machine hold of them: files with their sizes, processes, mounts and control
// groups.
func (w *world) footprint() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	w.must(filepath.WalkDir(w.home, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if filepath.Dir(p) == filepath.Join(w.home, "db") {
			return err // the records are compared below
		}
		if err == nil && !d.IsDir() {
			all["file "+p] = fmt.Sprintf("%v %d bytes %v", info.Mode(), info.Size(), info.ModTime())
		} else if err == nil {
			all["directory "+p] = info.Mode().String()
		}
		return err
	}))
	for table, rows := range w.rows(w.home) {
		for _, r := range rows {
			all["row "+table+": "+r] = "is there"
		}
	}
	for _, p := range ours() {
		all["process "+p] = "runs"
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	w.must(err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.top) {
			all["mount "+line] = "is there"
		}
	}
	for _, dir := range cgroups(w.groups()) {
		all["control group "+dir] = "is there"
	}
	return all
}

// TestSoak makes a sandbox, uses it and removes it, again and again, and finds everything as it was after the first time.
func TestSoak(t *testing.T) {
	n := soak(20, 1000)
	each(t, func(w *world) {
		cycle := func() {
			w.background("cycle")
			if out := w.ok("exec", "cycle", "--", "sh", "-c", "head -c 1000000 /dev/zero > /tmp/x; wc -c < /tmp/x"); out != "1000000\n" {
				w.t.Fatalf("stdout %q", out)
			}
			w.ok("rm", "-f", "-q", "cycle")
		}
		cycle()
		before, begin := w.footprint(), time.Now()
		var times []time.Duration
		for range n {
			start := time.Now()
			cycle()
			times = append(times, time.Since(start))
		}
		w.t.Logf("%d cycles in %v, the median one %v", n, time.Since(begin).Round(time.Millisecond), median(times).Round(time.Millisecond))
		for what, how := range w.footprint() {
			if before[what] != how {
				w.t.Errorf("%s %s; before it was %q", what, how, before[what])
			}
			delete(before, what)
		}
		for what := range maps.Keys(before) {
			w.t.Errorf("%s has gone", what)
		}
		// The last is as quick as the first, or something grew that is not seen here. A few do not tell: others use the machine.
		if third := n / 3; third >= 100 {
			first, last := median(times[:third]), median(times[n-third:])
			if last > 2*first {
				w.t.Errorf("a cycle took %v at first and %v at last", first, last)
			}
		}
	})
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}
