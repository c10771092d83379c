package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The size of the crowd, how long it is watched while it does nothing, and how many creates are timed.
const (
	crowd  = 100
	idle   = 60 * time.Second
	probes = 15
)

// density makes many idle sandboxes that are kept, of the image host, and says what each of them takes: memory of its processes by
// their roles, CPU time, and how much longer one more takes to be made.
func density(o options) error {
	msb, err := filepath.Abs(o.msb)
	if err != nil {
		return err
	}
	home := filepath.Join(o.work, "home")
	command := func(args ...string) error {
		cmd := exec.Command(msb, args...)
		cmd.Env = append(os.Environ(), "MSB_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("msb %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	name := func(i int) string { return fmt.Sprintf("idle%d", i) }
	defer func() {
		for i := range crowd {
			_ = command("rm", "-f", "-q", name(i))
		}
		_ = command("rm", "-f", "-q", "probe")
	}()
	// probe returns the median time of a create.
	probe := func() (time.Duration, error) {
		var took []time.Duration
		for range probes {
			began := time.Now()
			if err := command("create", "-q", "--name", "probe", "host"); err != nil {
				return 0, err
			}
			took = append(took, time.Since(began))
			if err := command("rm", "-f", "-q", "probe"); err != nil {
				return 0, err
			}
		}
		slices.Sort(took)
		return took[len(took)/2], nil
	}
	if _, err := probe(); err != nil { // the image is made, and what is read is in memory
		return err
	}
	before, err := probe()
	if err != nil {
		return err
	}
	for i := range crowd {
		if err := command("create", "-q", "--name", name(i), "host"); err != nil {
			return err
		}
	}
	full, err := probe()
	if err != nil {
		return err
	}
	tasks, err := tasksOf(home)
	if err != nil {
		return err
	}
	from, began := cpuTimes(tasks), time.Now()
	time.Sleep(idle)
	to, took := cpuTimes(tasks), time.Since(began)
	use := memoryOf(tasks)
	fmt.Printf("%d idle sandboxes, MB of each:\n%-16s %8s %10s %14s %10s %12s\n", crowd, "", "PSS", "guest's", "beyond guest", "of it text", "private dirty")
	var total memory
	for _, role := range slices.Sorted(maps.Keys(use)) {
		use[role].print(role)
		total.add(*use[role])
	}
	total.print("all")
	fmt.Printf("idle CPU of all: %.2f %% of a core, by role:", percent(from, to, took, ""))
	for _, role := range slices.Sorted(maps.Keys(use)) {
		fmt.Printf(" %s %.2f", role, percent(from, to, took, role))
	}
	fmt.Println()
	for i := range crowd {
		if err := command("rm", "-f", "-q", name(i)); err != nil {
			return err
		}
	}
	after, err := probe()
	if err != nil {
		return err
	}
	alone := min(before, after) // whichever was less disturbed
	fmt.Printf("create: %v alone before, %v after, %v beside %d: %.2f x\n", before.Round(time.Millisecond/10), after.Round(time.Millisecond/10),
		full.Round(time.Millisecond/10), crowd, float64(full)/float64(alone))
	return nil
}

// task is one process of a sandbox.
type task struct {
	pid  int
	role string // runner, sentry, stub (a process of the guest as the host sees it), gofer
}

// tasksOf finds the processes of the sandboxes below home: runners by the files they have open, and what they started.
func tasksOf(home string) ([]task, error) {
	children, names := map[int][]int{}, map[int]string{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		names[pid], _, _ = strings.Cut(string(cmdline), "\x00")
	}
	var all []task
	var below func(pid int, parent string)
	below = func(pid int, parent string) {
		role := parent
		switch names[pid] {
		case "runsc-sandbox":
			role = "sentry"
		case "runsc-gofer":
			role = "gofer"
		default:
			if parent == "sentry" {
				role = "stub"
			}
		}
		all = append(all, task{pid, role})
		for _, c := range children[pid] {
			below(c, role)
		}
	}
	for pid, n := range names {
		if n != "msb-runner" {
			continue
		}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if slices.ContainsFunc(links, func(l string) bool {
			target, _ := os.Readlink(l)
			return strings.HasPrefix(target, home+"/")
		}) {
			below(pid, "runner")
		}
	}
	if len(all) < crowd {
		return nil, fmt.Errorf("of %d sandboxes only %d processes are found", crowd, len(all))
	}
	return all, nil
}

// cpuTimes are the ticks of 10 ms that each role has used.
func cpuTimes(tasks []task) map[string]int {
	used := map[string]int{}
	for _, t := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
		if f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); len(f) > 14 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			used[t.role] += user + system
		}
	}
	return used
}

// percent is the share of a core that a role, or all, used in between.
func percent(from, to map[string]int, took time.Duration, role string) float64 {
	ticks := 0
	for r, n := range to {
		if role == "" || r == role {
			ticks += n - from[r]
		}
	}
	return float64(ticks) / took.Seconds()
}

// memory is in kB, of all sandboxes.
type memory struct {
	pss, guest, text, dirty int
}

func (m *memory) add(o memory) {
	m.pss, m.guest, m.text, m.dirty = m.pss+o.pss, m.guest+o.guest, m.text+o.text, m.dirty+o.dirty
}

func (m memory) print(what string) {
	each := func(kb int) float64 { return float64(kb) / 1000 / crowd }
	fmt.Printf("%-16s %8.2f %10.2f %14.2f %10.2f %12.2f\n", what, each(m.pss), each(m.guest), each(m.pss-m.guest), each(m.text), each(m.dirty))
}

// memoryOf reads the maps of all processes. The guest's own memory is in a memfd.
func memoryOf(tasks []task) map[string]*memory {
	use := map[string]*memory{}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", t.pid))
		if err != nil {
			fmt.Println("left out:", err)
			continue
		}
		var m memory
		path, exec := "", false
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) >= 5 && strings.Contains(f[0], "-") {
				path, exec = strings.Join(f[5:], " "), strings.Contains(f[1], "x")
				continue
			}
			if len(f) < 2 {
				continue
			}
			kb, _ := strconv.Atoi(f[1])
			switch f[0] {
			case "Pss:":
				m.pss += kb
				if strings.Contains(path, "memfd:runsc-memory") {
					m.guest += kb
				}
				if exec {
					m.text += kb
				}
			case "Private_Dirty:":
				if !strings.Contains(path, "memfd:runsc-memory") {
					m.dirty += kb
				}
			}
		}
		if use[t.role] == nil {
			use[t.role] = &memory{}
		}
		use[t.role].add(m)
	}
	return use
}
