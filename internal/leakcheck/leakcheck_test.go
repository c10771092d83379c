package leakcheck_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

func TestMain(m *testing.M) {
	if os.Getenv("LEAKCHECK_SLEEP") != "" {
		time.Sleep(time.Minute)
	}
	os.Exit(m.Run())
}

// recorder is a test that ends when end is called, and keeps what it is told.
type recorder struct {
	testing.TB
	cleanups []func()
	said     string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.said += fmt.Sprintf(format, args...)
}

func (r *recorder) end() string {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return r.said
}

// leaks runs a test that leaves what take takes, and finds that it is told by a line with all the words. Then it gives it back.
func leaks(t *testing.T, take func() (giveBack func()), words []string, opts ...leakcheck.Option) {
	t.Helper()
	r := &recorder{TB: t}
	leakcheck.Check(r, append(opts, leakcheck.Within(50*time.Millisecond))...)
	giveBack := take()
	said := r.end()
	giveBack()
	for l := range strings.SplitSeq(said, "\n") {
		found := 0
		for _, w := range words {
			if strings.Contains(l, w) {
				found++
			}
		}
		if found == len(words) {
			return
		}
	}
	t.Errorf("the leak was not told with the words %q:\n%s", words, said)
}

func TestNothing(t *testing.T) {
	home := t.TempDir()
	r := &recorder{TB: t}
	leakcheck.Check(r, leakcheck.Home(home, "images"), leakcheck.Goroutines())
	out, err := exec.Command("true").CombinedOutput()
	if err != nil {
		t.Fatal(err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := os.WriteFile(filepath.Join(home, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(home, "x")); err != nil {
		t.Fatal(err)
	}
	if said := r.end(); said != "" {
		t.Error(said)
	}
}

func TestWaitsForWhatVanishes(t *testing.T) {
	r := &recorder{TB: t}
	leakcheck.Check(r, leakcheck.Within(20*time.Second))
	cmd := exec.Command("sleep", "0.2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	start := time.Now()
	said := r.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if said != "" || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %s", time.Since(start), said)
	}
}

func TestChild(t *testing.T) {
	leaks(t, func() func() {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	}, []string{"process", "child", "sleep 60"})
}

func TestZombie(t *testing.T) {
	leaks(t, func() func() {
		cmd := exec.Command("true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() { _ = cmd.Wait() }
	}, []string{"process", "child", "state Z", "[true]"})
}

// orphan starts a process that is nobody's child, and returns how to end it.
func orphan(t *testing.T, env []string, command ...string) func() {
	t.Helper()
	sh := exec.Command("sh", append([]string{"-c", `"$@" >/dev/null 2>&1 </dev/null & echo $!`, "sh"}, command...)...)
	sh.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	sh.Dir = "/"
	out, err := sh.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	return func() { _ = unix.Kill(pid, unix.SIGKILL) }
}

func TestOrphan(t *testing.T) {
	home := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, command, words []string
		opts                []leakcheck.Option
	}{
		"environment": {[]string{"MSB_HOME=" + home}, []string{"sleep", "61"}, []string{"sleep 61", "environment"},
			[]leakcheck.Option{leakcheck.Home(home)}},
		"argument": {nil, []string{"tail", "-f", "/dev/null", home + "/none"}, []string{"tail", "names MSB_HOME"},
			[]leakcheck.Option{leakcheck.Home(home)}},
		"open file": {nil, []string{"tail", "-f", file}, []string{"tail"},
			[]leakcheck.Option{leakcheck.Home(home)}},
		"own binary": {[]string{"LEAKCHECK_SLEEP=1"}, []string{self}, []string{"runs the test's binary"}, nil},
		"binary below": {[]string{"LEAKCHECK_SLEEP=1"}, []string{self}, []string{"runs " + self},
			[]leakcheck.Option{leakcheck.Binaries(filepath.Dir(self))}},
	} {
		t.Run(name, func(t *testing.T) {
			leaks(t, func() func() {
				end := orphan(t, c.env, c.command...)
				time.Sleep(20 * time.Millisecond) // until it has become the command
				return end
			}, append(c.words, "process"), c.opts...)
		})
	}
}

// TestOfOthers finds that what other tests on the machine do does not count.
func TestOfOthers(t *testing.T) {
	mine, theirs := t.TempDir(), t.TempDir()
	r := &recorder{TB: t}
	leakcheck.Check(r, leakcheck.Home(mine), leakcheck.Within(50*time.Millisecond))
	defer orphan(t, []string{"MSB_HOME=" + theirs}, "sleep", "63")()
	if err := os.WriteFile(filepath.Join(theirs, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if said := r.end(); said != "" {
		t.Error(said)
	}
}

func TestFile(t *testing.T) {
	home := t.TempDir()
	keep := leakcheck.Home(home, "images", "bin/agent-*.erofs", "run/*/log")
	if err := os.MkdirAll(filepath.Join(home, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(p string) func() func() {
		return func() func() {
			p := filepath.Join(home, p)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return func() { _ = os.Remove(p); _ = os.Remove(filepath.Dir(p)) }
		}
	}
	leaks(t, write("old/x"), []string{"file", "old/x"}, keep)
	leaks(t, write("new/x"), []string{"file", "/new "}, keep)
	leaks(t, write("bin/agent"), []string{"file", "bin/agent"}, keep)
	leaks(t, write("run/1/other"), []string{"file", "run/1/other"}, keep)
	r := &recorder{TB: t}
	leakcheck.Check(r, keep, leakcheck.Within(0))
	for _, p := range []string{"images/host/1.erofs", "bin/agent-1.erofs", "run/2/log"} {
		write(p)()
	}
	if said := r.end(); said != "" {
		t.Errorf("what may be kept: %s", said)
	}
}

func TestOpenFileAndSocket(t *testing.T) {
	home := t.TempDir()
	leaks(t, func() func() {
		f, err := os.Open("/etc/passwd")
		if err != nil {
			t.Fatal(err)
		}
		return func() { f.Close() }
	}, []string{"open file", "/etc/passwd"})
	listen := func() func() {
		l, err := net.Listen("unix", filepath.Join(home, "agent.sock"))
		if err != nil {
			t.Fatal(err)
		}
		return func() { l.Close() }
	}
	leaks(t, listen, []string{"unix socket", home + "/agent.sock"}, leakcheck.Home(home))
	leaks(t, listen, []string{"open file", "socket:["}, leakcheck.Home(home))
	leaks(t, listen, []string{"file " + home + "/agent.sock"}, leakcheck.Home(home))
}

func TestGoroutine(t *testing.T) {
	leaks(t, func() func() {
		stop := make(chan bool)
		go func() { <-stop }()
		return func() { close(stop) }
	}, []string{"leakcheck_test.TestGoroutine"}, leakcheck.Goroutines())
}

func TestNamespaceOfAThread(t *testing.T) {
	needRoot(t)
	leaks(t, func() func() {
		ready, stop := make(chan error), make(chan bool)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			ready <- unix.Unshare(unix.CLONE_NEWNET)
			<-stop
		}()
		if err := <-ready; err != nil {
			t.Skip(err)
		}
		return func() { close(stop) }
	}, []string{"namespace", "net:["})
}

func TestNamespaceOfAProcess(t *testing.T) {
	leaks(t, func() func() {
		cmd := exec.Command("sleep", "64")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
		if err := cmd.Start(); err != nil {
			t.Skip(err)
		}
		return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	}, []string{"process", "own net:[", "user:[", "sleep 64"})
}

func TestMount(t *testing.T) {
	needRoot(t)
	home := t.TempDir()
	at := filepath.Join(home, "null-netns")
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	take := func() func() {
		if err := unix.Mount("/proc/self/ns/net", at, "", unix.MS_BIND, ""); err != nil {
			t.Skip(err)
		}
		return func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	leaks(t, take, []string{"mount", "null-netns", "nsfs"}, leakcheck.Home(home))
	leaks(t, take, []string{"mount", "null-netns", "nsfs"}, leakcheck.Alone())
}

func TestCgroup(t *testing.T) {
	var dir string
	for _, top := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		d := filepath.Join(top, fmt.Sprintf("msb-leakcheck-%d", os.Getpid()))
		var st unix.Statfs_t
		if unix.Statfs(top, &st) != nil || st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if os.Mkdir(d, 0o755) == nil {
			dir = d
			_ = os.Remove(d)
			break
		}
	}
	if dir == "" {
		t.Skip("no cgroup can be made here")
	}
	take := func() func() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
	leaks(t, take, []string{"cgroup", dir})
	leaks(t, take, []string{"cgroup", dir}, leakcheck.Cgroups("other", "msb-leakcheck"))
}

func TestTap(t *testing.T) {
	const name = "msbleak0"
	leaks(t, func() func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skip(err)
		}
		var req struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(req.name[:], name)
		req.flags = unix.IFF_TAP | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
			_ = unix.Close(fd)
			t.Skip(errno)
		}
		return func() { _ = unix.Close(fd) }
	}, []string{"network interface", name})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
