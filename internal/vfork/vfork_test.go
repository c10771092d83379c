package vfork

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain is also the program that is started: it says what it has got.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "say" {
		say()
		return
	}
	os.Exit(m.Run())
}

func say() {
	dir, _ := os.Getwd()
	sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	in, _ := io.ReadAll(os.Stdin)
	groups, _ := os.Getgroups()
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Println("args", os.Args[1:])
	fmt.Println("dir", dir)
	fmt.Println("env", strings.Join(os.Environ(), " "))
	fmt.Println("leader", int(sid) == os.Getpid())
	fmt.Println("stdin", string(in))
	fmt.Println("who", os.Getuid(), os.Getgid(), groups)
	for line := range strings.SplitSeq(string(status), "\n") {
		for _, key := range []string{"SigBlk:", "SigIgn:"} { // what a Go program has for itself, its own runtime has put over the rest
			if v, ok := strings.CutPrefix(line, key); ok {
				fmt.Println(key, strings.TrimSpace(v))
			}
		}
	}
	files, _ := os.ReadDir("/proc/self/fd")
	fmt.Println(len(files), "files")
	fmt.Fprintln(os.Stderr, "on stderr")
}

// outcome runs say by either way and returns what it said.
func outcome(t *testing.T, fork func(string, []string, *Attr) (int, error), attr Attr) string {
	t.Helper()
	var in, out, errs [2]int
	for _, p := range []*[2]int{&in, &out, &errs} {
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	attr.Files = []int{in[0], out[1], errs[1]}
	pid, err := fork(program(t), []string{"it", "say", "a b", ""}, &attr)
	for _, fd := range attr.Files {
		_ = syscall.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	to, from, also := os.NewFile(uintptr(in[1]), "in"), os.NewFile(uintptr(out[0]), "out"), os.NewFile(uintptr(errs[0]), "errs")
	defer from.Close()
	defer also.Close()
	_, _ = to.WriteString("input")
	_ = to.Close()
	said, err := io.ReadAll(io.MultiReader(from, also))
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
		t.Fatalf("it ended with %v, %v:\n%s", status, err, said)
	}
	return string(said)
}

// program is this test's, where every user may run it.
func program(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vfork")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	to := filepath.Join(dir, "say")
	from, err := os.Executable()
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(from)
	}
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// ordinary is the way of package syscall.
func ordinary(path string, argv []string, attr *Attr) (int, error) {
	sys := &syscall.ProcAttr{Dir: attr.Dir, Env: attr.Env, Sys: &syscall.SysProcAttr{Setsid: attr.Setsid, Credential: attr.Credential}}
	for _, fd := range attr.Files {
		sys.Files = append(sys.Files, uintptr(fd))
	}
	return syscall.ForkExec(path, argv, sys)
}

func own(path string, argv []string, attr *Attr) (int, error) {
	pid, err, ok := forkExec(path, argv, attr)
	if !ok {
		return 0, errors.New("this way was not taken")
	}
	return pid, err
}

func TestForkExec(t *testing.T) {
	env := []string{"A=1", "B=", "PATH=/bin"}
	for name, attr := range map[string]Attr{
		"plain":   {Env: env},
		"session": {Env: env, Setsid: true, Dir: "/"},
		"user":    {Env: env, Setsid: true, Dir: "/", Credential: &syscall.Credential{Uid: 12345, Gid: 54321, Groups: []uint32{7, 8}}},
	} {
		t.Run(name, func(t *testing.T) {
			if attr.Credential != nil && os.Getuid() != 0 {
				t.Skip("only root may become another user")
			}
			got, want := outcome(t, own, attr), outcome(t, ordinary, attr)
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if !strings.Contains(got, "stdin input") || !strings.Contains(got, "on stderr") {
				t.Errorf("it said\n%s", got)
			}
		})
	}
}

// TestErrors: an error is that of the call that failed, and nobody is left to be waited for.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		attr Attr
		want error
	}{
		{filepath.Join(dir, "nothing"), Attr{}, syscall.ENOENT},
		{text, Attr{}, syscall.ENOEXEC},
		{dir, Attr{}, syscall.EACCES},
		{"/bin/true", Attr{Dir: text}, syscall.ENOTDIR},
		{"/bin/true", Attr{Files: []int{987654}}, syscall.EBADF},
		{"/bin/\x00true", Attr{}, syscall.EINVAL},
		{"/bin/true", Attr{Env: []string{"A=\x00"}}, syscall.EINVAL},
	} {
		if _, err := own(c.path, []string{"it"}, &c.attr); err != c.want {
			t.Errorf("%q with %+v: %v, want %v", c.path, c.attr, err, c.want)
		}
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("there is a child: %d, %v", pid, err)
	}
}

// shell runs a line and returns what it printed.
func shell(line string) (code int, said string, err error) {
	var out [2]int
	if err := syscall.Pipe2(out[:], syscall.O_CLOEXEC); err != nil {
		return 0, "", err
	}
	from := os.NewFile(uintptr(out[0]), "out")
	defer from.Close()
	pid, err := own("/bin/sh", []string{"sh", "-c", line}, &Attr{Files: []int{out[1], out[1], out[1]}})
	_ = syscall.Close(out[1])
	if err != nil {
		return 0, "", err
	}
	b, _ := io.ReadAll(from)
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	return status.ExitStatus(), strings.TrimSpace(string(b)), err
}

// TestManyAtOnce: the memory is shared for a moment, by each with the one that started it alone.
func TestManyAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			kept := make([][]byte, 0, 50)
			for j := range 50 {
				kept = append(kept, bytes.Repeat([]byte{byte(j)}, 10_000))
				want := 10*i + j
				code, said, err := shell(fmt.Sprintf("echo %d; exit %d", want, want))
				if err != nil || code != want || said != strconv.Itoa(want) {
					t.Errorf("%d said %q and ended with %d, %v", want, said, code, err)
				}
			}
			for j, b := range kept {
				if !bytes.Equal(b, bytes.Repeat([]byte{byte(j)}, 10_000)) {
					t.Errorf("memory of round %d is broken", j)
				}
			}
		})
	}
	all.Wait()
}

// TestLimit: package os raises the limit of files for this process, and not for those that it starts.
func TestLimit(t *testing.T) {
	if os.Getenv("VFORK_LIMIT") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `ulimit -S -n 333 && exec "$0" -test.run '^TestLimit$'`, self)
		cmd.Env = append(os.Environ(), "VFORK_LIMIT=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if code, got, err := shell("ulimit -S -n"); err != nil || code != 0 || got != "333" {
		t.Errorf("the limit is %q, %d, %v, want 333", got, code, err)
	}
}

// TestFallback: files in each other's way are for package syscall.
func TestFallback(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, err := ForkExec("/bin/true", []string{"true"}, &Attr{Files: []int{2, 1, int(null.Fd())}})
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
		t.Errorf("it ended with %v, %v", status, err)
	}
}

// TestSignals: no handler of this process and no blocked signal is left to the new one, and what is ignored stays so.
func TestSignals(t *testing.T) {
	_, said, err := shell("exec cat /proc/self/status")
	if err != nil || !strings.Contains(said, "SigCgt:") {
		t.Fatalf("%v, it said %q", err, said)
	}
	const none = "0000000000000000"
	for _, line := range strings.Split(said, "\n") {
		if f := strings.Fields(line); len(f) == 2 && (f[0] == "SigBlk:" || f[0] == "SigCgt:") && f[1] != none {
			t.Errorf("%s", line)
		}
	}
}
