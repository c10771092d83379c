package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// machine writes a topology: of each package so many cores of so many threads. CPUs are numbered as Linux does: first the first
// threads of all cores, then the second ones.
func machine(t *testing.T, packages, cores, threads int) []cpu {
	t.Helper()
	dir := t.TempDir()
	var ids []int
	for id := range packages * cores * threads {
		ids = append(ids, id)
		core := id % (packages * cores)
		at := filepath.Join(dir, "cpu"+strconv.Itoa(id), "topology")
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, n := range map[string]int{"physical_package_id": core / cores, "core_id": core % cores * 4} {
			if err := os.WriteFile(filepath.Join(at, name), fmt.Appendln(nil, n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return topology(dir, ids)
}

func TestPlace(t *testing.T) {
	two := machine(t, 2, 4, 2) // package 0: CPUs 0-3 and 8-11; package 1: 4-7 and 12-15
	for _, c := range []struct {
		n      int
		policy string
		seed   uint32
		want   []int
	}{
		{2, "compact", 0, []int{0, 8}}, // one core
		{2, "compact", 1, []int{1, 9}},
		{2, "compact", 8, []int{0, 8}},
		{3, "compact", 0, []int{0, 8, 1}},
		{8, "compact", 1, []int{4, 12, 5, 13, 6, 14, 7, 15}}, // one package
		{2, "spread", 0, []int{0, 4}},                        // two packages
		{4, "spread", 0, []int{0, 4, 1, 5}},
		{9, "spread", 0, []int{0, 4, 1, 5, 2, 6, 3, 7, 8}}, // all cores before any is shared
		{2, "auto", 0, []int{0, 8}},
		{9, "auto", 0, []int{0, 4, 1, 5, 2, 6, 3, 7, 8}}, // more than a package has
		{2, "", 3, []int{3, 4}},
		{2, "", 15, []int{15, 0}},
		{16, "compact", 7, []int{0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15}},
	} {
		if got := place(two, c.n, c.policy, c.seed); !slices.Equal(got, c.want) {
			t.Errorf("%d %s with %d: CPUs %v, want %v", c.n, c.policy, c.seed, got, c.want)
		}
	}
	// Some of a machine's CPUs, and a kernel that says nothing.
	if got := place(topology(t.TempDir(), []int{3, 5, 9}), 2, "compact", 0); !slices.Equal(got, []int{3, 5}) {
		t.Errorf("without a topology: %v", got)
	}
	for n := 1; n <= 16; n++ {
		for seed := range uint32(40) {
			for _, policy := range []string{"", "auto", "compact", "spread"} {
				got := place(two, n, policy, seed)
				slices.Sort(got)
				if len(slices.Compact(got)) != n || got[0] < 0 || got[n-1] > 15 {
					t.Fatalf("%d %s with %d: %v", n, policy, seed, got)
				}
			}
		}
	}
}

// A policy bounds the processes to the CPUs that it chooses, also where a control group bounds how much of them they get.
func TestPinned(t *testing.T) {
	var have unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil {
		t.Fatal(err)
	}
	if have.Count() < 2 {
		t.Skip("there is one CPU")
	}
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for _, policy := range []string{"compact", "spread", "auto"} {
		l := &limits{cpus: 1, placement: policy}
		if err := l.pin("id", func() []int { return []int{cmd.Process.Pid} }); err != nil {
			t.Fatal(err)
		}
		var now unix.CPUSet
		if err := unix.SchedGetaffinity(cmd.Process.Pid, &now); err != nil || now.Count() != 1 {
			t.Errorf("%s: %d CPUs, %v", policy, now.Count(), err)
		}
		if err := unix.SchedSetaffinity(cmd.Process.Pid, &have); err != nil {
			t.Fatal(err)
		}
	}
}
