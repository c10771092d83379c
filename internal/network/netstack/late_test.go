package netstack

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/netload"
)

// TestLateGateway has guests ask again for connections that nobody has answered yet. Each is opened once, and none is refused for having been
// asked for twice.
func TestLateGateway(t *testing.T) {
	r, dial := startAlone(t)
	defer r.stop()
	first, err := netload.Ping(dial) // it has started
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 300 { // more than there are sizes of windows
		all.Go(func() {
			c, err := netload.Ping(dial)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
		})
	}
	time.Sleep(3500 * time.Millisecond) // the guest's stack asks again after 1 s, and 2 s later
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	all.Wait()
}
