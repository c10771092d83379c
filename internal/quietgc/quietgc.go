// Package quietgc keeps Go's garbage collector quiet in a process that mostly waits. Go collects every two minutes whether
// there is garbage or not: some ms of CPU time and, the first times, some 0.4 MB for the collector's own lists, in each
// process of each idle sandbox. Here a process goes through three phases: it starts, and nothing is collected; it
// rests, and nothing is collected until it has taken a few MiB more; then it works, with a collector as usual, until that
// had nothing to do for two minutes.
package quietgc

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Policy is what a process needs. [Policy.Start] is called once, early in main.
type Policy struct {
	Boot      time.Duration // how long the process starts
	BootBytes int64         // with so much memory it collects meanwhile, too
	Collect   bool          // when it has started: for one whose start leaves much more garbage than the lists of a collection take
	Percent   int           // GOGC while it works
}

// restRoom is how much more memory, in bytes, a process at rest may take before it collects.
const restRoom = 4 << 20

// forced is after which time without a collection Go's runtime forces one (runtime.forcegcperiod), or nearly.
const forced = 2*time.Minute - time.Second

type phase int

const (
	starting phase = iota
	working
	resting
)

type keeper struct {
	policy Policy

	mu    sync.Mutex
	phase phase
	turn  int // of phases; a sentinel of an earlier one is not heard
	last  time.Time
}

// Start sets the collector for a process that has just begun.
func (p Policy) Start() { p.start() }

func (p Policy) start() *keeper {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(p.BootBytes)
	k := &keeper{policy: p}
	time.AfterFunc(p.Boot, func() { k.rest(p.Collect) })
	return k
}

// sentinel is garbage: it is finalized at the next collection.
type sentinel struct {
	k    *keeper
	turn int
}

// hearLocked has k told of the next collection in this turn.
func (k *keeper) hearLocked() {
	runtime.SetFinalizer(&sentinel{k, k.turn}, func(s *sentinel) { s.k.collected(s.turn) })
}

// rest begins the phase of that name. Nobody else changes phases meanwhile: no sentinel of this turn is out.
func (k *keeper) rest(collect bool) {
	if collect {
		debug.FreeOSMemory()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.phase = resting
	k.turn++
	debug.SetMemoryLimit(taken() + restRoom)
	debug.SetGCPercent(-1)
	k.hearLocked()
}

// collected is told of a collection, some time after it.
func (k *keeper) collected(turn int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if turn != k.turn {
		return
	}
	before := k.last
	k.last = time.Now()
	switch {
	case k.phase == resting: // it has taken all its room
		k.phase = working
		k.turn++
		debug.SetGCPercent(k.policy.Percent)
		debug.SetMemoryLimit(math.MaxInt64)
	case k.last.Sub(before) >= forced:
		k.turn++
		go k.rest(true)
		return
	}
	k.hearLocked()
}

// taken is how much memory, in bytes, the process has from the operating system, as [debug.SetMemoryLimit] counts it.
func taken() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
