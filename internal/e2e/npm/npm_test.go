// Package npm drives our server with the official packages of the contract's release, as they are published: the command line msb and the
// SDK. There is nothing in it but tests. They are skipped where npm, or its registry, is not to be had.
package npm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// release is the one of the official packages, and the sums are those of what is in them.
const (
	release  = "0.6.18"
	platform = "@superradcompany/microsandbox-linux-x64-gnu"
)

var sums = map[string]string{
	"bin/msb":                         "7db51e83d83947ec28ec6c29e26435a1d8696be7b6aba6cc67da8b07dac9a347",
	"microsandbox.linux-x64-gnu.node": "7780441c2c173cc26f56c56b643d0ac84c8087c48cde017a168783069d373a53",
}

// patience bounds each command.
const patience = time.Minute

var bin string // the directory of our binaries

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if bin = os.Getenv("MSB_BIN"); bin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "msb-npm-bin")
	if err == nil {
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/msb", "./cmd/msb-runner", "./cmd/msb-agent", "./cmd/msb-server")
		cmd.Dir, cmd.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the binaries:", err)
		return 1
	}
	bin = dir
	return m.Run()
}

// packages returns the directory where the official packages are, which is kept for the next time.
func packages(t *testing.T) string {
	t.Helper()
	if runtime.GOOS+runtime.GOARCH != "linuxamd64" || testing.Short() {
		t.Skip("the official packages are for linux/amd64, and not for -short")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("there is no npm")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "microsandbox-official-"+release)
	if intact(dir) != nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		spec, err := os.ReadFile("testdata/package.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "package.json"), spec, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("the official packages are not to be had: %v\n%s", err, out)
		}
	}
	if err := intact(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// intact checks that the packages are what was published.
func intact(dir string) error {
	for name, want := range sums {
		f, err := os.Open(filepath.Join(dir, "node_modules", platform, name))
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if have := hex.EncodeToString(sum.Sum(nil)); err != nil || have != want {
			return fmt.Errorf("%s has the sum %s, %v", name, have, err)
		}
	}
	return nil
}

// world is a server of ours and who uses it.
type world struct {
	*testing.T
	top, home, url string
	official, own  string // the two msb
	npm            string
	env            []string
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, npm: packages(t), own: filepath.Join(bin, "msb")}
	w.official = filepath.Join(w.npm, "node_modules", platform, "bin/msb")
	var err error
	if w.top, err = os.MkdirTemp("/tmp", "npm"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.top) })
	w.home = filepath.Join(w.top, "server")
	leakcheck.Check(t, leakcheck.Home(w.home, "tls", "bin/*", "images/*", "run/.lock", "db/*", "logs/*", "namespaces", "sandboxes", "sandboxes/default", "volumes", "volumes/default", "server.key"), leakcheck.Binaries(bin), leakcheck.Within(10*time.Second))
	t.Cleanup(func() {
		w.local("server", "stop")
		if names := strings.Fields(w.local("ls", "-q").out); len(names) > 0 {
			w.local(append([]string{"rm", "-f"}, names...)...)
		}
		for _, name := range strings.Fields(w.local("volume", "ls", "-q").out) {
			w.local("volume", "rm", name)
		}
	})
	// Values of secrets are kept under it.
	if err := errors.Join(os.MkdirAll(w.home, 0o700), os.WriteFile(filepath.Join(w.home, "server.key"), []byte("0123456789abcdefghijklmnopqrstuv"), 0o600)); err != nil {
		t.Fatal(err)
	}
	w.serve("0")
	w.env = []string{"MSB_BACKEND=cloud", "MSB_API_URL=" + w.url, "MSB_API_KEY=msb_test", "MSB_HOME=" + filepath.Join(w.top, "client")}
	return w
}

// serve starts the server on a port.
func (w *world) serve(port string) {
	w.Helper()
	if r := w.local("server", "start", "--dev", "--detach", "--port", port); r.code != 0 {
		w.Fatalf("server start: %s", r.err)
	}
	data, err := os.ReadFile(filepath.Join(w.home, "server.json"))
	var state struct{ URL string }
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil {
		w.Fatal(err)
	}
	w.url = state.URL
}

type result struct {
	out, err string
	code     int
}

// clean is the environment without what says where sandboxes are.
func clean(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MSB_") {
			env = append(env, e)
		}
	}
	return append(env, more...)
}

// local runs our msb on the server's machine.
func (w *world) local(args ...string) result {
	w.Helper()
	return w.command(exec.Command(w.own, args...), "", "MSB_HOME="+w.home)
}

