package microsandbox_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox"
	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// The ordinary user that the tests run as besides root. No such user needs to exist.
const userID = 12345

// Variables by which this test's binary starts itself.
const (
	binVar  = "MSB_BIN"      // where the binaries are
	roleVar = "MSB_SDK_ROLE" // see roles
)

// bin is the directory of msb, msb-runner and msb-agent.
var bin string

// roles are what the binary does in place of the tests, in a process of its own.
var roles = map[string]func() error{}

func init() { runtime.LockOSThread() } // see package e2e

func TestMain(m *testing.M) {
	if role := roles[os.Getenv(roleVar)]; role != nil {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if bin = os.Getenv(binVar); bin == "" {
		dir, err := os.MkdirTemp("", "msb-sdk-bin")
		if err == nil {
			defer os.RemoveAll(dir)
			err = os.Chmod(dir, 0o755)
		}
		if err == nil {
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/msb", "./cmd/msb-runner", "./cmd/msb-agent")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			err = cmd.Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "build the binaries:", err)
			return 1
		}
		bin = dir
	}
	for name, value := range map[string]string{"MSB_RUNNER": filepath.Join(bin, "msb-runner"), "MSB_AGENT": filepath.Join(bin, "msb-agent"), binVar: bin} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// self prepares this test's binary, as an ordinary user if that is asked for.
func self(ctx context.Context, user bool, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...) // by this name another user may run it
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	if user {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: userID, Gid: userID}}
	}
	return cmd
}

// TestAsUser runs all tests again as an ordinary user, when they run as root.
func TestAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("these are the tests of an ordinary user")
	}
	top := t.TempDir()
	for dir := top; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(top, userID, userID); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.count=1", "-test.timeout=10m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := self(t.Context(), true, []string{"HOME=" + top, "TMPDIR=" + top}, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("%s", out)
	}
}

// home gives the test an MSB_HOME of its own, of which nothing may be left but what the next sandbox needs again.
func home(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sdk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("MSB_HOME", dir)
	leakcheck.Check(t, leakcheck.Home(dir, "tls", "bin/agent-*.erofs", "images/*", "run/.lock", "db/*", "sandboxes/default", "volumes/default"),
		leakcheck.Binaries(bin), leakcheck.Cgroups(cgroup.Name(dir, "")), leakcheck.Goroutines())
	t.Cleanup(func() {
		if err := microsandbox.CloseEngines(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// shared makes a sandbox that is removed when the test ends.
func newSandbox(t testing.TB, name string, opts ...microsandbox.SandboxOption) *microsandbox.Sandbox {
	t.Helper()
	sb, err := microsandbox.CreateSandbox(ctxOf(t), name, append([]microsandbox.SandboxOption{microsandbox.WithImage("host")}, opts...)...)
	if err != nil {
		t.Fatalf("CreateSandbox: %v", err)
	}
	discard(t, sb)
	return sb
}

// discard removes a sandbox when the test ends.
func discard(t testing.TB, sb *microsandbox.Sandbox) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if h, err := microsandbox.GetSandbox(ctx, sb.Name()); err == nil {
			if err := h.Destroy(ctx, microsandbox.WithDestroyForce()); err != nil && !microsandbox.IsKind(err, microsandbox.ErrSandboxNotFound) {
				t.Errorf("Destroy %s: %v", sb.Name(), err)
			}
		}
		_ = sb.Close()
	})
}

// ctxOf bounds what a test does.
func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantKind(t testing.TB, err error, kind microsandbox.ErrorKind) {
	t.Helper()
	if !microsandbox.IsKind(err, kind) {
		t.Errorf("error %v, want kind %v", err, kind)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func shell(t testing.TB, sb *microsandbox.Sandbox, line string, opts ...microsandbox.ExecOption) string {
	t.Helper()
	out, err := sb.Shell(ctxOf(t), line, opts...)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if !out.Success() {
		t.Fatalf("%s: exit code %d: %s", line, out.ExitCode(), out.Stderr())
	}
	return strings.TrimSuffix(out.Stdout(), "\n")
}
