package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Bounds on what comes after a kill.
const (
	tidy  = 5 * time.Second  // until all is gone but files and empty control groups
	stuck = 60 * time.Second // after which msb counts as hung
)

// soak is a number of rounds: MSB_SOAK=1 makes it long, 0.1 a tenth of that, and more than 1 is the number itself.
func soak(short, long int) int {
	switch f, err := strconv.ParseFloat(os.Getenv("MSB_SOAK"), 64); {
	case err != nil || f <= 0:
		return short
	case f <= 1:
		return max(int(f*float64(long)), 1)
	default:
		return int(f)
	}
}

// victims are whom TestKillNine kills, by the names of processes below an msb; "" is msb itself.
var victims = map[string][]string{
	"msb": {""}, "runner": {runnerName}, "sentry": {sentryName}, "gofer": {goferName}, "msb and runner": {"", runnerName},
}

// find returns the processes to kill, none while not all of them are there.
func (k *killer) find(msb int) (pids []int) {
	for _, name := range victims[k.victim] {
		pid := msb
		if name != "" {
			pid = descendant(msb, name)
		}
		if pid == 0 {
			return nil
		}
		pids = append(pids, pid)
	}
	return pids
}

// TestKillNine kills each process of a sandbox at random moments: while it starts, and while a command runs in it. Soon
// nothing that takes up the machine is left, and after the next msb no file and no control group.
func TestKillNine(t *testing.T) {
	const start = 150 * time.Millisecond
	n := soak(10, 100)
	each(t, func(w *world) {
		w.guest("true") // the images are there: what is killed is the start of a sandbox
		for v := range victims {
			w.t.Run(v, func(t *testing.T) {
				k := &killer{world: *w, victim: v}
				k.t = t
				for i := range n {
					// Spread over the start, at random within each part.
					k.round((time.Duration(i)*start+time.Duration(rand.Int64N(int64(start))))/time.Duration(n), false)
				}
				for range max(n/5, 2) {
					k.round(time.Duration(rand.Int64N(int64(100*time.Millisecond))), true)
				}
				t.Logf("all gone after %v at the median, %v at most; msb had ended after %v at the median, %v at most; it said: %s",
					median(k.gone), slices.Max(k.gone), median(k.told), slices.Max(k.told), k.words())
			})
		}
	})
}

// killer is one victim's rounds.
type killer struct {
	world
	victim string
	gone   []time.Duration // from the kill until all was gone
	told   []time.Duration // from the kill until msb had ended
	said   map[string]int
}

func (k *killer) words() string {
	var all []string
	for s, n := range k.said {
		all = append(all, fmt.Sprintf("%d × %s", n, s))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// round runs a sandbox and kills the victim a time after the start, or after the command in it runs.
func (k *killer) round(after time.Duration, running bool) {
	k.t.Helper()
	// With a name it is kept, and made anew every other time; without one it is ephemeral.
	name, args := "kill", []string{"run", "-q"}
	n := len(k.gone)
	named := n%3 != 0
	if named {
		args = append(args, "--name", name)
		if n%3 == 1 {
			args = append(args, "--replace")
		}
	}
	cmd := k.msb(append(args, "host", "--", "sh", "-c", "echo running; exec sleep 60")...)
	out, err := os.Create(filepath.Join(k.top, "out"))
	k.must(err)
	defer out.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &stderr
	begin := time.Now()
	k.must(cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()

	if running && !until(stuck, func() bool { st, err := out.Stat(); return err == nil && st.Size() > 0 }) {
		k.t.Fatalf("the command does not run: %s", stderr.String())
	}
	if running {
		begin = time.Now()
	}
	time.Sleep(time.Until(begin.Add(after)))
	var pids []int
	if !until(stuck, func() bool { pids = k.find(cmd.Process.Pid); return len(pids) > 0 }) {
		k.t.Fatalf("there is nobody to kill: %s", stderr.String())
	}
	when := time.Since(begin)
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			<-done
			k.t.Fatalf("%v after the start (command running: %v) of %q: %v; msb ended by itself, with code %d and %q", when, running, cmd.Args, err, exitCode(cmd), stderr.String())
		}
	}
	killed := time.Now()

	// All that takes up the machine.
	var left []string
	if !until(tidy, func() bool { left = k.left(); return len(left) == 0 }) {
		k.t.Errorf("%v after the start (command running: %v): %v after the kill there is still\n  %s", when, running, tidy, strings.Join(left, "\n  "))
	}
	k.gone = append(k.gone, time.Since(killed))

	select {
	case <-done:
	case <-time.After(stuck):
		k.t.Errorf("%v after the start (command running: %v): msb hangs, having said %q", when, running, stderr.String())
		k.must(cmd.Process.Kill())
		<-done
	}
	k.told = append(k.told, time.Since(killed))
	if pids[0] != cmd.Process.Pid {
		k.sensible(name, cmd.ProcessState.ExitCode(), stderr.String(), when, running)
	}

	// The rest, by the next command.
	k.truthful(name, k.ok("ls", "-q"), running && named)
	files, err := os.ReadDir(filepath.Join(k.home, "run"))
	k.must(err)
	for _, f := range files {
		if f.Name() != ".lock" {
			k.t.Errorf("%v after the start (command running: %v): run/%s is left after the next msb", when, running, f.Name())
		}
	}
	if dirs := cgroups(k.groups()); len(dirs) > 0 {
		k.t.Errorf("%v after the start (command running: %v): control groups are left after the next msb: %v", when, running, dirs)
	}
}

// truthful checks what is recorded of the sandbox that was killed: that it is not running, and that there is one if it must be.
// What is in its directory belongs to the record.
func (k *killer) truthful(name, listed string, must bool) {
	k.t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(k.home, "sandboxes", "*", "*"))
	switch listed {
	case "":
		if must || len(dirs) > 0 {
			k.t.Errorf("a sandbox that was made is not listed; its directories: %v", dirs)
		}
	case name + "\n":
		if i := k.inspect(name); i.Status != "Stopped" && i.Status != "Crashed" && i.Status != "Created" || len(dirs) != 1 {
			k.t.Errorf("what was killed is recorded as %+v; directories: %v", i, dirs)
		}
	default:
		k.t.Errorf("ls says %q", listed)
	}
}

