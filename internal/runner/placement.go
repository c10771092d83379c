package runner

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// cpu is one CPU of the host, and where it is.
type cpu struct {
	id       int
	pkg      int // its package (socket)
	core     int // its core, counted within the package
	sibling  int // which of the core's threads it is
	reported int // the core as the kernel calls it
}

// topologyDir is where the kernel says how CPUs are arranged (sysfs-devices-system-cpu).
const topologyDir = "/sys/devices/system/cpu"

// topology finds out where CPUs are, ordered by package, core and thread. What the kernel does not say is taken to be one
// package of cores with one thread each.
func topology(dir string, ids []int) []cpu {
	read := func(id int, name string, otherwise int) int {
		b, err := os.ReadFile(filepath.Join(dir, "cpu"+strconv.Itoa(id), "topology", name))
		n, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || perr != nil || n < 0 {
			return otherwise
		}
		return n
	}
	all := make([]cpu, 0, len(ids))
	for _, id := range ids {
		all = append(all, cpu{id: id, pkg: read(id, "physical_package_id", 0), reported: read(id, "core_id", id)})
	}
	slices.SortFunc(all, func(a, b cpu) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.reported, b.reported), cmp.Compare(a.id, b.id))
	})
	for i := 1; i < len(all); i++ {
		this, last := &all[i], all[i-1]
		switch {
		case this.pkg != last.pkg:
		case this.reported != last.reported:
			this.core = last.core + 1
		default:
			this.core, this.sibling = last.core, last.sibling+1
		}
	}
	return all
}

// place chooses n of the CPUs by a policy; seed is what makes sandboxes differ. all is as topology returns it, and n is from 1
// to their number.
func place(all []cpu, n int, policy string, seed uint32) []int {
	if policy == sandbox.PlaceAuto {
		policy = sandbox.PlaceSpread
		for _, c := range all {
			if same := slices.IndexFunc(all, func(o cpu) bool { return o.pkg == c.pkg }); same+n <= len(all) && all[same+n-1].pkg == c.pkg {
				policy = sandbox.PlaceCompact // they fit into one package
			}
		}
	}
	order, start := slices.Clone(all), int(seed%uint32(len(all)))
	switch policy {
	case sandbox.PlaceCompact: // slots of n, so that sandboxes of one size do not share a core
		start = int(seed%uint32(len(all)/n)) * n
	case sandbox.PlaceSpread: // all packages, then all cores, then their other threads
		slices.SortFunc(order, func(a, b cpu) int {
			return cmp.Or(cmp.Compare(a.sibling, b.sibling), cmp.Compare(a.core, b.core), cmp.Compare(a.pkg, b.pkg))
		})
	default:
		slices.SortFunc(order, func(a, b cpu) int { return cmp.Compare(a.id, b.id) })
	}
	chosen := make([]int, 0, n)
	for i := range n {
		chosen = append(chosen, order[(start+i)%len(order)].id)
	}
	return chosen
}
