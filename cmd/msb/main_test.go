package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

func TestMain(m *testing.M) {
	doctor.Child()
	testscript.Main(suite{m}, map[string]func(){"msb": func() { hookSteps(); main() }, "renamer": renamer})
}

// suite is the tests, after which the binaries go that they were run with.
type suite struct{ *testing.M }

func (s suite) Run() int {
	code := s.M.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	return code
}

// TestScripts runs what needs no sandbox.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: setup, RequireExplicitExec: true, Cmds: commands})
}

// TestSandboxes runs what needs one, with the runner and the agent of this tree.
func TestSandboxes(t *testing.T) {
	needSandboxes(t)
	testscript.Run(t, testscript.Params{Dir: "testdata/sandbox", RequireExplicitExec: true, Cmds: commands,
		Setup: func(env *testscript.Env) error {
			if err := setup(env); err != nil {
				return err
			}
			for _, v := range []string{config.RunnerVar, config.AgentVar} {
				env.Setenv(v, os.Getenv(v))
			}
			home := env.Getenv(config.HomeVar)
			env.Defer(func() { nothingLeft(t, home) })
			env.Defer(func() { removeAll(t, env) })
			return nil
		}})
}

// commands are the scripts' own. usage and config run a command line that is wrong, with its exit code of 2 or 1, and look
// for its error and its hint, which are all that it prints.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"usage":  func(ts *testscript.TestScript, _ bool, args []string) { wrong(ts, 2, args) },
	"config": func(ts *testscript.TestScript, _ bool, args []string) { wrong(ts, 1, args) },
	"exits":  exits,
	"keys":   keys,
	"ended":  ended,
}

// ended waits until a sandbox is recorded as stopped: ended NAME
func ended(ts *testscript.TestScript, _ bool, args []string) {
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec("msb", "inspect", args[0], "--format", "json"))
		if last = ts.ReadFile("stdout"); strings.Contains(last, `"status": "Stopped"`) {
			return
		}
	}
	ts.Fatalf("%s has not ended:\n%s", args[0], last)
}

// keys compares the keys of the JSON in stdout with a shape of contract msb-0.6 §1.3, beside which there are own ones: keys SHAPE
// [OWN...]. A shape is {KEY,...}, or [{KEY,...}] of an array that has elements, or [].
func keys(ts *testscript.TestScript, _ bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("no JSON: %v", err)
	}
	if got := shape(v, args[1:]); got != args[0] {
		ts.Fatalf("the JSON is %s, want %s", got, args[0])
	}
}

// shape is that of v, without the keys own. Of an array all elements have the same.
func shape(v any, own []string) string {
	switch v := v.(type) {
	case map[string]any:
		names := slices.Sorted(maps.Keys(v))
		return "{" + strings.Join(slices.DeleteFunc(names, func(n string) bool { return slices.Contains(own, n) }), ",") + "}"
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, shape(e, own))
		}
		return "[" + strings.Join(slices.Compact(all), " ") + "]"
	}
	return fmt.Sprintf("%T", v)
}

// exits runs a command that has to end with an exit code: exits CODE COMMAND...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || fmt.Sprint(exit.ExitCode()) != args[0] {
		ts.Fatalf("%q: %v, want exit code %s", args[1:], err, args[0])
	}
}

// wrong runs args[0] and looks for args[1] in its error and args[2] in its hint.
func wrong(ts *testscript.TestScript, code int, args []string) {
	words := strings.Fields(args[0])
	err := ts.Exec(words[0], words[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		ts.Fatalf("%s: %v, want exit code %d", args[0], err, code)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("%s: printed %q", args[0], out)
	}
	text := ts.ReadFile("stderr")
	first, rest, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(first, "error: ") || !strings.Contains(first, args[1]) {
		ts.Fatalf("%s: error is %q, want %q", args[0], first, args[1])
	}
	if len(args) > 2 && !strings.Contains(rest, args[2]) {
		ts.Fatalf("%s: hint is %q, want %q", args[0], rest, args[2])
	}
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "  → ") {
			ts.Fatalf("%s: more than one error: %q", args[0], text)
		}
	}
}