// generated are the names of sandboxes that were given none.
var generated = regexp.MustCompile(`msb-[0-9a-f]{8}`)

// sensible checks what msb says when what it talks to is killed.
func (k *killer) sensible(name string, code int, said string, when time.Duration, running bool) {
	k.t.Helper()
	first, _, _ := strings.Cut(said, "\n")
	// Without its file server the command may fail by itself before the sandbox ends.
	ownFailure := k.victim == "gofer" && (code == 126 || code == 127) && strings.HasPrefix(first, "sh: ")
	reason := strings.HasPrefix(first, "error: ") && !strings.HasSuffix(first, " ended") // and not just that it did
	if code < 1 || !reason && !ownFailure {
		k.t.Errorf("%v after the start (command running: %v): exit code %d, stderr %q", when, running, code, said)
	}
	if k.said == nil {
		k.said = map[string]int{}
	}
	k.said[fmt.Sprintf("%d %q", code, strings.ReplaceAll(generated.ReplaceAllString(strings.ReplaceAll(said, `"`+name+`"`, `"NAME"`), "NAME"), "\n", ""))]++
}

// left lists what there is of a sandbox on the machine: processes, mounts, listeners and charged memory.
func (k *killer) left() []string {
	all := ours()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, k.top) {
			all = append(all, "mount "+line)
		}
	}
	if len(all) > 0 {
		return all // what follows is dear to look for
	}
	// A process that is ending has no program any more, but still its files and its group.
	dirs, _ := filepath.Glob(filepath.Join(k.home, "run", "*"))
	for _, dir := range dirs {
		if held(filepath.Join(dir, "lock")) {
			all = append(all, "the lock of "+dir)
		}
		socket := filepath.Join(dir, "agent.sock")
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			all = append(all, "listener "+socket)
		}
	}
	const noise = 1 << 20 // what a CPU has counted and not told yet
	for _, dir := range cgroups(k.groups()) {
		if n := charged(dir); n > noise {
			all = append(all, fmt.Sprintf("%d bytes charged to %s", n, dir))
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); len(b) > 0 {
			all = append(all, fmt.Sprintf("processes %s in %s", strings.Fields(string(b)), dir))
		}
	}
	return all
}

// held reports whether a process has the lock of a run directory.
func held(lock string) bool {
	f, err := os.Open(lock)
	if err != nil {
		return false
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk) == nil && lk.Type != unix.F_UNLCK
}

// released waits until the processes of a sandbox that were killed have gone: until then it counts as running.
func (w *world) released(name string) {
	w.t.Helper()
	if !until(stuck, func() bool { return !held(filepath.Join(w.runDir(name), "lock")) }) {
		w.t.Fatalf("the lock of %s is held", name)
	}
}

// TestKillDetached kills the runner of a sandbox that nobody waits for, alone and with somebody in it.
func TestKillDetached(t *testing.T) {
	each(t, func(w *world) {
		for _, name := range []string{"alone", "used"} {
			w.background(name)
			begin := time.Now()
			kill := func() {
				begin = time.Now()
				w.must(unix.Kill(w.runner(name), unix.SIGKILL))
			}
			if name == "alone" {
				kill()
			} else {
				cmd := w.msb("exec", name, "--", "sh", "-c", "echo in; exec sleep 60")
				stdout, err := cmd.StdoutPipe()
				w.must(err)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				w.must(cmd.Start())
				_, err = bufio.NewReader(stdout).ReadString('\n')
				w.must(err)
				kill()
				_ = cmd.Wait()
				if line := w.errorLine(result{code: exitCode(cmd), err: stderr.String()}); exitCode(cmd) != 1 || !strings.Contains(line, `sandbox "used" ended`) {
					w.t.Errorf("whoever was in it: exit code %d, stderr %q", exitCode(cmd), stderr.String())
				}
			}
			k := killer{world: *w}
			var left []string
			if !until(tidy, func() bool { left = k.left(); return len(left) == 0 }) {
				w.t.Errorf("%v after the kill there is still\n  %s", tidy, strings.Join(left, "\n  "))
			}
			w.t.Logf("all gone after %v", time.Since(begin))
			if i := w.inspect(name); i.Status != "Crashed" || i.End == nil || i.End.Reason != sandbox.ReasonLost {
				w.t.Errorf("what was killed is recorded as %+v", i)
			}
			if out := w.ok("ls", "-q", "--running"); out != "" {
				w.t.Errorf("ls says %q", out)
			}
			if dirs := cgroups(w.group(name)); len(dirs) > 0 {
				w.t.Errorf("control groups are left: %v", dirs)
			}
			// It starts again.
			if out := w.ok("exec", "-q", name, "--", "echo", "again"); out != "again\n" {
				w.t.Errorf("stdout %q", out)
			}
			w.ok("start", "-q", name)
			w.ok("rm", "-f", "-q", name)
			w.refused("exec", w.run("exec", name, "--", "true"), 1, "sandbox not found")
		}
	})
}
