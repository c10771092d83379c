package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
		if rel, _ := filepath.Rel(w.home, p); err == nil && !d.IsDir() && (strings.HasPrefix(rel, "bin/") || strings.HasPrefix(rel, "images/")) {
			all["file "+p] = fmt.Sprintf("%v %d bytes", info.Mode(), info.Size()) // whose time is that of its last use
		} else if err == nil && !d.IsDir() {
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

// same fails the test when the footprint is not what it was before.
func (w *world) same(before map[string]string) {
	w.t.Helper()
	for what, how := range w.footprint() {
		if before[what] != how {
			w.t.Errorf("%s %s; before it was %q", what, how, before[what])
		}
		delete(before, what)
	}
	for what := range maps.Keys(before) {
		w.t.Errorf("%s has gone", what)
	}
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
		w.same(before)
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

// grow adds a file of random bytes to those of a sandbox, changes another, and notes what all must be; check compares.
const (
	grow = `set -e; mkdir -p /data; cd /data; n=$(ls | wc -l); mkdir -p d$n; head -c $((n * 4099 + 17)) /dev/urandom >d$n/f; chown $((n + 1)):$((n + 2)) d$n/f
		chmod $((n % 8))44 d$n/f; echo $n >>log; find . -type f ! -name 'sums*' ! -name 'list*' -exec sha256sum {} + >sums.new; mv sums.new sums
		find . ! -name 'list*' -printf '%p %m %U:%G %s %l\n' | sort >list.new; mv list.new list; sync`
	check = `cd /data && sha256sum -c --quiet sums && find . ! -name 'list*' -printf '%p %m %U:%G %s %l\n' | sort | cmp - list && wc -l <log`
)

// TestSoakRestarts stops a sandbox and starts it, in every way in which one can end, and finds all its files each time.
func TestSoakRestarts(t *testing.T) {
	n := soak(5, 100)
	each(t, func(w *world) {
		w.guest("true")
		w.ok("create", "-q", "--name", "other", "host")
		w.ok("rm", "-f", "-q", "other")
		before := w.footprint()
		w.background("long")
		var times []time.Duration
		for i := range n {
			w.ok("exec", "long", "--", "sh", "-c", grow)
			switch i % 4 {
			case 0:
				w.ok("stop", "-q", "long")
			case 1:
				w.ok("stop", "-f", "-q", "long")
			case 2:
				runner := w.runner("long")
				sentry := descendant(runner, sentryName)
				w.must(unix.Kill(runner, unix.SIGKILL))
				_ = unix.Kill(sentry, unix.SIGKILL) // it may have gone with the runner
				w.released("long")
			case 3:
				w.ok("restart", "-q", "long")
			}
			begin := time.Now()
			w.ok("start", "-q", "long")
			times = append(times, time.Since(begin))
			if out := w.ok("exec", "long", "--", "sh", "-c", check); out != itoa(i+1)+"\n" {
				w.t.Fatalf("after end %d: %q", i, out)
			}
		}
		w.t.Logf("%d ends and starts; the median start took %v", n, median(times).Round(time.Millisecond))
		if runs := w.rows(w.home)["run"]; len(runs) > 20 {
			w.t.Errorf("%d runs are remembered", len(runs))
		}
		w.ok("rm", "-f", "-q", "long")
		w.same(before)
	})
}

// TestSoakCrowd makes sandboxes at once, kills the makers of some at random points, and finds a truthful list, and nothing once
// that is removed.
func TestSoakCrowd(t *testing.T) {
	n := soak(12, 50)
	each(t, func(w *world) {
		w.guest("true")
		w.ok("create", "-q", "--name", "other", "host")
		w.ok("rm", "-f", "-q", "other")
		before := w.footprint()
		cmds := make([]*exec.Cmd, n)
		for i := range cmds {
			cmds[i] = w.msb("create", "-q", "--name", "crowd"+itoa(i), "host")
		}
		kill := func(i int) bool { return i%5 < 2 } // 20 of 50
		var all sync.WaitGroup
		for i, cmd := range cmds {
			var said bytes.Buffer
			cmd.Stderr = &said
			w.must(cmd.Start())
			if kill(i) {
				after := time.Duration(rand.Int64N(int64(time.Duration(n) * 60 * time.Millisecond)))
				timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
				w.t.Cleanup(func() { timer.Stop() })
			}
			all.Go(func() {
				if err := cmd.Wait(); err != nil && !kill(i) {
					w.t.Errorf("crowd%d: %v: %s", i, err, said.String())
				}
			})
		}
		all.Wait()
		listed := strings.Fields(w.ok("ls", "-q"))
		running := 0
		for i, cmd := range cmds {
			name := "crowd" + itoa(i)
			if exitCode(cmd) == 0 {
				if out := w.ok("exec", "-q", name, "--", "hostname"); out != name+"\n" {
					w.t.Errorf("%s: stdout %q", name, out)
				}
				running++
			} else if slices.Contains(listed, name) { // killed after its first start was recorded, or while that is undone
				if r := w.run("exec", "-q", name, "--", "echo", "again"); r.out != "again\n" && !strings.Contains(r.err, "sandbox not found") {
					w.t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, r.code, r.out, r.err)
				}
			}
		}
		w.t.Logf("of %d creates at once %d were done and %d killed; %d were listed", n, running, n-running, len(listed))
		if left := strings.Fields(w.ok("ls", "-q")); len(left) > 0 {
			w.ok(append([]string{"rm", "-f", "-q"}, left...)...)
		}
		w.same(before)
	})
}
