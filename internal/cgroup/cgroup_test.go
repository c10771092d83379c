package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestParseHierarchies(t *testing.T) {
	const hybridMounts = `30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 24 0:29 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
`
	for _, c := range []struct{ name, self, mounts, memory, cpu, pids, v2, in string }{
		{"hybrid", "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/docker/abc\n0::/x\n", hybridMounts,
			"/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/x"},
		{"v2", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", "29 1 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"", "", "", "/sys/fs/cgroup", "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope"},
		{"another part is mounted", "2:pids:/other\n", hybridMounts, "", "", "/sys/fs/cgroup/pids", "", ""},
		{"rubbish", "x\n1:\n::::\n", "nothing\n1 2 3 - cgroup\n", "", "", "", "", ""},
	} {
		h := parseHierarchies([]byte(c.self), []byte(c.mounts))
		if h.v1["memory"] != c.memory || h.v1["cpu"] != c.cpu || h.v1["pids"] != c.pids || h.v2 != c.v2 || h.in != c.in {
			t.Errorf("%s: %+v", c.name, h)
		}
	}
}

func FuzzParseHierarchies(f *testing.F) {
	f.Add([]byte("4:memory:/a/b\n0::/x\n"), []byte("31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"))
	f.Fuzz(func(t *testing.T, self, mounts []byte) {
		for _, dir := range parseHierarchies(self, mounts).v1 {
			if strings.Contains(dir, "..") {
				return // what the kernel says is believed; nothing here may crash on it
			}
		}
	})
}

func TestDelegated(t *testing.T) {
	top := t.TempDir()
	dirs := []string{"", "user", "user/app", "user/app/scope"}
	for i, d := range dirs {
		control := map[int]string{1: "cpu memory pids"}[i]
		for file, body := range map[string]string{"cgroup.subtree_control": control, "cgroup.procs": ""} {
			path := filepath.Join(top, d, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := (hierarchy{v2: top, in: "/user/app/scope"}).delegated(), filepath.Join(top, "user"); got != want {
		t.Errorf("delegated is %q, want %q", got, want)
	}
	if got := (hierarchy{v2: top, in: "/"}).delegated(); got != "" {
		t.Errorf("delegated is %q where nothing is", got)
	}
}

func TestNames(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	link := filepath.Join(b, "link")
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	if Name(a, "x") == Name(b, "x") {
		t.Error("two homes share a group")
	}
	if Name(a, "x") != Name(link, "x") {
		t.Error("a link to a home is another home")
	}
}

// TestGroup makes a real group where this user may.
func TestGroup(t *testing.T) {
	home := t.TempDir()
	g, err := New(Name(home, "test"), Limits{MemoryBytes: 64 << 20, CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if g == nil {
		t.Skip("this user can make no control group here")
	}
	defer g.Remove()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := g.LimitCPU(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup")
	if err != nil || !strings.Contains(string(b), Name(home, "test")) {
		t.Errorf("the process is in %s (%v)", b, err)
	}
	if err := Sweep(home, func(string) bool { return false }); err != nil {
		t.Errorf("a sweep with a process in the group: %v", err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the sweep ended a process: %v", err)
	}
	if !g.Memory() && !g.CPU() {
		t.Error("the group bounds nothing")
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	for _, dir := range g.dirs() {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}
