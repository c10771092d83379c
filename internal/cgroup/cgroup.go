// Package cgroup gives a sandbox a control group where this machine lets us make one: version 1 hierarchies that we may
// write to, or a delegated part of a version 2 hierarchy. A [Group] is made, filled with processes, and removed; Remove
// may be called at any point, and twice. What cannot be had is not an error of the sandbox: the caller bounds it by other
// means and says so.
package cgroup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Prefix starts the name of every group of ours.
const Prefix = "msb-"

// homePrefix starts the names of the groups of one MSB_HOME: homes do not see each other's sandboxes, nor sweep their groups.
func homePrefix(home string) string {
	if real, err := filepath.EvalSymlinks(home); err == nil {
		home = real
	}
	h := sha256.Sum256([]byte(home))
	return Prefix + hex.EncodeToString(h[:4]) + "-"
}

// Name is the name of the group of the sandbox with that short id in home.
func Name(home, id string) string { return homePrefix(home) + id }

// cpuPeriod is the scheduling period of a CPU quota, in µs: the kernel's default.
const cpuPeriod = 100_000

// Limits of a group. A zero field is no limit.
type Limits struct {
	MemoryBytes uint64
	CPUs        int
	Processes   int
}

// Group is a control group: one directory in version 2, one per controller in version 1.
type Group struct {
	v2     string // directory, or ""
	memory string // version 1 directories, or ""
	cpu    string
	pids   string
	bounds bool // memory
	limits Limits
	holds  atomic.Bool // processes were added
	events events
}

// Holds reports whether there are processes in the group, for it to bound.
func (g *Group) Holds() bool { return g != nil && g.holds.Load() }

// Memory reports whether the group bounds memory.
func (g *Group) Memory() bool { return g != nil && g.bounds }

// CPU reports whether the group bounds CPU time.
func (g *Group) CPU() bool { return g != nil && (g.cpu != "" || g.v2 != "" && has(g.v2, "cpu.max")) }

// New makes a group by its [Name] with the memory and process limits set; the CPU quota comes with [Group.LimitCPU]. It
// returns nil without an error where none can be made.
func New(name string, l Limits) (*Group, error) {
	h, err := hierarchies()
	if err != nil {
		return nil, err
	}
	g := &Group{limits: l}
	for _, c := range []struct {
		controller string
		dir        *string
	}{{"memory", &g.memory}, {"cpu", &g.cpu}, {"pids", &g.pids}} {
		if parent := h.v1[c.controller]; parent != "" {
			if dir := filepath.Join(parent, name); makeGroup(dir) {
				*c.dir = dir
			}
		}
	}
	if g.memory == "" && g.cpu == "" {
		if parent := h.delegated(); parent != "" {
			if dir := filepath.Join(parent, name); makeGroup(dir) {
				g.v2 = dir
			}
		}
	}
	if g.memory == "" && g.cpu == "" && g.v2 == "" {
		g.Remove()
		return nil, nil
	}
	g.bounds = g.memory != "" || g.v2 != "" && has(g.v2, "memory.max")
	if err := g.set(); err != nil {
		g.Remove()
		return nil, err
	}
	return g, nil
}

func makeGroup(dir string) bool {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) { // of a sandbox that was killed; the run directory's lock says it is ours now
		if err = remove(dir); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	return err == nil
}

