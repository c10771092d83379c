package quietgc

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

const child = "MSB_TEST_QUIETGC"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		if err := life(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPhases(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

var garbage []byte

func litter(bytes int) {
	for range bytes / 4096 {
		garbage = make([]byte, 4096)
	}
}

func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumGC
}

// life goes through the phases of a process. Settings that belong to the process are read by setting them.
func life() error {
	const percent = 77
	k := Policy{Boot: time.Hour, BootBytes: 256 << 20, Percent: percent}.start()
	litter(64 << 20)
	if n := collections(); n != 0 {
		return fmt.Errorf("%d collections while it started", n)
	}
	k.rest(true) // gives all of that back
	began := collections()
	litter(1 << 20)
	if n := collections(); n != began {
		return fmt.Errorf("%d collections at rest, for 1 MiB", n-began)
	}
	for deadline := time.Now().Add(time.Minute); ; litter(1 << 20) {
		k.mu.Lock()
		phase, last := k.phase, k.last
		k.mu.Unlock()
		if phase == working {
			if last.IsZero() {
				return fmt.Errorf("it works, and nothing was collected")
			}
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it rests whatever it takes: %d collections", collections()-began)
		}
	}
	if got := debug.SetGCPercent(percent); got != percent {
		return fmt.Errorf("it works with GOGC=%d", got)
	}
	// A collection after a long time makes it rest.
	for deadline := time.Now().Add(time.Minute); ; {
		k.mu.Lock()
		if k.phase == working {
			k.last = time.Now().Add(-forced)
		}
		phase := k.phase
		k.mu.Unlock()
		if phase == resting {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it does not rest any more")
		}
		runtime.GC()
	}
	if got := debug.SetGCPercent(-1); got != -1 {
		return fmt.Errorf("it rests with GOGC=%d", got)
	}
	return nil
}
