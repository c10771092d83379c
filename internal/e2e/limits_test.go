package e2e

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// fill touches so many MiB of memory and then says so.
const fill = `
import sys
keep = []
for i in range(int(sys.argv[1]) // 8): keep.append(b'x' * (8 << 20))
print("filled", flush=True)
sys.stdin.read()
`

// byWhom is what bounds a sandbox here: control groups for root, who can make them on this machine, else the runner.
func (w *world) byWhom() (memory, cpu string) {
	if w.user {
		return "watchdog", "affinity"
	}
	return "cgroup", "cgroup"
}

func TestConfinementIsTold(t *testing.T) {
	each(t, func(w *world) {
		w.background("told")
		info := w.inspect("told")
		memory, cpu := w.byWhom()
		c := info.Confinement
		if c.Memory != memory || c.CPU != cpu || c.Driver != "gvisor" || c.Network != "gateway" || (c.User == "userns") != w.user || info.Status != "Running" {
			w.t.Errorf("inspect says %+v; want memory by %s, CPUs by %s", info, memory, cpu)
		}
		if text := w.ok("inspect", "told"); !strings.Contains(text, "memory by "+memory+", CPUs by "+cpu) {
			w.t.Errorf("inspect says\n%s", text)
		}
	})
}

func TestOutOfMemory(t *testing.T) {
	each(t, func(w *world) {
		// The runner lives to tell it, whoever notices: msb run, whose sandbox it is, and msb exec, whose it is not.
		check := func(what string, r result, name string) {
			w.t.Helper()
			line := w.errorLine(r)
			if r.code != 137 || line != `sandbox "`+name+`" ended: it went over its memory limit of 128 MiB` || !strings.Contains(r.err, "→ give it more with: -m 256M") || r.out != "" {
				w.t.Errorf("%s: exit code %d, stdout %q, stderr %q", what, r.code, r.out, r.err)
			}
			if r.took > 10*time.Second {
				w.t.Errorf("%s: it took %v", what, r.took)
			}
			w.t.Logf("%s: ended after %v", what, r.took.Round(time.Millisecond))
		}
		check("run", w.run("run", "--name", "small", "-m", "128", "host", "--", "python3", "-c", fill, "600"), "small")
		w.background("tiny", "-m", "128")
		check("exec", w.run("exec", "tiny", "--", "python3", "-c", fill, "600"), "tiny")
		if i := w.inspect("tiny"); i.Status != "Stopped" || i.End == nil || i.End.Reason != sandbox.ReasonOOM {
			w.t.Errorf("what ended is recorded as %+v", i)
		}

		// Memory that no process has: files in a tmpfs that is larger than the limit.
		check("files", w.run("run", "--name", "files", "-m", "128", "--tmpfs", "/big:1G", "host", "--", "sh", "-c", "cat /dev/zero > /big/zero"), "files")

		// What fits stays.
		if r := w.run("run", "-m", "256", "host", "--", "python3", "-c", fill, "160"); r.code != 0 || r.out != "filled\n" || r.err != "" {
			w.t.Errorf("160 MiB of 256: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
		// So does what fits after what was there before has been given back.
		if r := w.run("run", "-m", "256", "host", "--", "sh", "-c", "for i in 1 2 3 4; do head -c 50000000 /dev/zero > /tmp/x; rm /tmp/x; done; echo ok"); r.out != "ok\n" || r.err != "" {
			w.t.Errorf("4 × 50 MB of 256 MiB, one after the other: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
		}
	})
}

// TestMemoryIsMeasured looks at how much memory the host has given to a sandbox that holds some: a limit that counts too
// little is none.
func TestMemoryIsMeasured(t *testing.T) {
	each(t, func(w *world) {
		cmd := w.msb("run", "--name", "held", "-m", "512", "host", "--", "python3", "-c", fill, "200")
		stdin, err := cmd.StdinPipe()
		w.must(err)
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			w.t.Fatal(err)
		}
		measured := false
		for _, dir := range cgroups(w.group("held")) {
			if _, err := os.Stat(filepath.Join(dir, "memory.stat")); err != nil {
				continue // a group of another hierarchy
			}
			measured = true
			// What is touched in the first 50 ms, before the sandbox is put into its group, is for the watchdog to count.
			if n := charged(dir) >> 20; n < 100 || n > 400 {
				w.t.Errorf("a guest that holds 200 MiB is charged %d MiB", n)
			} else {
				w.t.Logf("a guest that holds 200 MiB is charged %d MiB", n)
			}
		}
		if memory, _ := w.byWhom(); memory == "cgroup" && !measured {
			w.t.Error("no group holds the sandbox's memory")
		}
	})
}

// TestCPULimit keeps two CPUs busy in a guest that may have one.
func TestCPULimit(t *testing.T) {
	const period = 2 * time.Second
	each(t, func(w *world) {
		w.background("busy", "-c", "1")
		cmd := w.msb("exec", "busy", "--", "sh", "-c", "echo go; while :; do :; done & while :; do :; done")
		stdout, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		defer func() { _ = cmd.Process.Signal(unix.SIGTERM); _ = cmd.Wait() }()
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			w.t.Fatal(err)
		}
		runner := w.runner("busy")
		used := func() uint64 { return cpuTime(descendants(runner)) }
		before, begin := used(), time.Now()
		time.Sleep(period)
		after, took := used(), time.Since(begin)
		share := float64(after-before) / 100 / took.Seconds()
		w.t.Logf("two busy loops on one CPU use %.2f CPU seconds per second", share)
		if share > 1.25 {
			w.t.Errorf("two busy loops on one CPU use %.2f CPU seconds per second", share)
		}
		if share < 0.02 { // other tests may have the CPUs
			w.t.Errorf("two busy loops get no more than %.2f of a CPU", share)
		}
		if _, cpu := w.byWhom(); cpu == "affinity" {
			for _, pid := range descendants(runner) {
				var set unix.CPUSet
				if unix.SchedGetaffinity(pid, &set) == nil && set.Count() != 1 {
					w.t.Errorf("%v may run on %d CPUs", argv(pid)[0], set.Count())
				}
			}
		}
	})
}

// TestRlimits finds the limits of a command where it asked for them, and only there.
func TestRlimits(t *testing.T) {
	each(t, func(w *world) {
		out := w.ok("run", "--rlimit", "nofile=123:456", "--rlimit", "fsize=1048576", "host", "--", "bash", "-c",
			"ulimit -Sn; ulimit -Hn; ulimit -f; exec 2>/dev/null; head -c 2000000 /dev/zero > /f; stat -c %s /f")
		if out != "123\n456\n1024\n1048576\n" {
			w.t.Errorf("stdout %q", out)
		}
	})
}

func TestMaxDuration(t *testing.T) {
	each(t, func(w *world) {
		r := w.run("run", "--name", "short", "--max-duration", "1s", "host", "--", "sleep", "60")
		if line := w.errorLine(r); r.code != 1 || line != `sandbox "short" ended: it ran for its maximum of 1s` || r.took > 5*time.Second {
			w.t.Errorf("exit code %d after %v, stderr %q", r.code, r.took, r.err)
		}
		if i := w.inspect("short"); i.Status != "Stopped" || i.End == nil || i.End.Reason != sandbox.ReasonMaxDuration {
			w.t.Errorf("it is recorded as %+v", i)
		}
		w.background("gone", "--max-duration", "1s")
		unnamed := strings.TrimSpace(w.ok("run", "-d", "-q", "--max-duration", "1s", "host"))
		if !until(5*time.Second, func() bool { return w.inspect("gone").Status == "Stopped" && w.run("inspect", unnamed).code == 1 }) {
			w.t.Errorf("sandboxes in the background outlive their maximum:\n%s", w.run("ls").out)
		}
	})
}
