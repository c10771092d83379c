package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup file system.
type hierarchy struct {
	at          string
	v2          bool
	controllers []string
}

// groups says who would hold a sandbox to its memory and CPUs: a control group, or a watchdog and CPU affinity.
func groups() []Check {
	held := map[string]string{}
	var versions []string
	for _, h := range hierarchies() {
		version := "v1"
		if h.v2 {
			version = "v2"
		}
		if !slices.Contains(versions, version) {
			versions = append(versions, version)
		}
		dir := filepath.Join(h.at, ownGroup(h))
		if unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) != nil {
			continue
		}
		for _, c := range []string{"memory", "cpu"} {
			if slices.Contains(h.controllers, c) {
				held[c] = version
			}
		}
	}
	mounted := "none is mounted"
	if len(versions) > 0 {
		slices.Sort(versions)
		mounted = "mounted: " + strings.Join(versions, " and ")
	}
	const remedy = "run msb as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes msb …"
	memory, cpu := Check{Name: "memory limit"}, Check{Name: "cpu limit"}
	if v := held["memory"]; v != "" {
		memory = ok(memory.Name, "by control group ("+v+")")
	} else {
		memory = warn(memory.Name, "by a watchdog of the runner, which looks often and kills: no memory control group can be written to ("+mounted+")", remedy)
	}
	if v := held["cpu"]; v != "" {
		cpu = ok(cpu.Name, "by control group ("+v+")")
	} else {
		cpu = warn(cpu.Name, "by affinity, in whole CPUs that others may use, too: no CPU control group can be written to ("+mounted+")", remedy)
	}
	return []Check{memory, cpu}
}

// hierarchies reads where control groups are mounted, and which controllers they have.
func hierarchies() (all []hierarchy) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		at, fs := strings.Fields(before), strings.Fields(after)
		if len(at) < 5 || len(fs) < 3 {
			continue
		}
		switch fs[0] {
		case "cgroup2":
			h := hierarchy{at: at[4], v2: true}
			b, _ := os.ReadFile(filepath.Join(h.at, ownGroup(h), "cgroup.controllers"))
			h.controllers = strings.Fields(string(b))
			all = append(all, h)
		case "cgroup":
			all = append(all, hierarchy{at: at[4], controllers: strings.Split(fs[2], ",")})
		}
	}
	return all
}

// ownGroup is this process's group within h.
func ownGroup(h hierarchy) string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if h.v2 && f[0] == "0" && f[1] == "" || !h.v2 && f[1] != "" && slices.ContainsFunc(strings.Split(f[1], ","), func(c string) bool { return slices.Contains(h.controllers, c) }) {
			return f[2]
		}
	}
	return "/"
}
