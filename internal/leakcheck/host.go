package leakcheck

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// mounts adds the mounts of the test's mount namespace at, or of something, below a home. With Alone, all.
func (v *view) mounts() {
	for _, l := range mountinfo() {
		if f := strings.Fields(l); len(f) > 4 && (v.alone || v.mentions(l)) {
			v.add("mount "+f[0]+" "+f[4], "mount "+l)
		}
	}
}

// mountinfo returns the lines of the main thread's mounts: a test's goroutine may be on a thread with mounts of its own.
func mountinfo() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// groups adds the cgroups with one of our names, in every hierarchy that is mounted, unless only processes of others are in them.
func (v *view) groups(ours map[int]bool) {
	for _, l := range mountinfo() {
		head, tail, ok := strings.Cut(l, " - ")
		f := strings.Fields(head)
		if !ok || len(f) < 5 || !strings.HasPrefix(tail, "cgroup") {
			continue
		}
		_ = filepath.WalkDir(f[4], func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || !slices.ContainsFunc(v.cgroups, func(prefix string) bool {
				return strings.HasPrefix(d.Name(), prefix)
			}) {
				return nil
			}
			members := cgroupMembers(p)
			mine := func(pid int) bool { return ours[pid] || pid == os.Getpid() }
			if v.first() || len(members) == 0 || slices.ContainsFunc(members, mine) {
				v.add("cgroup "+p, fmt.Sprintf("cgroup %s with processes %v", p, members))
			}
			return fs.SkipDir
		})
	}
}

// cgroupMembers returns the processes in a cgroup and those below.
func cgroupMembers(dir string) []int {
	var members []int
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil
		}
		data, _ := os.ReadFile(p)
		for _, s := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(s); err == nil {
				members = append(members, pid)
			}
		}
		return nil
	})
	return members
}

// sockets adds the unix sockets that are bound below a home, whether or not their files are still there.
func (v *view) sockets() {
	data, _ := os.ReadFile("/proc/self/net/unix")
	for l := range strings.SplitSeq(string(data), "\n") {
		if f := strings.Fields(l); len(f) > 7 && v.mentions(l) {
			v.add("socket "+f[6], "unix socket "+strings.Join(f[7:], " "))
		}
	}
}

// interfaces adds the TUN and TAP devices of the test's network namespace. With Alone, all interfaces.
func (v *view) interfaces() {
	all, _ := net.Interfaces()
	for _, i := range all {
		_, err := os.Stat("/sys/class/net/" + i.Name + "/tun_flags")
		if err == nil || v.alone {
			v.add(fmt.Sprintf("interface %d %s", i.Index, i.Name), "network interface "+i.Name)
		}
	}
}

// files adds the files below each home that are not to be kept. Of a new directory it does not tell what is in it.
func (v *view) files() {
	for _, h := range v.homes {
		_ = filepath.WalkDir(h.dir, func(p string, d fs.DirEntry, err error) error {
			rel, relErr := filepath.Rel(h.dir, p)
			if err != nil || relErr != nil || rel == "." {
				return nil
			}
			switch id := "file " + p; h.fate(rel) {
			case keep:
				if d.IsDir() {
					return fs.SkipDir
				}
			case leak:
				v.add(id, fmt.Sprintf("file %s (%v)", p, d.Type()))
				if d.IsDir() && !v.first() && !v.old(id) {
					return fs.SkipDir
				}
			}
			return nil
		})
	}
}

// open adds the open files of the test.
func (v *view) open() {
	for _, link := range links("/proc/self/fd") {
		// The file that listed the directory is closed by now, and not found.
		if target, err := os.Readlink(link); err == nil {
			fd := filepath.Base(link)
			v.add("fd "+fd+" "+target, "open file "+fd+" of the test: "+target)
		}
	}
}

// fate says what may become of a file below a home.
type fate int

const (
	leak  fate = iota // it must vanish
	leads             // it leads to something that is kept
	keep
)

// fate says whether a path below the home may be left.
func (h home) fate(rel string) fate {
	elements := strings.Split(rel, "/")
	result := leak
	for _, pattern := range h.keep {
		parts := strings.Split(path.Clean(pattern), "/")
		n := min(len(parts), len(elements))
		match := true
		for i := range n {
			ok, _ := path.Match(parts[i], elements[i])
			match = match && ok
		}
		switch {
		case match && len(elements) >= len(parts):
			return keep
		case match:
			result = leads
		}
	}
	return result
}
