package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// What an msb that is this test's binary does at the steps of a create, start, stop or remove (local.OnStep).
const (
	stepsVar = "MSB_TEST_STEPS" // append each to this file
	killVar  = "MSB_TEST_KILL"  // kill itself at the step of that number, the first being 0
)

func hookSteps() {
	file, kill := os.Getenv(stepsVar), os.Getenv(killVar)
	if file == "" && kill == "" {
		return
	}
	n := 0
	local.OnStep(func(step string) {
		if kill == strconv.Itoa(n) {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		n++
		if f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err == nil {
			_, _ = fmt.Fprintln(f, step)
			_ = f.Close()
		}
	})
}

// renamer is a process that renames a sandbox.
func renamer() {
	hookSteps()
	b := local.New(local.Config{Home: os.Getenv(config.HomeVar)})
	_, err := b.Rename(context.Background(), sandbox.DefaultRef(os.Args[1]), sandbox.Name(os.Args[2]))
	if err = errors.Join(err, b.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stepper runs an msb that is this binary.
type stepper struct {
	t    *testing.T
	self string
	home string
}

// run runs msb to its end, with variables.
func (s *stepper) run(env []string, args ...string) (out string, err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.self, args...)
	cmd.Args[0] = "msb"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), config.HomeVar + "=" + s.home, config.RunnerVar + "=" + os.Getenv(config.RunnerVar),
		config.AgentVar + "=" + os.Getenv(config.AgentVar)}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("msb %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), err
}

func (s *stepper) ok(args ...string) string {
	s.t.Helper()
	out, err := s.run(nil, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// status is what is recorded of the sandbox, "" if there is none.
func (s *stepper) status(name string) string {
	s.t.Helper()
	out, err := s.run(nil, "inspect", name, "--format", "json")
	if err != nil {
		if !strings.Contains(err.Error(), "sandbox not found") {
			s.t.Error(err)
		}
		return ""
	}
	var info struct{ Status string }
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		s.t.Fatal(err)
	}
	return info.Status
}

// truth checks that what is on the machine is what the records say, once the processes that the kill ended have gone, and that it
// is one of those statuses.
func (s *stepper) truth(when string, want ...string) (status string) {
	s.t.Helper()
	var wrong []string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, wrong = s.look(); len(wrong) == 0 && slices.Contains(want, status) {
			return status
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%s: recorded as %q, want one of %q\n  %s", when, status, want, strings.Join(wrong, "\n  "))
			return status
		}
	}
}

func (s *stepper) look() (status string, wrong []string) {
	s.t.Helper()
	status = s.status("it")
	count := func(pattern string) []string {
		found, _ := filepath.Glob(filepath.Join(s.home, pattern))
		return found
	}
	dirs, runs := count("sandboxes/default/*"), slices.DeleteFunc(count("run/*"), func(p string) bool { return filepath.Base(p) == ".lock" })
	switch running := status == "Running"; {
	case status == "Starting":
		wrong = append(wrong, "nobody starts it")
	case status == "" && len(dirs) > 0, status != "" && (len(dirs) != 1 || filepath.Base(dirs[0]) != "it"):
		wrong = append(wrong, fmt.Sprintf("directories: %v", dirs))
	case running && len(runs) != 1, !running && len(runs) > 0:
		wrong = append(wrong, fmt.Sprintf("run directories: %v", runs))
	case running:
		if _, err := s.run(nil, "exec", "it", "--", "true"); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if hidden := append(count("sandboxes/default/.*"), count("run/.tmp*")...); len(hidden) > 0 {
		wrong = append(wrong, fmt.Sprintf("left: %v", hidden))
	}
	return status, wrong
}

// TestKilledAtEachStep kills msb at every step of what it does to a sandbox that is kept. The next command finds the truth and
// leaves nothing of what does not count, and the same can be done then.
func TestKilledAtEachStep(t *testing.T) {
	needSandboxes(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	create := []string{"create", "-q", "--name", "it", "host"}
	mark := []string{"exec", "it", "--", "sh", "-c", "echo mark >/mark; sync"}
	for _, c := range []struct {
		name   string
		before [][]string
		args   []string
		after  []string // what it is then; the first is that of a success
	}{
		{"create", nil, create, []string{"Running", "Stopped", "Crashed", ""}},
		{"create that replaces", [][]string{create}, []string{"create", "-q", "--replace", "--name", "it", "host"}, []string{"Running", "Stopped", "Crashed", ""}},
		{"create that fails", nil, []string{"create", "-q", "--name", "it", "-u", "nosuchuser", "host"}, []string{"Stopped", ""}},
		{"run", nil, []string{"run", "-q", "--name", "it", "host", "--", "true"}, []string{"Stopped", "Crashed", ""}},
		{"start", [][]string{create, mark, {"stop", "-q", "it"}}, []string{"start", "-q", "it"}, []string{"Running", "Stopped", "Crashed"}},
		{"exec of a stopped one", [][]string{create, mark, {"stop", "-q", "it"}}, []string{"exec", "-q", "it", "--", "true"}, []string{"Stopped", "Crashed"}},
		{"restart", [][]string{create, mark}, []string{"restart", "-q", "it"}, []string{"Running", "Stopped", "Crashed"}},
		{"stop", [][]string{create, mark}, []string{"stop", "-q", "it"}, []string{"Stopped", "Running", "Crashed"}},
		{"stop by force", [][]string{create, mark}, []string{"stop", "-f", "-q", "it"}, []string{"Stopped", "Running", "Crashed"}},
		{"remove", [][]string{create, {"stop", "-q", "it"}}, []string{"rm", "-q", "it"}, []string{"", "Stopped"}},
		{"remove by force", [][]string{create}, []string{"rm", "-f", "-q", "it"}, []string{"", "Running", "Stopped", "Crashed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, err := os.MkdirTemp("/tmp", "steps")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(home) })
			s := &stepper{t: t, self: self, home: home}
			leakcheck.Check(t, leakcheck.Home(home, "bin/*", "images/*", "run/.lock", "db/*", "sandboxes/default"), leakcheck.Within(10*time.Second))
			t.Cleanup(func() {
				if s.status("it") != "" {
					s.ok("rm", "-f", "-q", "it")
				}
			})
			kept := slices.ContainsFunc(c.before, func(a []string) bool { return slices.Equal(a, mark) })
			list := filepath.Join(t.TempDir(), "steps")
			prepare := func() {
				t.Helper()
				if s.status("it") != "" {
					s.ok("rm", "-f", "-q", "it")
				}
				for _, args := range c.before {
					s.ok(args...)
				}
			}

			prepare()
			fails := c.name == "create that fails"
			if _, err := s.run([]string{stepsVar + "=" + list}, c.args...); (err != nil) != fails {
				t.Fatal(err)
			}
			s.truth("after all", c.after[0])
			b, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			steps := strings.Split(strings.TrimSpace(string(b)), "\n")
			t.Logf("%d steps: %s", len(steps), strings.Join(steps, ", "))
			for n, step := range steps {
				prepare()
				_, err := s.run([]string{killVar + "=" + strconv.Itoa(n)}, c.args...)
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != -1 {
					t.Errorf("%s: it was not killed: %v", step, err)
				}
				when := "killed at " + step
				status := s.truth(when, c.after...)
				if kept {
					if out, err := s.run(nil, "exec", "-q", "it", "--", "cat", "/mark"); out != "mark\n" || err != nil {
						t.Errorf("%s: its file is lost: %q, %v", when, out, err)
					}
					status = s.truth(when+" and used", "Running", "Stopped")
				}
				// The same again, unless it was done, or what is there is in the way.
				_, err = s.run(nil, c.args...)
				inTheWay := c.args[0] == "create" && status != "" && !slices.Contains(c.args, "--replace")
				done := c.args[0] == "rm" && status == "" || c.args[0] == "stop" && status != "Running" || c.args[0] == "rm" && !slices.Contains(c.args, "-f") && status == "Running"
				switch {
				case inTheWay && !fails:
					if err == nil || !strings.Contains(err.Error(), "sandbox already exists") {
						t.Errorf("%s, %q, again: %v", when, status, err)
					}
				case done || fails:
					if err == nil {
						t.Errorf("%s, %q, again: no error", when, status)
					}
				case err != nil:
					t.Errorf("%s, %q, again: %v", when, status, err)
				default:
					s.truth(when+", again", c.after[0])
				}
			}
		})
	}
}
