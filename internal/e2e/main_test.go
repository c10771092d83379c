// Package e2e tests the product as its users have it: the real binaries, started as root and as an ordinary user, on this
// machine. There is nothing in it but tests.
//
// Every test has an MSB_HOME of its own and a leak check around it ([each]). When the suite runs as root, each test is run
// twice: TestX/root, and TestX/user by processes without any privilege. MSB_BIN names a directory with binaries to use in
// place of freshly built ones; MSB_SOAK makes the long runs long.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bin is the directory of the binaries under test.
var bin string

// init keeps the process's first thread for TestMain: it does not end with a goroutine that changed its namespaces.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv(stageVar) != "" {
		os.Exit(stageMain())
	}
	if os.Getenv(privateVar) != "" { // a network of its own has to have its loopback
		if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
			fmt.Fprintln(os.Stderr, "loopback:", err)
			os.Exit(1)
		}
	}
	if signal.Ignored(unix.SIGHUP) { // as nohup has it: what is started here is to get the default action
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if bin = os.Getenv("MSB_BIN"); bin == "" {
		dir, err := build()
		if dir != "" {
			defer os.RemoveAll(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "build the binaries:", err)
			return 1
		}
		bin = dir
	}
	var err error
	if bin, err = filepath.Abs(bin); err == nil {
		bin, err = filepath.EvalSymlinks(bin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "MSB_BIN:", err)
		return 1
	}
	return m.Run()
}

// build makes the binaries as make does, where everybody may run them.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "msb-e2e-bin")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/msb", "./cmd/msb-runner", "./cmd/msb-agent", "./cmd/msb-server")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
}