// command runs a command to its end.
func (w *world) command(c *exec.Cmd, stdin string, env ...string) result {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args[1:]...)
	cmd.Dir, cmd.Env = cmp(c.Dir, w.top), clean(env...)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		w.Errorf("%v does not end", c.Args)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func cmp(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestSDK runs what testdata/sdk.mjs says.
func TestSDK(t *testing.T) {
	w := newWorld(t)
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node")
	}
	script, err := os.ReadFile("testdata/sdk.mjs")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.npm, fmt.Sprintf("test-%d.mjs", os.Getpid())) // modules are looked for above the script
	if err := os.WriteFile(path, script, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(path) })
	r := w.command(exec.Command(node, path), "", w.env...)
	if r.code != 0 || !strings.HasSuffix(r.out, "done\n") {
		t.Errorf("exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

// line is one command line, which both msb are given. {s} is a sandbox of its own for each, {f} a directory.
type line struct {
	args   string // split at spaces; what is in 'quotes' stays together
	stdin  string
	code   int
	theirs int    // the official one's exit code where that is another
	out    string // a regular expression for the whole of stdout, without the newline at its end
	ours   bool   // only ours can
	differ string // why ours prints something else; "" is that it prints the same
}

// created are the parts of an output that are different each time.
var created = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[^" \n]*`)

// TestCommands gives the official msb and ours the same command lines, on the same server: both do what the contract says, and print the
// same (contract msb-0.6 §1.3).
func TestCommands(t *testing.T) {
	const words = "the original's cloud client does not look into the spec that it gets (contract msb-0.6 §1.3)"
	lines := []line{
		{args: "create --name {s} -m 256M --env A=b --workdir /usr --label k=v host"},
		{args: "create --name {s} host", code: 1},
		{args: "exec {s} -- echo hi", out: "hi"},
		{args: "exec {s} -- sh -c 'echo out; sleep 0.3; echo err >&2; exit 7'", code: 7, out: "out"},
		{args: "exec {s} -- sh -c 'echo $A; pwd'", out: "b\n/usr"},
		{args: "exec {s} -e A=c -w /tmp -- sh -c 'echo $A; pwd'", out: "c\n/tmp"},
		{args: "exec {s} --user 1000 -- id -u", out: "1000"},
		{args: "exec {s} -- cat", stdin: "one\ntwo\n", out: "one\ntwo"},
		{args: "exec --stream {s} -- cat", stdin: "one\ntwo\n", out: "one\ntwo"},
		{args: "exec --timeout 1s {s} -- sleep 60", code: 1},
		{args: "exec {s} -- sh -c 'kill -9 $$'", code: 137, theirs: 255}, // a signal is -1 to the original; ours says which, as shells do
		{args: "exec {s} -- sh -c 'seq 20000 | tail -n 1'", out: "20000"},
		{args: "exec {s}-none -- true", code: 1},
		{args: "ls", out: `NAME +IMAGE +STATUS +CREATED\n{s} .*`, differ: words},
		{args: "ls -q", out: "{s}"},
		{args: "ls -q --label k=v", out: "{s}"},
		{args: "ls -q --label k=other", out: ""},
		{args: "ls --format json", out: `(?s)\[.*"name": "{s}",\n    "status": "Running"\n  }\n\]`, differ: words},
		{args: "status {s}", out: `NAME .*\n{s} .*`, differ: words},
		{args: "status {s} --format json", out: `(?s){.*"status": "Running".*}`, differ: words},
		{args: "inspect {s}", out: `(?s)Name: +{s}\nStatus: +[Rr]unning.*`, differ: words},
		{args: "inspect {s} --format json", out: `(?s){.*"name": "{s}".*}`, differ: "ours has the domain's form, as on the local backend"},
		{args: "inspect {s}-none", code: 1},
		{args: "context --format json", out: `(?s){.*"kind": "cloud".*"source": "MSB_BACKEND".*}`},
		{args: "cp {f}/in {s}:/root/in"},
		{args: "exec {s} -- sh -c 'cat /root/in/a /root/in/sub/b; stat -c %a /root/in/a'", out: "alpha\nbeta\n640"},
		{args: "cp {s}:/root/in {f}/out"},
		{args: "cp {s}:/root/in/a {f}/back"},
		{args: "cp {s}:/none {f}/none", code: 1},
		{args: "run --name {s}-n -m 256M host -- echo named", out: "named"},
		{args: "run --name {s}-n host -- echo again", out: "again"},
		{args: "run -m 256M host -- sh -c 'echo brief; exit 5'", code: 5, out: "brief"},
		{args: "run -m 256M host -- cat", stdin: "piped\n", out: "piped", differ: "the original sends no input here, and waits for ever", ours: true},
		{args: "run -d --name {s}-d -m 256M host -- sleep 600", out: "{s}-d"},
		{args: "status {s}-d --format json", out: `(?s){.*"status": "Running".*}`, differ: words},
		{args: "exec {s}-d -- sh -c 'echo $$ >/dev/null; echo beside'", out: "beside"},
		{args: "stop {s}-d"},
		{args: "status {s}-d --format json", out: `(?s){.*"status": "Stopped".*}`, differ: words},
		{args: "rm {s}-d {s}-n"},
		{args: "ls -q", out: "{s}"},
		{args: "exec {s} -- sh -c 'echo kept >/kept; sync'"},
		{args: "stop {s}"},
		{args: "stop {s}-none", code: 1},
		{args: "logs -f {s}", out: `(?s)hi\nout\nerr\nb\n/usr\nc\n/tmp\n1000\none\ntwo\none\ntwo\n20000\nalpha\nbeta\n640`},
		{args: "start {s}"},
		{args: "exec {s} -- cat /kept", out: "kept"},
		{args: "restart {s}"},
		{args: "exec {s} -- cat /kept", out: "kept"},
		{args: "start {s}-none", code: 1},
		{args: "stop {s}"},
		{args: "exec {s} -- echo woken", out: "woken"},
		{args: "ssh {s} -- echo 'over ssh'", out: "over ssh"},
		{args: "ssh {s} -- exit 6", code: 6},
		{args: "volume create {s}-v", out: "{s}-v"},
		{args: "volume create {s}-v", code: 1},
		{args: "volume list", out: `NAME .*\n{s}-v .*`, differ: "ours says what is used, too"},
		{args: "volume rm {s}-v"},
		{args: "volume rm {s}-v", code: 1},
		{args: "rm {s}-none", code: 1},
		{args: "rm -f {s}"},
		{args: "ls -q", out: ""},
		{args: "no-such-command", code: 2},
	}
	w := newWorld(t)
	who := []struct{ path, name string }{{w.official, "off"}, {w.own, "own"}}
	for _, p := range who {
		dir := filepath.Join(w.top, p.name)
		for name, content := range map[string]string{"in/a": "alpha\n", "in/sub/b": "beta\n"} {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)); err != nil {
				t.Fatal(err)
			}
		}
	}
	said := make([][]string, len(who)) // one after the other: each sees its own sandboxes only
	for n, p := range who {
		fill := strings.NewReplacer("{s}", p.name, "{f}", filepath.Join(w.top, p.name))
		for i, l := range lines {
			if l.ours && p.path != w.own {
				said[n] = append(said[n], "")
				continue
			}
			r := w.command(exec.Command(p.path, split(fill.Replace(l.args))...), l.stdin, w.env...)
			out := strings.TrimSuffix(r.out, "\n")
			code := l.code
			if l.theirs != 0 && p.path == w.official {
				code = l.theirs
			}
			if want := "^" + fill.Replace(l.out) + "$"; r.code != code || !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("%s, line %d, %s: exit code %d, want %d; stdout\n%s\nwant\n%s\nstderr %s", p.name, i, l.args, r.code, code, out, want, r.err)
			}
			if r.code != 0 && r.err == "" && l.code == 1 {
				t.Errorf("%s, line %d, %s: it fails without a word", p.name, i, l.args)
			}
			said[n] = append(said[n], created.ReplaceAllString(strings.ReplaceAll(out, p.name, "NAME"), "TIME"))
		}
		if data, err := os.ReadFile(filepath.Join(w.top, p.name, "out/sub/b")); string(data) != "beta\n" || err != nil {
			t.Errorf("%s: copied back is %q, %v", p.name, data, err)
		}
	}
	for i, l := range lines {
		if a, b := said[0][i], said[1][i]; a != b && l.differ == "" {
			t.Errorf("line %d, %s: the official msb prints\n%s\nours\n%s", i, l.args, a, b)
		}
	}
}

