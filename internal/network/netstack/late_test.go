package netstack

import (
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/netload"
)

// TestLateGateway has guests ask again for connections that nobody has answered yet. Each is opened once, and none is refused for having been
// asked for twice.
func TestLateGateway(t *testing.T) {
	at := peerServer(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ends, _ := Addresses(1)
	r := startRival(t, "netstack", ends.Gateway4.String(), ends, true, self)
	defer r.stop()
	to := net.JoinHostPort(r.host, strconv.Itoa(int(at)))
	dial := func() (netload.Conn, error) { return r.dial(to) }
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