// setup gives each script a home of its own and nothing of this machine's settings.
func setup(env *testscript.Env) error {
	env.Setenv(config.HomeVar, filepath.Join(env.WorkDir, "home"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TERM", "xterm")
	for _, v := range []string{config.RunnerVar, config.AgentVar, "NO_COLOR"} {
		env.Setenv(v, "")
	}
	return nil
}

// removeAll removes the sandboxes that a script has kept.
func removeAll(t *testing.T, env *testscript.Env) {
	msb := func(args ...string) string {
		cmd := exec.Command("msb", args...)
		cmd.Path = filepath.Join(strings.Split(env.Getenv("PATH"), ":")[0], "msb") // that of the scripts
		cmd.Env = env.Vars
		cmd.Err = nil
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("msb %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	if _, err := os.Stat(filepath.Join(env.Getenv(config.HomeVar), "db")); err != nil {
		return // nothing was ever kept
	}
	if names := strings.Fields(msb("ls", "-q")); len(names) > 0 {
		msb(append([]string{"rm", "-f", "-q"}, names...)...)
	}
}

// nothingLeft fails t when a sandbox that was run in home is still there.
func nothingLeft(t *testing.T, home string) {
	dirs, _ := filepath.Glob(filepath.Join(home, "sandboxes", "*", "*"))
	for _, dir := range dirs {
		t.Errorf("left behind: %s", dir)
	}
	left, _ := os.ReadDir(filepath.Join(home, "run"))
	for _, e := range left {
		if e.Name() == ".lock" { // of the directory itself
			continue
		}
		t.Errorf("left behind: %s", filepath.Join(home, "run", e.Name()))
	}
}

// built is where build put the binaries, "" before.
var built string

var build = sync.OnceValue(func() (err error) {
	if built, err = os.MkdirTemp("", "msb-test-"); err != nil {
		return err
	}
	if err := os.Chmod(built, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-o", built+"/", "../msb-runner", "../msb-agent").CombinedOutput(); err != nil {
		return fmt.Errorf("build the runner and the agent: %w\n%s", err, out)
	}
	return nil
})

// needSandboxes skips t where no sandbox can run, and sees to it that the environment names a runner and an agent.
func needSandboxes(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no sandboxes")
	}
	if os.Getenv(config.RunnerVar) == "" {
		if err := build(); err != nil {
			t.Fatal(err)
		}
		t.Setenv(config.RunnerVar, filepath.Join(built, config.Runner))
		t.Setenv(config.AgentVar, filepath.Join(built, config.Agent))
	}
	report := doctor.Examine(t.Context(), doctor.Machine{Home: t.TempDir()})
	if !report.Ready() && os.Geteuid() == 0 {
		t.Fatalf("root can run no sandbox here: %+v", report.Checks)
	} else if !report.Ready() {
		t.Skipf("no sandbox can run here: %+v", report.Checks)
	}
}

// ordinaryID is a user that this machine need not know.
const ordinaryID = 54321

// TestAsOrdinaryUser runs all the tests again without privileges, if it has some to give up.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is an ordinary user already")
	}
	needSandboxes(t)
	dir := shared(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{self: "msb.test", os.Getenv(config.RunnerVar): config.Runner, os.Getenv(config.AgentVar): config.Agent} {
		copyFile(t, from, filepath.Join(dir, to))
	}
	if err := os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "user")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, ordinaryID, ordinaryID); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "cache")
	if mine, err := os.UserCacheDir(); err == nil {
		copyCache(t, filepath.Join(mine, "msb-testimage"), filepath.Join(cache, "msb-testimage"), "busybox-*", "debs-busybox-*")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "msb.test"), "-test.v", "-test.count=1", "-test.skip=TestPython") // which is both users itself
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "XDG_CACHE_HOME=" + cache,
		config.RunnerVar + "=" + filepath.Join(dir, config.Runner), config.AgentVar + "=" + filepath.Join(dir, config.Agent)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryID, Gid: ordinaryID, NoSetGroups: false}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
	if both := strings.Contains(string(out), "--- PASS: TestSandboxes") && strings.Contains(string(out), "--- PASS: TestImages"); !both && err == nil {
		t.Errorf("not all of it ran as an ordinary user:\n%s", out)
	}
}

// shared is a directory that every user may read.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "msb-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyCache copies those entries of the cache of test images that there are: another user may not look into ours.
func copyCache(t *testing.T, from, to string, entries ...string) {
	t.Helper()
	for _, pattern := range entries {
		found, _ := filepath.Glob(filepath.Join(from, pattern))
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || !info.IsDir() {
				continue
			}
			if err := os.CopyFS(filepath.Join(to, filepath.Base(path)), os.DirFS(path)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}
