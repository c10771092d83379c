package runner

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// overhead is what the sandbox's kernel and its helpers may take beyond the guest's memory, in bytes.
const overhead = 64 << 20

// limits holds a sandbox to its memory and CPUs, by a control group where one can be had.
type limits struct {
	memory atomic.Uint64 // bytes, overhead included
	cpus   int
	// placement says which of the host's CPUs they are (sandbox.Resources.CPUPlacement); "" leaves that to the host where a
	// control group bounds them.
	placement string
	pinned    bool // to fewer CPUs than there are
	resizing  sync.Mutex

	mu    sync.Mutex
	group *cgroup.Group // nil if there is none
}

func (l *limits) getGroup() *cgroup.Group {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.group
}

func (l *limits) setGroup(g *cgroup.Group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.group = g
}

// processes is how many host processes a sandbox may have in a control group: more than any reasonable guest's, fewer than
// a machine's.
const processes = 4096

func newLimits(group string, memory uint64, cpus int, placement string, l *slog.Logger) *limits {
	lim := &limits{cpus: cpus, placement: placement}
	lim.memory.Store(memory + overhead)
	g, err := cgroup.New(group, cgroup.Limits{MemoryBytes: memory + overhead, CPUs: cpus, Processes: processes})
	if err != nil {
		l.Warn("no control group: the limits hold by watchdog and affinity", "err", err)
		g = nil
	}
	lim.group = g
	return lim
}

// bound sets the limits on the processes of a sandbox that has started, and so on all that they start. Its error says why
// they are not set by a control group; they are then by other means.
func (l *limits) bound(id string, inst driver.Instance) error {
	p, ok := inst.(driver.Processes)
	if !ok {
		return nil
	}
	var failed error
	if g := l.getGroup(); g != nil {
		failed = l.join(g, p)
		if failed == nil && g.CPU() {
			failed = g.LimitCPU()
		}
		if failed == nil && g.CPU() && l.placement == "" {
			return nil
		}
		if failed != nil {
			l.setGroup(nil)
			_ = g.Remove()
		}
	}
	return errors.Join(failed, l.pin(id, p.PIDs))
}

// resizeRoom is how much more than it uses a sandbox must be left, in bytes.
const resizeRoom = 16 << 20

// resize sets other limits on a sandbox that runs. Kind: InvalidArgument for memory that is in use.
func (l *limits) resize(id string, inst driver.Instance, memory uint64, cpus int) error {
	l.resizing.Lock()
	defer l.resizing.Unlock()
	memory += overhead
	if m, ok := inst.(driver.Meter); ok && memory < l.memory.Load() {
		used, err := m.Memory()
		if err != nil {
			return fmt.Errorf("measure the sandbox's memory: %w", err)
		}
		if used+resizeRoom > memory {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("the sandbox uses %d MiB", (max(used, overhead)-overhead)>>20), Hint: "end what uses it, or restart the sandbox with --restart"}
		}
	}
	g := l.getGroup()
	if g != nil {
		if err := g.Resize(cgroup.Limits{MemoryBytes: memory, CPUs: cpus, Processes: processes}); err != nil {
			return fmt.Errorf("set the limits of the control group: %w", err)
		}
	}
	l.memory.Store(memory)
	l.cpus = cpus
	if p, ok := inst.(driver.Processes); ok && (!g.CPU() || l.placement != "") {
		return l.pin(id, p.PIDs)
	}
	return nil
}

// join moves the processes into the group. One that starts meanwhile is in its parent's: look until there is no new one.
func (l *limits) join(g *cgroup.Group, p driver.Processes) error {
	seen := map[int]bool{}
	for {
		var add []int
		for _, pid := range p.PIDs() {
			if !seen[pid] {
				seen[pid] = true
				add = append(add, pid)
			}
		}
		if len(add) == 0 {
			return nil
		}
		if err := g.Add(add...); err != nil {
			return err
		}
	}
}

// pin bounds the processes to as many CPUs as were asked for, by the placement and the sandbox's id. Threads inherit it from the
// thread that starts them: look until there is no new one.
func (l *limits) pin(id string, pids func() []int) error {
	var have, want unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil {
		return fmt.Errorf("read the CPUs of this process: %w", err)
	}
	var all []int
	for cpu := 0; len(all) < have.Count(); cpu++ {
		if have.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	cpus := l.cpus
	if cpus == 0 || cpus >= len(all) {
		if !l.pinned {
			return nil
		}
		cpus = len(all)
	}
	l.pinned = true
	h := fnv.New32a()
	h.Write([]byte(id))
	for _, cpu := range place(topology(topologyDir, all), cpus, l.placement, h.Sum32()) {
		want.Set(cpu)
	}
	seen := map[int]bool{}
	for found := true; found; {
		found = false
		for _, pid := range pids() {
			tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
			if err != nil {
				continue // it ended
			}
			for _, t := range tasks {
				tid, err := strconv.Atoi(t.Name())
				if err != nil || seen[tid] {
					continue
				}
				seen[tid], found = true, true
				if err := unix.SchedSetaffinity(tid, &want); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("bound the sandbox to %d CPUs: %w", l.cpus, err)
				}
			}
		}
	}
	return nil
}

// now is how much memory, in bytes, and how many CPUs the guest may have.
func (l *limits) now() (memory uint64, cpus int) {
	l.resizing.Lock()
	defer l.resizing.Unlock()
	return l.memory.Load() - overhead, l.cpus
}

func (l *limits) memoryBy() string {
	if l.getGroup().Memory() {
		return "cgroup"
	}
	return "watchdog"
}

func (l *limits) cpuBy() string {
	if l.getGroup().CPU() {
		return "cgroup"
	}
	return "affinity"
}

// oom reports whether the kernel killed a process for want of memory within the group.
func (l *limits) oom() bool { return l.getGroup().OOMKills() > 0 }