// split splits a command line.
func split(s string) []string {
	var all []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	return all
}

// TestTerminals uses the official msb at a terminal.
func TestTerminals(t *testing.T) {
	w := newWorld(t)
	if r := w.command(exec.Command(w.official, "create", "--name", "tty", "-m", "256M", "host"), "", w.env...); r.code != 0 {
		t.Fatal(r.err)
	}
	for _, c := range []struct {
		args  []string
		ready string // when keys are typed
		keys  string
		sees  string
		code  int
	}{
		{[]string{"exec", "tty", "--", "sh"}, "[$#] $", "stty size; tty; echo =$((40+2))=; exit 5\n", "(?s)31 101.*/dev/pts/.*=42=", 5},
		{[]string{"run", "-m", "256M", "host", "--", "sh", "-c", "echo ready; read a; echo got $a; exit 4"}, "ready", "a line\n", "got a line", 4},
		{[]string{"ssh", "tty"}, "[$#] $", "echo =$((40+2))=; exit 3\n", "=42=", 3},
	} {
		cmd := exec.Command(w.official, c.args...)
		cmd.Dir, cmd.Env = w.top, clean(append(w.env, "TERM=xterm")...)
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 31, Cols: 101})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() {
			ready := regexp.MustCompile(c.ready)
			for buf, typed := make([]byte, 4096), false; ; {
				n, err := tty.Read(buf)
				if out.Write(buf[:n]); !typed && ready.Match(out.Bytes()) {
					typed = true
					_, _ = tty.WriteString(c.keys)
				}
				if err != nil { // EIO at its end
					break
				}
			}
			done <- cmd.Wait()
		}()
		select {
		case <-done:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-done
			t.Errorf("%v does not end", c.args)
		}
		tty.Close()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !regexp.MustCompile(c.sees).MatchString(out.String()) {
			t.Errorf("%v: exit code %d, want %d; it printed %q", c.args, code, c.code, out.String())
		}
	}
}
