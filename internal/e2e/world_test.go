package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The ordinary user. No such user needs to exist.
const (
	userID  = 12345
	groupID = 12345
)

// patience is how long any one command may take before it counts as hung.
const patience = 3 * time.Minute

// world is one test's MSB_HOME and who uses it.
type world struct {
	t    *testing.T
	top  string // a directory of that user, with a short path
	home string // MSB_HOME, below top
	user bool   // an ordinary user, not root
	env  []string
}

// each runs a test as root and as an ordinary user, or only as the latter when the suite has no privileges itself.
func each(t *testing.T, test func(w *world)) {
	for _, user := range []bool{false, true} {
		if !user && os.Geteuid() != 0 {
			continue
		}
		t.Run(map[bool]string{false: "root", true: "user"}[user], func(t *testing.T) {
			test(newWorld(t, user))
		})
	}
}

// newWorld makes a world of which nothing may be left when the test ends but what may be kept in any MSB_HOME, and keep.
func newWorld(t *testing.T, user bool, keep ...string) *world {
	top, err := os.MkdirTemp("/tmp", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, top: top, home: filepath.Join(top, "h"), user: user}
	w.own(top)
	w.mkdir(w.home)
	w.check(w.home, keep...)
	return w
}

// check removes all sandboxes of a home when the test ends, and then looks for leaks.
func (w *world) check(home string, keep ...string) {
	leakcheck.Check(w.t, leakcheck.Home(home, slices.Concat(kept, keep)...), leakcheck.Binaries(bin), leakcheck.Cgroups(cgroup.Name(home, "")))
	w.t.Cleanup(func() { w.removeAll(home) })
}

// kept is what may be left in a home: what the next sandbox needs again, and the records, of which removeAll has seen that they
// are empty.
var kept = []string{"tls", "bin/agent-*.erofs", "images/host/*.erofs", "images/[^h]*", "run/.lock", "db/msb.db", "db/msb.db-wal", "db/msb.db-shm"}

// removeAll removes the sandboxes of a home, and then the directories of namespaces, which have to be empty by then.
func (w *world) removeAll(home string) {
	w.t.Helper()
	if _, err := os.Stat(state.DBPath(home)); err != nil {
		return // nothing was ever kept
	}
	for _, ns := range w.rows(home)["namespaces"] {
		cmd := w.msb("--namespace", ns, "ls", "-q")
		cmd.Env = append(cmd.Env, "MSB_HOME="+home)
		if names := strings.Fields(w.finish(cmd).out); len(names) > 0 {
			cmd = w.msb(append([]string{"--namespace", ns, "rm", "-f", "-q"}, names...)...)
			cmd.Env = append(cmd.Env, "MSB_HOME="+home)
			if r := w.finish(cmd); r.code != 0 {
				w.t.Errorf("msb rm -f %v: exit code %d, stderr %q", names, r.code, clip(r.err))
			}
		}
	}
	for table, rows := range w.rows(home) {
		if len(rows) > 0 {
			w.t.Errorf("left in the records, table %s: %d rows, of which the first is %s", table, len(rows), rows[0])
		}
	}
	for _, top := range []string{"sandboxes", "volumes"} {
		spaces, _ := os.ReadDir(filepath.Join(home, top))
		for _, ns := range spaces {
			_ = os.Remove(filepath.Join(home, top, ns.Name())) // what is left in it is a leak
		}
		_ = os.Remove(filepath.Join(home, top))
	}
}

// rows are the records of a home by their tables, without what SQLite keeps for itself, and the namespaces of the sandboxes.
func (w *world) rows(home string) map[string][]string {
	w.t.Helper()
	conn, err := sqlite.OpenConn(state.DBPath(home), sqlite.OpenReadWrite)
	w.must(err)
	defer conn.Close()
	conn.SetBusyTimeout(patience)
	all := map[string][]string{}
	query := func(table, query string) {
		w.must(sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			var line []string
			for i := range s.ColumnCount() {
				line = append(line, s.ColumnText(i))
			}
			all[table] = append(all[table], strings.Join(line, "|"))
			return nil
		}}))
	}
	query("", "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
	for _, table := range all[""] {
		if table == "usage" {
			continue // of a run, which outlives its sandbox
		}
		query(table, "SELECT * FROM "+table)
	}
	delete(all, "")
	query("namespaces", "SELECT DISTINCT namespace FROM sandbox")
	return all
}

// own gives a file to the world's user.
func (w *world) own(path string) {
	if w.user && os.Geteuid() == 0 {
		w.must(os.Chown(path, userID, groupID))
	}
}

func (w *world) mkdir(path string) {
	w.t.Helper()
	w.must(os.MkdirAll(path, 0o755))
	w.own(path)
}

