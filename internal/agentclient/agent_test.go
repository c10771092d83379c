package agentclient_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/agent"
	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentclient/agenttest"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if agentBinary != "" {
		_ = os.RemoveAll(filepath.Dir(agentBinary))
	}
	os.Exit(code)
}

// guest is an agent with a relay in front of it that has one client, in slot 0.
type guest struct {
	Client *agentclient.Client
	Agent  net.Conn // the host's end of the agent's connection
	Cmd    *exec.Cmd
	wait   func() error
}

// places are the two ways to run the agent: within the test, and as the process that it really is.
var places = map[string]func(*testing.T, net.Conn) func() error{
	"in process": inProcess,
	"as process": asProcess,
}

// eachPlace runs a test against both.
func eachPlace(t *testing.T, b agentproto.Bootstrap, test func(*testing.T, *guest)) {
	for name, start := range places {
		t.Run(name, func(t *testing.T) {
			leaks := goleak.IgnoreCurrent()
			g := startGuest(t, start, b)
			test(t, g)
			g.stop(t)
			goleak.VerifyNone(t, leaks)
		})
	}
}

func inProcess(t *testing.T, conn net.Conn) func() error {
	a := &agent.Agent{Conn: conn, Version: "test"}
	done := make(chan error, 1)
	go func() { done <- a.Run() }()
	return func() error { return <-done }
}

var (
	agentBinary string
	buildAgent  sync.Once
)

// binary builds the agent, once.
func binary(t *testing.T) string {
	t.Helper()
	buildAgent.Do(func() {
		dir, err := os.MkdirTemp("", "msb-agent")
		if err != nil {
			t.Fatal(err)
		}
		bin := filepath.Join(dir, "msb-agent")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "../../cmd/msb-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the agent: %v\n%s", err, out)
		}
		agentBinary = bin
	})
	if agentBinary == "" {
		t.Fatal("the agent was not built")
	}
	return agentBinary
}

func asProcess(t *testing.T, conn net.Conn) func() error {
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	cmd := exec.Command(binary(t))
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	_ = syscall.SetNonblock(int(f.Fd()), false)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	return cmd.Wait
}

func startGuest(t *testing.T, start func(*testing.T, net.Conn) func() error, b agentproto.Bootstrap) *guest {
	t.Helper()
	host, inner := agenttest.SocketPair(t)
	g := &guest{Agent: host, wait: start(t, inner)}
	g.Client = agenttest.Connect(t, host, agenttest.Bootstrap(t, host, b))
	return g
}

// stop ends the connection and waits for the agent.
func (g *guest) stop(t *testing.T) {
	t.Helper()
	_ = g.Client.Close()
	done := make(chan error, 1)
	go func() { done <- g.wait() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the agent: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the agent did not end with its connection")
	}
}

// output runs a command and returns what it wrote.
func (g *guest) output(t *testing.T, req agentclient.ExecRequest) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs buffer
	req.Stdout, req.Stderr = &out, &errs
	s, err := g.Client.Exec(t.Context(), req)
	if err != nil {
		t.Fatalf("exec %s: %v", req.Cmd, err)
	}
	code, err = s.Wait()
	if err != nil {
		t.Fatalf("wait for %s: %v", req.Cmd, err)
	}
	return string(out), string(errs), code
}

func (g *guest) sh(t *testing.T, script string) string {
	t.Helper()
	out, errs, code := g.output(t, agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", script}})
	if code != 0 || errs != "" {
		t.Fatalf("%s: code %d, stderr %q", script, code, errs)
	}
	return out
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }

// failure returns the reason why a command did not start.
func failure(t *testing.T, err error) *agentproto.ExecFailed {
	t.Helper()
	var f *agentproto.ExecFailed
	if !errors.As(err, &f) {
		t.Fatalf("want a command that did not start, have %v", err)
	}
	return f
}
