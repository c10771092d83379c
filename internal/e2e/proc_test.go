package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The processes of a sandbox, by the first word of their command line.
const (
	runnerName = "msb-runner"
	sentryName = "runsc-sandbox"
	goferName  = "runsc-gofer"
)

// status is a field of /proc/PID/status, "" when the process has gone.
func status(pid int, field string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// peakMemory is the most memory that a process had resident, in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	kb, err := strconv.Atoi(strings.TrimSuffix(status(pid, "VmHWM"), " kB"))
	if err != nil {
		t.Fatalf("the peak memory of process %d: %v", pid, err)
	}
	return kb / 1024
}

// argv is the command line of a process.
func argv(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
}

// children lists the living children of all threads of a process.
func children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, s := range strings.Fields(string(b)) {
			if p, err := strconv.Atoi(s); err == nil {
				pids = append(pids, p)
			}
		}
	}
	return pids
}

// descendants lists the children of a process, theirs, and so on.
func descendants(pid int) []int {
	pids := children(pid)
	for n := 0; n < len(pids); n++ {
		pids = append(pids, children(pids[n])...)
	}
	return pids
}

// descendant is the first descendant of pid with that name as the first word of its command line, 0 if there is none.
func descendant(pid int, name string) int {
	for _, p := range descendants(pid) {
		if argv(p)[0] == name {
			return p
		}
	}
	return 0
}

// pids lists all processes.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var all []int
	for _, n := range names {
		if p, err := strconv.Atoi(n); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// ours lists the processes that run our binaries, with their states and command lines.
func ours() (all []string) {
	for _, p := range pids() {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
		if err != nil || filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) != bin {
			continue
		}
		all = append(all, fmt.Sprintf("%d %s %s", p, status(p, "State"), strings.Join(argv(p), " ")))
	}
	return all
}

// cgroups lists the directories of the control groups whose names begin so.
func cgroups(prefix string) (dirs []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		head, tail, _ := strings.Cut(line, " - ")
		f := strings.Fields(head)
		if !strings.HasPrefix(tail, "cgroup") || len(f) < 5 {
			continue
		}
		_ = filepath.WalkDir(f[4], func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), prefix) {
				dirs = append(dirs, p)
			}
			return nil
		})
	}
	return dirs
}

// charged is the memory that belongs to no file and that a control group is charged with, in bytes.
func charged(dir string) (total uint64) {
	b, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 2 && slices.Contains([]string{"rss", "anon", "shmem"}, f[0]) {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			total += n
		}
	}
	return total
}

// cpuTime is the CPU time of processes and all that they started, in clock ticks of 10 ms.
func cpuTime(pids []int) (ticks uint64) {
	for _, p := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) < 15 {
			continue
		}
		for _, s := range f[11:15] {
			n, _ := strconv.ParseUint(s, 10, 64)
			ticks += n
		}
	}
	return ticks
}
