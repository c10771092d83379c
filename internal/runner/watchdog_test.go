package runner

import (
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// TestWatchdogPace goes through what a guest may do, look by look.
func TestWatchdogPace(t *testing.T) {
	const mib = 1 << 20
	const limit = 512 * mib
	const quiet, busy = 100 * time.Microsecond, 100 * time.Millisecond // of CPU time between two looks
	var w watchdog
	var cpu time.Duration
	now := time.Now()
	all := func(used uint64, spent time.Duration) time.Duration {
		now = now.Add(watchInterval)
		cpu += spent
		last := w.used
		w.sawAll(now, driver.Usage{CPU: uint64(cpu), Resident: used})
		return w.next(limit, last)
	}
	memory := func(used uint64) time.Duration {
		last := w.used
		w.saw(used)
		return w.next(limit, last)
	}
	fill := func(used uint64) time.Duration {
		return time.Duration(float64(limit-used) / fillRate * float64(time.Second))
	}

	if got := all(20*mib, quiet); w.resting || got != fill(20*mib) {
		t.Errorf("at the first look: %v, resting %v", got, w.resting)
	}
	if got := all(20*mib, quiet); !w.resting || got > watchInterval || got <= 0 {
		t.Errorf("after half a second of nothing: %v, resting %v", got, w.resting)
	}
	if got := all(508*mib, quiet); w.resting || got != watchMinimum {
		t.Errorf("when it has grown to near its limit: %v, resting %v", got, w.resting)
	}
	if got := memory(508 * mib); got != watchCalm {
		t.Errorf("when it grows no more there: %v", got)
	}
	if all(508*mib, quiet); !w.resting {
		t.Error("a guest that does nothing near its limit does not rest")
	}
	if got := all(508*mib, busy); w.resting || got != watchCalm {
		t.Errorf("when it computes: %v, resting %v", got, w.resting)
	}
	if all(508*mib, quiet); !w.resting {
		t.Error("it does not rest after its work")
	}
	if got := memory(510 * mib); w.resting || got != watchMinimum {
		t.Errorf("when it grows between two looks at all: %v, resting %v", got, w.resting)
	}
	// A look that comes at once after another one says nothing of what the guest does.
	w.sawAll(now.Add(time.Millisecond), driver.Usage{CPU: uint64(cpu), Resident: 510 * mib})
	if w.resting {
		t.Error("a millisecond of nothing is taken for rest")
	}
	if got := memory(limit + mib); got != watchMinimum {
		t.Errorf("over its limit: %v", got)
	}

	for n := 1; n < watchFailures; n++ {
		if w.failed() {
			t.Errorf("given up after %d failures", n)
		}
	}
	w.saw(mib)
	for n := 1; n < watchFailures; n++ {
		if w.failed() {
			t.Errorf("given up after %d failures since a look", n)
		}
	}
	if !w.failed() {
		t.Error("never given up")
	}
}

func TestAlarm(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{-time.Second, 0, time.Millisecond, 20 * time.Millisecond} {
		began := time.Now()
		if err := a.wait(d); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < d {
			t.Errorf("an alarm for %v rang after %v", d, took)
		}
	}
	ended := make(chan error)
	go func() { ended <- a.wait(time.Hour) }()
	select {
	case err := <-ended:
		t.Errorf("an hour is over: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	a.close()
	if err := <-ended; err == nil {
		t.Error("an alarm that was closed rang")
	}
	if err := a.wait(0); err == nil {
		t.Error("an alarm rang after it was closed")
	}
	a.close()
	(*alarm)(nil).close()
}
