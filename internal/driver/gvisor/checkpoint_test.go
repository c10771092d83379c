package gvisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// guestProgram holds state, and does what each line of its input says.
const guestProgram = `
import socket, sys
heap = {n: str(n) * 100 for n in range(20000)}
count = 0
for line in sys.stdin:
    line = line.strip()
    if line == "count":
        count += 1
        print("count", count, len(heap), flush=True)
    elif line == "dial":
        try:
            s = socket.create_connection(("93.184.216.34", 80), timeout=10)
            print("dial", s.recv(100).decode(), flush=True)
        except OSError as e:
            print("dial failed:", e, flush=True)
`

// TestCheckpoint saves a sandbox while it runs, restores it twice, and finds the agent, an open program with its state and
// the network working in all three. Forks are built on it.
func TestCheckpoint(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("needs /usr/bin/python3")
	}
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "checkpoint", "msb-agent"), leakcheck.Within(5*time.Second))
	g := newGuestKit(t, home)
	ctx := context.Background()
	null := owner(t, os.DevNull)

	original := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(ctx, cfg) })
	original.bringUp(t)
	program := original.exec(t, 7, "python3", "-u", "-c", guestProgram)
	program.says(t, "count", "count 1 20000")
	program.says(t, "dial", "dial hello from the host")

	dir := filepath.Join(home, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := original.inst.(driver.Checkpointer).Checkpoint(ctx, dir); err != nil {
		t.Fatal(err)
	}
	t.Logf("checkpoint: %v, %d KiB", time.Since(began), size(t, dir)>>10)
	program.says(t, "count", "count 2 20000")

	var forks []*session
	for n := range 2 {
		began := time.Now()
		fork := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Restore(ctx, cfg, dir) })
		t.Logf("restore %d: %v", n, time.Since(began))
		s := &session{g: fork, id: 7}
		s.says(t, "count", "count 2 20000") // the state of the checkpoint, not of the original
		s.says(t, "dial", "dial hello from the host")
		forks = append(forks, s)
		out := fork.exec(t, 9, "sh", "-c", "echo new; cat") // the agent starts more
		out.says(t, "line", "new\nline")
	}
	forks[0].says(t, "count", "count 3 20000")
	forks[0].says(t, "count", "count 4 20000")
	forks[1].says(t, "count", "count 3 20000")
	program.says(t, "dial", "dial hello from the host")
	program.says(t, "count", "count 3 20000")
	if now := owner(t, os.DevNull); now != null {
		t.Errorf("%s belongs to %s now, not to %s", os.DevNull, now, null) // gVisor gives the files of its stdio to the sentry's user
	}
}

func owner(t *testing.T, path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func size(t *testing.T, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// guestKit is what the sandboxes of a test share: images, and a server on the host that they reach by a public address.
type guestKit struct {
	root   *image.Root
	agent  string
	server net.Listener
	edit   func(*driver.Config) // of each guest to come; may be nil
	net    netstack.Config      // of their gateways, beside what they all have
}

func newGuestKit(t testing.TB, home string) *guestKit {
	t.Helper()
	agent := filepath.Join(home, "msb-agent")
	if bin := os.Getenv("MSB_BIN"); bin != "" { // for who cannot build
		agent = filepath.Join(bin, "msb-agent")
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "github.com/microsandbox-go/microsandbox/cmd/msb-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv("MSB_BIN") == "" {
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the agent: %v\n%s", err, out)
		}
	}
	g := &guestKit{}
	var err error
	if g.root, err = image.Host(context.Background(), home); err != nil {
		t.Fatal(err)
	}
	if g.agent, err = image.AgentImage(home, agent); err != nil {
		t.Fatal(err)
	}
	if g.server, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := g.server.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello from the host")
			c.Close()
		}
	})
	t.Cleanup(func() { g.server.Close(); wg.Wait() })
	return g
}

// DialContext takes every connection of a guest to the server.
func (g *guestKit) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, g.server.Addr().String())
}

// guest is one running sandbox, seen from its control connection.
type guest struct {
	inst driver.Instance
	conn net.Conn
	in   *agentproto.Reader
	gw   *netstack.Gateway
}

