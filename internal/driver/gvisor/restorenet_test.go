package gvisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// networkProgram serves on port 8080, and does with the network what each line of its input says.
const networkProgram = `
import socket, sys, threading
def serve():
    l = socket.create_server(("0.0.0.0", 8080))
    while True:
        c, _ = l.accept(); c.sendall(b"hello from the guest"); c.close()
threading.Thread(target=serve, daemon=True).start()
held = None
for line in sys.stdin:
    how, *arg = line.split()
    try:
        if how == "dial": print("reached", socket.create_connection((arg[0], 80), timeout=20).recv(100).decode(), flush=True)
        if how == "hold":
            held = socket.create_connection(("93.184.216.34", 7), timeout=20)
            print("held", flush=True)
        if how == "held":
            held.sendall(b"x")
            print("echo" if held.recv(1) == b"x" else "end", flush=True)
    except OSError as e: print(type(e).__name__, flush=True)
`

// echoing takes connections to port 7 to an echo, all others to the server.
type echoing struct {
	*guestKit
	echo net.Listener
}

func (e *echoing) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, port, _ := net.SplitHostPort(address); port == "7" {
		var d net.Dialer
		return d.DialContext(ctx, network, e.echo.Addr().String())
	}
	return e.guestKit.DialContext(ctx, network, address)
}

// TestRestoredNetwork restores a sandbox onto new links: each has a network that works, the policy and the ports of its own
// gateway, and no connection of before. The original keeps all that it had.
func TestRestoredNetwork(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("needs /usr/bin/python3")
	}
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "checkpoint", "msb-agent"), leakcheck.Within(5*time.Second))
	g := newGuestKit(t, home)
	e := &echoing{guestKit: g}
	var err error
	if e.echo, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := e.echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	t.Cleanup(func() { e.echo.Close(); <-served })
	g.net.Dialer = e
	ctx := context.Background()
	const public, private, reached = "dial 93.184.216.34", "dial 10.0.0.1", "reached hello from the host"
	publish := func() {
		if g.net.Publish, err = netstack.Listen([]sandbox.Port{{GuestPort: 8080, Protocol: sandbox.PortTCP}}); err != nil {
			t.Fatal(err)
		}
	}
	serves := func(ports *netstack.Listeners) {
		t.Helper()
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports.Ports()[0].HostPort))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello from the guest" {
			t.Errorf("by the published port: %q, %v", b, err)
		}
	}

	publish()
	first := g.net.Publish
	original := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(ctx, cfg) })
	original.bringUp(t)
	program := original.exec(t, 7, "python3", "-u", "-c", networkProgram)
	program.says(t, public, reached)
	program.says(t, private, "ConnectionRefusedError")
	program.says(t, "hold", "held")
	program.says(t, "held", "echo")
	dir := filepath.Join(home, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := original.inst.(driver.Checkpointer).Checkpoint(ctx, dir); err != nil {
		t.Fatal(err)
	}

	private10, err := sandbox.ParseNetworkRules("allow@10.0.0.0/8:tcp")
	if err != nil {
		t.Fatal(err)
	}
	onlyPrivate := sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Allow, Rules: private10}
	for _, c := range []struct {
		policy                            sandbox.NetworkPolicy
		public, private, publicThen, then string
	}{
		{sandbox.PublicPolicy(), reached, "ConnectionRefusedError", "ConnectionRefusedError", reached},
		{onlyPrivate, "ConnectionRefusedError", reached, "ConnectionRefusedError", reached},
	} {
		publish()
		ports := g.net.Publish
		g.net.Policy = c.policy
		fork := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Restore(ctx, cfg, dir) })
		s := &session{g: fork, id: 7}
		s.says(t, public, c.public)
		s.says(t, private, c.private)
		if got := s.hears(t, "held"); got == "echo\n" {
			t.Error("a connection of before goes on in two guests")
		}
		serves(ports)
		if n := fork.gw.Stats().Denied; n == 0 {
			t.Error("no refusal was counted")
		}
		// Its policy changes as that of any other.
		if err := fork.gw.SetPolicy(onlyPrivate, false); err != nil {
			t.Fatal(err)
		}
		s.says(t, public, c.publicThen)
		s.says(t, private, c.then)
	}
	program.says(t, "held", "echo")
	program.says(t, public, reached)
	program.says(t, private, "ConnectionRefusedError")
	serves(first)
}
