package doctor

import (
	"fmt"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/cgroup"
)

// groups says who would hold a sandbox to its memory and CPUs: a control group, or the runner itself. It makes a group as
// a runner does, and removes it.
func groups(m Machine) []Check {
	memory, cpu := Check{Name: "memory limit"}, Check{Name: "cpu limit"}
	g, err := cgroup.New(cgroup.Name(m.Home, fmt.Sprintf("doctor-%d", os.Getpid())), cgroup.Limits{MemoryBytes: 64 << 20, CPUs: 1})
	if err == nil && g != nil {
		defer func() { _ = g.Remove() }() // what is left of it the next command sweeps
		err = g.LimitCPU()
	}
	why := "no control group can be made"
	if err != nil {
		why += ": " + err.Error()
	}
	const remedy = "run msb as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes msb …"
	if g.Memory() {
		memory = ok(memory.Name, "by control group")
	} else {
		memory = warn(memory.Name, "by a watchdog of the runner, which looks often and kills; "+why, remedy)
	}
	if g.CPU() {
		cpu = ok(cpu.Name, "by control group")
	} else {
		cpu = warn(cpu.Name, "by affinity, in whole CPUs that others may use, too; "+why, remedy)
	}
	return []Check{memory, cpu}
}