func (w *world) write(path, body string, mode os.FileMode) {
	w.t.Helper()
	w.must(os.WriteFile(path, []byte(body), mode))
	w.own(path)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// credential is what makes a process one of the world's user; nil is no change.
func (w *world) credential() *syscall.Credential {
	if w.user && os.Geteuid() == 0 {
		return &syscall.Credential{Uid: userID, Gid: groupID}
	}
	return nil
}

// environ is the whole environment of msb.
func (w *world) environ() []string {
	return append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + w.top, "MSB_HOME=" + w.home}, w.env...)
}

// command prepares any program as the world's user. It is killed when the test is over or patience is.
func (w *world) command(path string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.Dir = "/"
	cmd.Env = w.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.credential()}
	return cmd
}

// msb prepares an msb.
func (w *world) msb(args ...string) *exec.Cmd { return w.command(filepath.Join(bin, "msb"), args...) }

// result is what a command did.
type result struct {
	code     int
	out, err string
	took     time.Duration
}

// run runs msb to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.finish(w.msb(args...))
}

// finish runs a command that was prepared to its end, with what of its output has no place yet.
func (w *world) finish(cmd *exec.Cmd) result {
	w.t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	begin := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		w.t.Fatalf("%s did not start: %v", strings.Join(cmd.Args, " "), err)
	}
	r := result{code: exitCode(cmd), out: out.String(), err: errs.String(), took: time.Since(begin)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("%s: %v\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), err, clip(r.out), clip(r.err))
	}
	if r.took >= patience {
		w.t.Fatalf("%s hung\nstdout: %s\nstderr: %s", strings.Join(cmd.Args, " "), clip(r.out), clip(r.err))
	}
	return r
}

// exitCode is as a shell says it: 128 and the signal's number for a killed process.
func exitCode(cmd *exec.Cmd) int {
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// guest runs a command in a new sandbox and returns its output. Anything but exit code 0 and an empty stderr ends the test.
func (w *world) guest(args ...string) string {
	w.t.Helper()
	return w.ok(append([]string{"run", "host", "--"}, args...)...)
}

// ok runs msb, which has to succeed without a word on stderr.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 || r.err != "" {
		w.t.Fatalf("msb %s: exit code %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.code, clip(r.out), clip(r.err))
	}
	return r.out
}

// background starts a sandbox of that name without a command. It is kept, and removed before the leaks are looked for.
func (w *world) background(name string, flags ...string) {
	w.t.Helper()
	if out := w.ok(append([]string{"run", "-d", "-q", "--name", name}, append(flags, "host")...)...); out != name+"\n" {
		w.t.Fatalf("msb run -d printed %q", out)
	}
}

// inspect is what msb says of a sandbox.
func (w *world) inspect(name string) (info struct {
	ID          string
	Status      string
	Confinement sandbox.Confinement
	End         *sandbox.End
}) {
	w.t.Helper()
	w.must(json.Unmarshal([]byte(w.ok("inspect", name, "--format", "json")), &info))
	return info
}

// runner is the process id of a running sandbox's runner.
func (w *world) runner(name string) int {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.runDir(name), "running.json"))
	w.must(err)
	var running struct{ PID int }
	w.must(json.Unmarshal(b, &running))
	return running.PID
}

func (w *world) runDir(name string) string {
	return filepath.Join(w.home, "run", sandbox.DefaultRef(name).ShortID())
}

// group is the name of the control groups of a sandbox.
func (w *world) group(name string) string {
	return cgroup.Name(w.home, sandbox.DefaultRef(name).ShortID())
}

// groups is how the names of the control groups of all sandboxes begin.
func (w *world) groups() string { return cgroup.Name(w.home, "") }

// errorLine checks that stderr is one error and its hints, and returns it without "error: ".
func (w *world) errorLine(r result) string {
	w.t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	message, ok := strings.CutPrefix(lines[0], "error: ")
	hints := !slices.ContainsFunc(lines[1:], func(l string) bool { return !strings.HasPrefix(l, "  → ") })
	if !ok || !hints || r.code == 0 {
		w.t.Errorf("want one error with its hints and an exit code, got exit code %d and:\n%s", r.code, clip(r.err))
	}
	return message
}

// clip shortens what is too much to read.
func clip(s string) string {
	const most = 4000
	if len(s) > most {
		return s[:most] + "… and " + strconv.Itoa(len(s)-most) + " bytes more"
	}
	return s
}

// until polls, and returns false when what it waits for did not come in time.
func until(within time.Duration, done func() bool) bool {
	for end := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func itoa[T ~int | ~uint16](n T) string { return strconv.Itoa(int(n)) }
