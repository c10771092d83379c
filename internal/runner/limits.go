package runner

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// overhead is what the sandbox's kernel and its helpers may take beyond the guest's memory, in bytes.
const overhead = 64 << 20

// limits holds a sandbox to its memory and CPUs, by a control group where one can be had.
type limits struct {
	group  *cgroup.Group
	memory uint64 // bytes, overhead included
	cpus   int
}

func newLimits(group string, memory uint64, cpus int) (*limits, error) {
	l := &limits{memory: memory + overhead, cpus: cpus}
	g, err := cgroup.New(group, cgroup.Limits{MemoryBytes: l.memory, CPUs: cpus})
	if err != nil {
		return nil, err
	}
	l.group = g
	return l, nil
}

// bound sets the limits on the processes of a sandbox that has started, and so on all that they start.
func (l *limits) bound(id string, inst driver.Instance) error {
	p, ok := inst.(driver.Processes)
	if !ok {
		return nil
	}
	if l.group != nil {
		if err := l.join(p); err != nil {
			return err
		}
	}
	if l.group.CPU() {
		return l.group.LimitCPU()
	}
	return l.pin(id, p.PIDs)
}

// join moves the processes into the group. One that starts meanwhile is in its parent's: look until there is no new one.
func (l *limits) join(p driver.Processes) error {
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
		if err := l.group.Add(add...); err != nil {
			return err
		}
	}
}

// pin bounds the processes to as many CPUs as were asked for, spread by the sandbox's id. Threads inherit it from the
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
	if l.cpus == 0 || l.cpus >= len(all) {
		return nil
	}
	h := fnv.New32a()
	h.Write([]byte(id))
	first := int(h.Sum32() % uint32(len(all)))
	for n := range l.cpus {
		want.Set(all[(first+n)%len(all)])
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

func (l *limits) memoryBy() string {
	if l.group.Memory() {
		return "cgroup"
	}
	return "watchdog"
}

func (l *limits) cpuBy() string {
	if l.group.CPU() {
		return "cgroup"
	}
	return "affinity"
}

// The watchdog looks again by the time in which a guest could fill what is left, within these bounds.
const (
	fillRate      = 4 << 30 // bytes per second that a guest can touch at most
	watchInterval = 500 * time.Millisecond
	watchMinimum  = 2 * time.Millisecond
)

// watch calls over once if the sandbox takes more memory than it may, and returns then or when done is closed.
func (l *limits) watch(m driver.Meter, done <-chan struct{}, over func(used uint64)) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
		}
		used, err := m.Memory()
		if err != nil {
			used = 0 // it is ending
		}
		if used > l.memory || l.group != nil && l.group.OOMKills() > 0 {
			over(used)
			return
		}
		left := time.Duration(float64(l.memory-used) / fillRate * float64(time.Second))
		t.Reset(min(max(left, watchMinimum), watchInterval))
	}
}

// oom reports whether the kernel killed a process for want of memory within the group.
func (l *limits) oom() bool { return l.group != nil && l.group.OOMKills() > 0 }
