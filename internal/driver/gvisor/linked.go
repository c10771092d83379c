package gvisor

import (
	"debug/elf"
	"fmt"
	"slices"
)

// bootError says why gVisor did not boot. Its children run in an empty root, where a program that was linked dynamically
// (with cgo, or as PIE) does not start, and all that gVisor sees of that is the end of a file.
func bootError(err error) error {
	if linkedDynamically("/proc/self/exe") {
		return fmt.Errorf("boot gVisor: this program is linked dynamically, and its libraries are not there for gVisor's processes: build it with CGO_ENABLED=0: %w", err)
	}
	return fmt.Errorf("boot gVisor: %w", err)
}

// linkedDynamically reports whether a program wants a dynamic linker.
func linkedDynamically(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
