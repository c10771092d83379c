package runner

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// mostOwn is how much memory, in bytes, this process may take for what a sandbox has it do: connections, requests, names, logs.
// The bounds of each of these add up to less. It does not count towards the sandbox's memory; nothing else holds it.
const mostOwn = 512 << 20

// ownMemory is what this process holds of the machine's memory, without its code, in bytes.
func ownMemory() uint64 {
	s := [...]metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s[:])
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// takesMore reports whether this process takes more than most bytes, garbage not counted.
func takesMore(most uint64) bool {
	if ownMemory() <= most {
		return false
	}
	debug.FreeOSMemory()
	return ownMemory() > most
}

// tooMuch ends a sandbox whose runner takes more than mostOwn.
func (s *supervisor) tooMuch() bool {
	if !takesMore(mostOwn) {
		return false
	}
	s.end(sandbox.ReasonOOM, fmt.Sprintf("its runner took more than %d MiB for what the sandbox sends and prints", mostOwn>>20))
	return true
}
