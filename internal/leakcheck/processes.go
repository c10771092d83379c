package leakcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// process is what /proc says of one.
type process struct {
	pid, parent int
	state       string
	start       string // in ticks since boot: with pid, it never comes again
	command     string
}

func (p process) id() string { return fmt.Sprintf("process %d %s", p.pid, p.start) }

// processes adds every process that has to do with the test, and returns their numbers.
// A zombie counts when it is the test's own child: somebody did not wait for it.
func (v *view) processes() map[int]bool {
	all := list()
	self := os.Getpid()
	ours := map[int]bool{}
	for _, p := range all {
		if p.pid == self || v.old(p.id()) {
			continue
		}
		why := v.relation(p, all, self)
		if why == "" {
			continue
		}
		ours[p.pid] = true
		v.add(p.id(), fmt.Sprintf("process %d (%s, state %s, parent %d%s): %s", p.pid, why, p.state, p.parent, otherNamespaces(p.pid), p.command))
	}
	return ours
}

// relation says what p has to do with the test, or "".
func (c *check) relation(p process, all map[int]process, self int) string {
	for q, ok := p, true; ok && q.pid > 1; q, ok = all[q.parent] {
		if q.parent == self {
			if q.pid == p.pid {
				return "child"
			}
			return "descendant"
		}
	}
	if p.state == "Z" {
		return "" // its parent's business
	}
	dir := fmt.Sprintf("/proc/%d/", p.pid)
	if len(c.homes) > 0 {
		if c.mentions(p.command) {
			return "names MSB_HOME"
		}
		environ, err := os.ReadFile(dir + "environ")
		if err == nil && c.mentions(string(environ)) {
			return "has MSB_HOME in its environment"
		}
		for _, link := range append([]string{dir + "cwd", dir + "exe"}, links(dir+"fd")...) {
			if target, err := os.Readlink(link); err == nil && c.mentions(target) {
				return "has " + target + " open"
			}
		}
		if err == nil {
			return "" // could be looked into, and has to do with some other home
		}
	}
	exe, err := os.Readlink(dir + "exe")
	if err != nil {
		return ""
	}
	exe = strings.TrimSuffix(exe, " (deleted)")
	if len(c.binaries) == 0 {
		if own, err := os.Executable(); err == nil && exe == own {
			return "runs the test's binary"
		}
	}
	if slices.Contains(c.binaries, filepath.Dir(exe)) {
		return "runs " + exe
	}
	return ""
}

// list reads /proc.
func list() map[int]process {
	all := map[int]process{}
	names, _ := readNames("/proc")
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything, so count from the last one.
		head, rest, _ := cutLast(string(stat), ")")
		f := strings.Fields(rest)
		if len(f) < 20 {
			continue
		}
		p := process{pid: pid, state: f[0], start: f[19]}
		p.parent, _ = strconv.Atoi(f[1])
		cmdline, _ := os.ReadFile("/proc/" + name + "/cmdline")
		p.command = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		if p.command == "" {
			_, comm, _ := strings.Cut(head, "(")
			p.command = "[" + comm + "]"
		}
		all[pid] = p
	}
	return all
}

// kinds of namespaces that can be leaked.
var kinds = []string{"mnt", "net", "user", "pid", "ipc", "uts", "cgroup"}

// otherNamespaces names the namespaces of a process that are not the test's.
func otherNamespaces(pid int) string {
	var own []string
	for _, kind := range kinds {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		mine, _ := os.Readlink("/proc/self/ns/" + kind)
		if err == nil && theirs != mine {
			own = append(own, theirs)
		}
	}
	if own == nil {
		return ""
	}
	return ", own " + strings.Join(own, " ")
}

// namespaces adds the namespaces that threads of the test are in. Those of processes are told with the process, those that a
// mount or an open file keeps with these. With Alone, those of every process that can be looked into.
func (v *view) namespaces() {
	for _, task := range links("/proc/self/task") {
		for _, kind := range kinds {
			if ns, err := os.Readlink(task + "/ns/" + kind); err == nil {
				v.add("namespace "+ns, fmt.Sprintf("namespace %s of thread %s of the test", ns, filepath.Base(task)))
			}
		}
	}
	if !v.alone {
		return
	}
	for pid, p := range list() {
		for _, kind := range kinds {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err == nil {
				v.add("namespace "+ns, fmt.Sprintf("namespace %s of process %d: %s", ns, pid, p.command))
			}
		}
	}
}

// links returns the paths of what is in dir.
func links(dir string) []string {
	names, _ := readNames(dir)
	for i, n := range names {
		names[i] = dir + "/" + n
	}
	return names
}

// readNames lists dir with a file that is closed again when it returns.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
