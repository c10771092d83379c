package gvisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// gauge is what is remembered between two looks at what the sandbox uses. Guest code runs in children of the sentry and
// theirs. To list them takes a read for each thread, so that is done only when the sentry has run since the last time: they
// come and go by its doing alone.
type gauge struct {
	began    bool
	sentry   uint64 // ns of CPU when its children were listed
	children []int
	gone     uint64 // ns of CPU of children that ended
	most     uint64 // ns: no look says less than one before
}

// quiet is how much CPU time, in ns, a sentry with nothing to do may take between two looks.
const quiet = 2_000_000

// Usage implements driver.Gauge.
func (i *instance) Usage() (driver.Usage, error) {
	var u driver.Usage
	i.mu.Lock()
	defer i.mu.Unlock() // nobody is waited for meanwhile: the numbers stay theirs
	if i.ended {
		return u, errors.New("the sandbox has ended")
	}
	g := &i.gauge
	sentry, err := cpuTime(i.sentry)
	if err != nil {
		return u, err
	}
	if !g.began || sentry-g.sentry > quiet {
		g.began, g.sentry, g.children = true, sentry, children(i.sentry)
		g.gone = endedChildren(i.sentry)
		for n := 0; n < len(g.children); n++ { // each address space is a process with children of its own
			g.children = append(g.children, children(g.children[n])...)
			g.gone += endedChildren(g.children[n])
		}
	}
	u.CPU = sentry + g.gone
	for _, pid := range g.children {
		if n, err := cpuTime(pid); err == nil { // else it ended since
			u.CPU += n
		}
	}
	if i.gofer != 0 {
		if n, err := cpuTime(i.gofer); err == nil {
			u.CPU += n
		}
	}
	u.CPU = max(u.CPU, g.most)
	g.most = u.CPU
	if i.memfile != nil {
		if u.Guest, err = allocated(i.memfile); err != nil {
			return u, fmt.Errorf("read the size of the guest's memory: %w", err)
		}
	}
	if u.Resident, err = i.privateMemory(); err != nil {
		return u, err
	}
	u.Resident += u.Guest
	u.Read, u.Written = i.diskIO() // the gofer counts for itself
	return u, nil
}

// cpuTime is the CPU time of a process and all its threads, ended ones included, in ns: one system call, for any process
// (clock_getcpuclockid(3)).
func cpuTime(pid int) (uint64, error) {
	const sched = 2 // CPUCLOCK_SCHED
	ns, err := clock(int32(^pid)<<3 | sched)
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return ns, nil
}

// clockTick is USER_HZ, the unit of times in /proc, in ns: 100 on every Linux that Go runs on.
const clockTick = 10_000_000

// endedChildren is the CPU time of the children that a process has waited for, in ns; 0 if it has ended itself.
func endedChildren(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// Fields are counted from behind the command, which may hold spaces and parentheses.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 15 {
		return 0
	}
	user, _ := strconv.ParseUint(f[13], 10, 64) // cutime
	system, _ := strconv.ParseUint(f[14], 10, 64)
	return (user + system) * clockTick
}

// diskIO is what the sentry had disks move, in bytes: zeroes where that may not be read (proc(5), PTRACE_MODE_READ).
func (i *instance) diskIO() (read, written uint64) {
	i.io.mu.Lock()
	defer i.io.mu.Unlock()
	b, err := i.io.readLocked(i.sentry, "io")
	if err != nil {
		return 0, 0
	}
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		n, err := strconv.ParseUint(string(value), 10, 64)
		switch {
		case err != nil:
		case string(key) == "read_bytes":
			read = n
		case string(key) == "write_bytes":
			written = n
		}
	}
	return read, written
}