func (g *Group) set() error {
	if n := g.limits.MemoryBytes; n > 0 {
		if g.memory != "" {
			if err := write(g.memory, "memory.limit_in_bytes", n); err != nil {
				return err
			}
			// Without swap accounting the file is missing, and swap is not bounded.
			if has(g.memory, "memory.memsw.limit_in_bytes") {
				_ = write(g.memory, "memory.memsw.limit_in_bytes", n)
			}
		}
		if g.v2 != "" && has(g.v2, "memory.max") {
			if err := write(g.v2, "memory.max", n); err != nil {
				return err
			}
			_ = write(g.v2, "memory.swap.max", 0)
			_ = write(g.v2, "memory.oom.group", 1)
		}
	}
	if n := uint64(g.limits.Processes); n > 0 {
		for _, dir := range []string{g.pids, g.v2} {
			if dir != "" && has(dir, "pids.max") {
				if err := write(dir, "pids.max", n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Resize sets other limits. Memory that is in use already is refused by the kernel (EBUSY).
func (g *Group) Resize(l Limits) error {
	old := g.limits
	g.limits = l
	// With swap accounting the limit of both is never below that of memory alone: a larger one is set first.
	if g.memory != "" && l.MemoryBytes > old.MemoryBytes && has(g.memory, "memory.memsw.limit_in_bytes") {
		_ = write(g.memory, "memory.memsw.limit_in_bytes", l.MemoryBytes)
	}
	err := g.set()
	if err == nil {
		err = g.LimitCPU()
	}
	if err != nil {
		g.limits = old
	}
	return err
}

// LimitCPU sets the quota. It comes after the start of a sandbox, which it would slow down.
func (g *Group) LimitCPU() error {
	if g.limits.CPUs == 0 {
		return nil
	}
	quota := uint64(g.limits.CPUs) * cpuPeriod
	if g.cpu != "" {
		if err := write(g.cpu, "cpu.cfs_period_us", cpuPeriod); err != nil {
			return err
		}
		return write(g.cpu, "cpu.cfs_quota_us", quota)
	}
	if g.v2 != "" && has(g.v2, "cpu.max") {
		return writeString(g.v2, "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod))
	}
	return nil
}

// Add moves processes into the group. One that has ended meanwhile is passed over.
func (g *Group) Add(pids ...int) error {
	for _, dir := range g.dirs() {
		for _, pid := range pids {
			if err := writeString(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	g.holds.Store(true)
	return nil
}

// OOMKills is how often the kernel killed a process of the group for want of memory.
func (g *Group) OOMKills() int {
	switch {
	case g == nil:
		return 0
	case g.memory != "":
		return g.events.oomKills(filepath.Join(g.memory, "memory.oom_control"))
	case g.v2 != "":
		return g.events.oomKills(filepath.Join(g.v2, "memory.events"))
	}
	return 0
}

// Remove kills what is still in the group and removes it.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	g.events.close()
	var errs []error
	for _, dir := range g.dirs() {
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

func (g *Group) dirs() []string {
	var dirs []string
	for _, d := range []string{g.v2, g.memory, g.cpu, g.pids} {
		if d != "" {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// remove removes a group. A killed process leaves its group a moment after its parent saw it end.
func remove(dir string) error {
	const tries, pause = 1000, time.Millisecond
	for n := 0; ; n++ {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || n == tries:
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		time.Sleep(pause)
	}
}

// Sweep removes the groups of home for whose id alive is false. It ends no process: those of a killed runner end with it.
// It is cheap where there are none.
func Sweep(home string, alive func(id string) bool) error {
	var errs []error
	for _, dir := range Strays(home, alive) {
		// EBUSY: its last process is ending; the next sweep finds it empty.
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// Strays are the groups that Sweep would remove.
func Strays(home string, alive func(id string) bool) []string {
	h, err := hierarchies()
	if err != nil {
		return nil
	}
	prefix := homePrefix(home)
	parents := []string{h.delegated()}
	for _, dir := range h.v1 {
		parents = append(parents, dir)
	}
	var strays []string
	living := map[string]bool{} // asked about once; who is dead may live by the time of the next question
	for _, parent := range parents {
		if parent == "" {
			continue
		}
		names, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
		if err != nil {
			continue
		}
		for _, dir := range names {
			id := strings.TrimPrefix(filepath.Base(dir), prefix)
			if !living[id] {
				living[id] = alive(id)
			}
			if !living[id] {
				strays = append(strays, dir)
			}
		}
	}
	return strays
}

// hierarchy is where this process is in each mounted hierarchy.
type hierarchy struct {
	v1 map[string]string // controller → directory of this process
	v2 string            // mount point
	in string            // this process's path in it
}

func hierarchies() (hierarchy, error) {
	h := hierarchy{v1: map[string]string{}}
	self, err := os.ReadFile("/proc/self/cgroup")
	if errors.Is(err, os.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read this process's control groups: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return h, fmt.Errorf("read this process's mounts: %w", err)
	}
	return parseHierarchies(self, mounts), nil
}

// parseHierarchies joins /proc/self/cgroup with /proc/self/mountinfo (see cgroups(7) and proc(5)).
func parseHierarchies(self, mounts []byte) hierarchy {
	h := hierarchy{v1: map[string]string{}}
	type mount struct{ root, point string }
	points := map[string]mount{} // by controller; "" is version 2
	for line := range bytes.Lines(mounts) {
		pre, post, ok := strings.Cut(string(line), " - ")
		if !ok {
			continue
		}
		f, g := strings.Fields(pre), strings.Fields(post)
		if len(f) < 5 || len(g) < 3 {
			continue
		}
		m := mount{root: f[3], point: f[4]}
		switch g[0] {
		case "cgroup2":
			points[""] = m
		case "cgroup":
			for _, o := range strings.Split(g[2], ",") {
				points[o] = m
			}
		}
	}
	for line := range bytes.Lines(self) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			m, ok := points[c]
			if !ok {
				continue
			}
			if strings.HasPrefix(f[2], "/..") {
				continue // outside of our cgroup namespace
			}
			rel, ok := strings.CutPrefix(f[2], strings.TrimSuffix(m.root, "/"))
			if !ok {
				rel = "/" // the mount shows another part of the hierarchy than the one we are in
			}
			if c == "" {
				h.v2, h.in = m.point, rel
				continue
			}
			h.v1[c] = filepath.Join(m.point, rel)
		}
	}
	return h
}

// delegated finds the nearest ancestor of this process's version 2 group that hands the memory controller to its
// children and lets us make one.
func (h hierarchy) delegated() string {
	if h.v2 == "" {
		return ""
	}
	for path := h.in; ; path = filepath.Dir(path) {
		dir := filepath.Join(h.v2, path)
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err == nil && slices.Contains(strings.Fields(string(b)), "memory") && unix.Access(dir, unix.W_OK) == nil &&
			unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) == nil {
			return dir
		}
		if path == "/" || path == "." || path == "" {
			return ""
		}
	}
}

func has(dir, file string) bool { return unix.Access(filepath.Join(dir, file), unix.F_OK) == nil }

func write(dir, file string, n uint64) error {
	return writeString(dir, file, strconv.FormatUint(n, 10))
}

func writeString(dir, file, s string) error {
	path := filepath.Join(dir, file)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