func (g *guestKit) start(t testing.TB, start func(driver.Config) (driver.Instance, error)) *guest {
	t.Helper()
	ends, err := netstack.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := netstack.NewPair()
	if err != nil {
		t.Fatal(err)
	}
	network := g.net
	network.Link, network.Ends = pair.Gateway, ends
	if network.Dialer == nil {
		network.Dialer = g
	}
	if network.Policy.DefaultEgress == "" {
		network.Policy = sandbox.PublicPolicy()
	}
	gw, err := netstack.New(network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gw.Close() })
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	cfg := driver.Config{
		ID: fmt.Sprintf("test%d", fds[0]), RootImage: g.root.Path, Agent: g.agent, Hostname: "test", Control: os.NewFile(uintptr(fds[1]), "guest"),
		MemoryBytes: 512 << 20, CPUs: 2, Tmpfs: []driver.Tmpfs{{Target: "/tmp", SizeBytes: 64 << 20}},
		Link: &driver.Link{File: pair.Sentry, MTU: netstack.MTU, MAC: ends.GuestMAC, GatewayMAC: ends.GatewayMAC,
			IPv4: netip.PrefixFrom(ends.Guest4, netstack.PrefixBits4), Gateway4: ends.Gateway4,
			IPv6: netip.PrefixFrom(ends.Guest6, netstack.PrefixBits6), Gateway6: ends.Gateway6},
	}
	for _, b := range g.root.Binds {
		cfg.Binds = append(cfg.Binds, driver.Bind{Source: b.Source, Target: b.Target, ReadOnly: true})
	}
	if g.edit != nil {
		g.edit(&cfg)
	}
	inst, err := start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := inst.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return &guest{inst: inst, conn: conn, in: agentproto.NewReader(conn), gw: gw}
}

func (g *guest) send(t testing.TB, id uint32, typ agentproto.Type, p agentproto.Payload) {
	t.Helper()
	if _, err := g.conn.Write(agentproto.Append(nil, id, typ, p)); err != nil {
		t.Fatal(err)
	}
}

// next returns the next message, copied.
func (g *guest) next(t testing.TB) (uint32, agentproto.Message) {
	t.Helper()
	_ = g.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	f, err := g.in.Next()
	if err != nil {
		t.Fatalf("read from the agent: %v", err)
	}
	defer f.Release()
	m, err := agentproto.Open(f.Clone().Body())
	if err != nil {
		t.Fatal(err)
	}
	return f.ID, m
}

func (g *guest) bringUp(t *testing.T) {
	t.Helper()
	g.bringUpWith(t, agentproto.Bootstrap{})
}

func (g *guest) bringUpWith(t testing.TB, b agentproto.Bootstrap) {
	t.Helper()
	b.DefaultEnv = []agentproto.EnvVar{{Key: "PATH", Value: "/usr/bin:/bin:/usr/sbin:/sbin"}}
	g.send(t, 0, agentproto.TypeBootstrap, &b)
	g.send(t, 0, agentproto.TypeInitAck, nil)
	for {
		switch _, m := g.next(t); m.Type {
		case agentproto.TypeReady:
			return
		case agentproto.TypeError:
			t.Fatalf("the agent refuses: %q", m.Payload)
		}
	}
}

// session is a command that runs in a guest.
type session struct {
	g  *guest
	id uint32
}

func (g *guest) exec(t *testing.T, id uint32, cmd string, args ...string) *session {
	t.Helper()
	g.send(t, id, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: cmd, Args: args})
	for {
		got, m := g.next(t)
		if got == id && m.Type == agentproto.TypeExecStarted {
			return &session{g, id}
		}
		if m.Type == agentproto.TypeExecFailed || m.Type == agentproto.TypeError {
			t.Fatalf("%s did not start: %s %q", cmd, m.Type, m.Payload)
		}
	}
}

// says writes a line to the session's input and waits until its output is want and a newline.
func (s *session) says(t *testing.T, line, want string) {
	t.Helper()
	if got := s.hears(t, line, want); got != want+"\n" {
		t.Fatalf("after %q the program said %q, want %q", line, got, want)
	}
}

// hears writes a line to the session's input and returns its output, which has as many lines as like.
func (s *session) hears(t *testing.T, line string, like ...string) string {
	t.Helper()
	if _, err := s.g.conn.Write(agentproto.AppendData(nil, s.id, agentproto.TypeExecStdin, []byte(line+"\n"))); err != nil {
		t.Fatal(err)
	}
	got := ""
	for strings.Count(got, "\n") <= strings.Count(strings.Join(like, ""), "\n") {
		id, m := s.g.next(t)
		switch {
		case id != s.id:
		case m.Type == agentproto.TypeExecStdout:
			b, err := agentproto.DecodeData(m.Payload)
			if err != nil {
				t.Fatal(err)
			}
			got += string(b)
		default:
			t.Fatalf("after %q the session sent %s %q", line, m.Type, m.Payload)
		}
	}
	return got
}
