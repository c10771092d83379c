package runner

import (
	"time"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// The watchdog looks again by the time in which a guest could fill what is left, within these bounds.
const (
	fillRate      = 4 << 30 // bytes per second that a guest can touch at most
	watchInterval = 500 * time.Millisecond
	watchMinimum  = 2 * time.Millisecond  // while the sandbox grows
	watchCalm     = 50 * time.Millisecond // while it does not
	calmGrowth    = 1 << 20               // bytes between two looks
	groupInterval = time.Second           // where the kernel holds the limit
	watchFailures = 3                     // looks in a row that may fail
)

// restCPU is how much CPU, of one CPU's time, the kernel of a guest takes that does nothing; restPeriod is how long it must
// have done nothing at least. A guest that rests has nothing that fills memory: it is looked at each watchInterval, however
// little is left to it.
const (
	restCPU    = 0.01
	restPeriod = watchInterval / 2
)

// watchdog holds a sandbox to its memory: it is told what each look saw, and says when to look again. The zero value is
// ready.
type watchdog struct {
	used     uint64 // at the last look
	failures int    // of looks in a row

	at      time.Time // when the CPU time was looked at last
	cpu     uint64    // ns
	was     uint64    // bytes that were used then
	resting bool
}

// failed reports whether the sandbox cannot be watched: it is ending, or nothing holds its memory any more.
func (w *watchdog) failed() bool {
	w.failures++
	return w.failures >= watchFailures
}

// saw takes in the bytes that are used.
func (w *watchdog) saw(used uint64) {
	if used >= w.used+calmGrowth {
		w.resting = false
	}
	w.failures, w.used = 0, used
}

// sawAll takes in all that was seen of the sandbox.
func (w *watchdog) sawAll(now time.Time, u driver.Usage) {
	const part = 1 / restCPU
	w.saw(u.Resident)
	past := now.Sub(w.at)
	if past < restPeriod {
		return
	}
	w.resting = !w.at.IsZero() && (u.CPU-w.cpu)*uint64(part) <= uint64(past) && u.Resident < w.was+calmGrowth
	w.at, w.cpu, w.was = now, u.CPU, u.Resident
}

// next is how long not to look, where the limit is so many bytes; last is what was used at the look before the last.
func (w *watchdog) next(limit, last uint64) time.Duration {
	if w.resting {
		return beat(watchInterval)
	}
	pause := time.Duration(float64(limit-min(w.used, limit)) / fillRate * float64(time.Second))
	least := watchMinimum
	if w.used < last+calmGrowth {
		least = watchCalm
	}
	return min(max(pause, least), watchInterval)
}
