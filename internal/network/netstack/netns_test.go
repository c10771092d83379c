package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs test in a network namespace of its own, where loopback has no addresses but its own: there the gateway
// dials as it does by default.
func inNamespace(t *testing.T, test func(t *testing.T)) {
	if os.Getenv("NETSTACK_IN_NAMESPACE") != "" {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Fatal(err)
		}
		test(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "NETSTACK_IN_NAMESPACE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// addAddress gives the namespace's loopback an address.
func addAddress(t *testing.T, a netip.Addr) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(lo, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
}

func TestInNamespace(t *testing.T) { inNamespace(t, testInNamespace) }

func testInNamespace(t *testing.T) {
	for _, a := range []string{"198.51.100.7", "2001:db8::7", "10.0.0.1"} {
		addAddress(t, netip.MustParseAddr(a))
	}
	group := []byte("0 0")
	pings := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", group, 0) == nil
	w := newWorld(t, Config{Dialer: &net.Dialer{}, Ping: openPing})
	for _, at := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("."))
				c.Close()
			}
		}()
		// The kernel finishes its IPv6 routes after it has said that the address is there.
		for reached := false; !reached; {
			if probe, err := net.Dial("tcp", at); err == nil {
				probe.Close()
				reached = true
			}
		}
		c := w.mustDial(t, at)
		if n, err := c.Read(make([]byte, 1)); n != 1 {
			t.Errorf("%s: %v", at, err)
		}
		c.Close()
		mustRefuse(t, w.guest, strings.Replace(at, "80", "81", 1))
	}
	mustRefuse(t, w.guest, "10.0.0.1:80")
	if !pings {
		t.Log("no ping sockets")
		return
	}
	_, pair := rawWorld(t, Config{Dialer: &net.Dialer{}, Ping: openPing})
	public := netip.MustParseAddr("198.51.100.7")
	got := exchange(t, pair, frame4(w.ends.Guest4, public, 1, ping4("hi")), 2e9)
	if len(got) < ethHdrLen+30 || got[ethHdrLen+20] != 0 || string(got[ethHdrLen+28:]) != "hi" {
		t.Errorf("ping: %x", got)
	}
}
