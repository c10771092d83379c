package netstack

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"

	"github.com/microsandbox-go/microsandbox/internal/netload"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The environment of a gateway process and of the comparison (see TestPeers).
const (
	gatewayVar = "NETSTACK_GATEWAY" // be one
	peerVar    = "NETSTACK_PEER"    // the binary of bench/gvtap
	roundsVar  = "NETSTACK_ROUNDS"
)

func TestMain(m *testing.M) {
	if os.Getenv(gatewayVar) != "" {
		os.Exit(gatewayMain())
	}
	os.Exit(m.Run())
}

// gatewayMain is a gateway in a process of its own, with its link as file descriptor 3.
func gatewayMain() int {
	policy, err := sandbox.ProfilePolicy("host")
	if err != nil {
		return 1
	}
	most := 4096
	g, err := New(Config{Link: os.NewFile(3, "link"), Policy: policy, MaxConns: most})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-g.Done()
	_ = g.Close()
	return 0
}

// rival is one gateway process and a guest at it, with the address by which the guest reaches the host's loopback.
type rival struct {
	name string
	host string
	cmd  *exec.Cmd
	*guest
}

func (r *rival) stop() {
	r.guest.close()
	_ = r.cmd.Wait() // its far end is gone
}

func startRival(t *testing.T, name, host string, ends Ends, gso bool, argv ...string) *rival {
	t.Helper()
	pair, err := NewPair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), gatewayVar+"=1")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{pair.Gateway}, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pair.Gateway.Close()
	g := newGuestOn(t, pair.Sentry, ends, fdbased.RecvMMsg, gso)
	return &rival{name: name, host: host, cmd: cmd, guest: g}
}

// measured is what one round of one rival came to.
type measured struct {
	Name       string
	Down, Up   float64 // MB/s, one connection
	Up8        float64 // MB/s, eight
	Connect    float64 // µs, p50 of a connection with a byte each way
	Refused    int     // of Held connections
	Held       int
	MemoryIdle int // KiB resident, before anything
	Memory     int // with Held connections open
	Busy       int // the most that it ever had, with 500 connections moving data
	Broken     int // of these

	why atomic.Pointer[error] // of the first of those that were refused, or broke
}

// TestPeers compares the gateway with gvisor-tap-vsock at the same MTU: the same guest's stack, the same kind of link, each
// gateway in its own process, in turn. It prints a line of JSON per round for bench/net.go, which sets the environment.
func TestPeers(t *testing.T) {
	peer := os.Getenv(peerVar)
	if peer == "" {
		t.Skip("make bench BENCH=net runs this")
	}
	rounds, err := strconv.Atoi(os.Getenv(roundsVar))
	if err != nil {
		t.Fatal(err)
	}
	at := peerServer(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ours, _ := Addresses(1)
	theirs := ours
	theirs.Guest4, theirs.Gateway4 = netip.MustParseAddr("192.168.127.2"), netip.MustParseAddr("192.168.127.1")
	for range rounds {
		for _, start := range []func() *rival{
			func() *rival { return startRival(t, "netstack", ours.Gateway4.String(), ours, true, self) },
			func() *rival {
				return startRival(t, "gvisor-tap-vsock", "192.168.127.254", theirs, false, peer, "1500")
			},
		} {
			r := start()
			m := r.measure(t, at)
			r.stop()
			b, _ := json.Marshal(m)
			fmt.Printf("round: %s\n", b)
		}
	}
}

// startAlone starts a gateway in a process of its own, and returns how its guest reaches a server on loopback.
func startAlone(t *testing.T) (*rival, netload.Dial) {
	t.Helper()
	at := peerServer(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ends, _ := Addresses(1)
	r := startRival(t, "netstack", ends.Gateway4.String(), ends, true, self)
	to := net.JoinHostPort(r.host, strconv.Itoa(int(at)))
	return r, func() (netload.Conn, error) { return r.dial(to) }
}

// TestMemory holds a gateway in a process of its own to the memory that many connections may cost.
func TestMemory(t *testing.T) {
	r, dial := startAlone(t)
	defer r.stop()
	var m measured
	m.hold(r, dial)
	t.Logf("%d connections held: %d KiB; 500 moving data: %d KiB at most", m.Held, m.Memory, m.Busy)
	if m.Refused > 0 || m.Broken > 0 {
		t.Errorf("%d connections were refused, %d broke: %v", m.Refused, m.Broken, *m.why.Load())
	}
	if m.Memory == 0 || m.Memory > 150<<10 || m.Busy > 300<<10 {
		t.Errorf("the gateway has %d KiB with %d connections and had %d KiB with 500 moving data; want 150 MiB and 300 MiB at most", m.Memory, m.Held, m.Busy)
	}
}

// peerServer serves on loopback and returns its port.
func peerServer(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { netload.Serve(l) })
	t.Cleanup(func() { l.Close(); served.Wait() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

const peerBytes = 96 << 20 // of one transfer

func (r *rival) measure(t *testing.T, port uint16) *measured {
	to := net.JoinHostPort(r.host, strconv.Itoa(int(port)))
	m := &measured{Name: r.name}
	dial := func() (netload.Conn, error) { return r.dial(to) }
	transfer := func(how byte, bytes int) {
		if err := netload.Transfer(dial, how, bytes); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	transfer(netload.Up, 1) // it has started
	m.MemoryIdle = residentOf(r.cmd.Process.Pid)
	rate := func(bytes int, do func()) float64 {
		begin := time.Now()
		do()
		return float64(bytes) / 1e6 / time.Since(begin).Seconds()
	}
	m.Down = rate(peerBytes, func() { transfer(netload.Down, peerBytes) })
	m.Up = rate(peerBytes, func() { transfer(netload.Up, peerBytes) })
	m.Up8 = rate(peerBytes, func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { transfer(netload.Up, peerBytes/8) })
		}
		all.Wait()
	})
	p50, err := netload.Connect(dial, 200)
	if err != nil {
		t.Errorf("%s: %v", r.name, err)
	}
	m.Connect = float64(p50.Nanoseconds()) / 1000
	m.hold(r, dial)
	return m
}

// hold opens 1,000 connections and looks at the gateway's memory.
func (m *measured) hold(r *rival, dial netload.Dial) {
	const many = 1000
	var mu sync.Mutex
	var open []net.Conn
	var all sync.WaitGroup
	slots := make(chan struct{}, 100)
	for range many {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			c, err := netload.Ping(dial)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if m.Refused++; m.Refused == 1 {
					m.why.Store(&err)
				}
				return
			}
			open = append(open, c)
		})
	}
	all.Wait()
	m.Held, m.Memory = many, residentOf(r.cmd.Process.Pid)
	for _, c := range open {
		c.Close()
	}
	m.move(r, dial)
}

// move sends data on 500 connections at once.
func (m *measured) move(r *rival, dial netload.Dial) {
	const many, each = 500, 256 << 10
	var broken atomic.Int64
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			if err := netload.Transfer(dial, netload.Up, each); err != nil {
				if broken.Add(1) == 1 {
					m.why.Store(&err)
				}
			}
		})
	}
	all.Wait()
	m.Broken, m.Busy = int(broken.Load()), peakOf(r.cmd.Process.Pid)
}

// peakOf is the most memory that a process ever had, in KiB.
func peakOf(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}

// residentOf is how much memory a process has, in KiB.
func residentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, resident int
	if err == nil {
		_, err = fmt.Sscan(string(b), &size, &resident)
	}
	if err != nil {
		return 0
	}
	return resident * os.Getpagesize() >> 10
}
