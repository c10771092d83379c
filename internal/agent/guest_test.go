package agent

import (
	"os"
	"path/filepath"
	"reflect"

	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestMergeEnv(t *testing.T) {
	root := func() string { return "/root" }
	for _, c := range []struct {
		name       string
		base, over []string
		home       func() string
		want       []string
	}{
		{"nothing", nil, nil, func() string { return "" }, []string{"PATH=/.msb/scripts:" + defaultPath}},
		{"home", nil, nil, root, []string{"HOME=/root", "PATH=/.msb/scripts:" + defaultPath}},
		{"its own", []string{"HOME=/h", "PATH=/bin"}, nil, root, []string{"HOME=/h", "PATH=/.msb/scripts:/bin"}},
		{"over", []string{"A=1", "PATH=/bin", "B=2"}, []string{"A=3", "HOME="}, root, []string{"A=3", "PATH=/.msb/scripts:/bin", "B=2", "HOME="}},
		{"once", []string{"HOME=/"}, []string{"PATH=/.msb/scripts:/bin"}, root, []string{"HOME=/", "PATH=/.msb/scripts:/bin"}},
		{"twice", []string{"A=1", "A=2", "HOME=/", "PATH=x"}, nil, root, []string{"A=2", "HOME=/", "PATH=/.msb/scripts:x"}},
		{"rubbish", []string{"novalue", "=x", "", "HOME=/", "PATH=x"}, nil, root, []string{"HOME=/", "PATH=/.msb/scripts:x"}},
	} {
		if have := mergeEnv(c.base, c.over, c.home); !reflect.DeepEqual(have, c.want) {
			t.Errorf("%s: have %q, want %q", c.name, have, c.want)
		}
	}
}

// etc makes a root with the two files that users come from.
func etc(t *testing.T, passwd, group string) *userDB {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &userDB{root: root}
}

func TestUsers(t *testing.T) {
	db := etc(t, "root:x:0:0:root:/root:/bin/sh\n\nbroken\nann:x:1000:100:Ann:/home/ann:/bin/sh\n1000:x:7:8::/seven:\nbad:x:many:0:::\n",
		"users:x:100:\nwheel:x:10:root,ann\ndocker:x:20:ann\nbroken:x\nodd:x:many:ann\n")
	for spec, want := range map[string]identity{
		"":           ownIdentity(),
		"root":       {0, 0, []uint32{10}},
		"ann":        {1000, 100, []uint32{10, 20}},
		"ann:docker": {1000, 20, nil},
		"ann:55":     {1000, 55, nil},
		"1000":       {7, 8, nil}, // a name comes before a number
		"7":          {7, 8, nil},
		"4000000000": {4000000000, 0, nil},
	} {
		if have, err := db.lookup(spec); err != nil || !reflect.DeepEqual(have, want) {
			t.Errorf("%q: have %+v, %v; want %+v", spec, have, err, want)
		}
	}
	for spec, want := range map[string]string{
		"bob": `unknown user "bob"`, "ann:nobody": `unknown group "nobody"`, "5000000000": `unknown user "5000000000"`, ":10": `unknown user ""`,
		"-1": `unknown user "-1"`, "bad": `user "bad" has a malformed entry in /etc/passwd`, "ann:-1": `unknown group "-1"`,
	} {
		if id, err := db.lookup(spec); err == nil || err.Error() != want {
			t.Errorf("%q: have %+v, %v; want %s", spec, id, err, want)
		}
	}
	if home := db.home(1000); home != "/home/ann" {
		t.Errorf("have %q", home)
	}
}

// The guest changes its files, removes them, and puts things in their place that are no files.
func TestUsersChange(t *testing.T) {
	db := etc(t, "ann:x:1:1::/:\n", "")
	passwd := filepath.Join(db.root, "etc", "passwd")
	if _, err := db.lookup("ann"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(passwd, []byte("bobby:x:22:2::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if id, err := db.lookup("bobby"); err != nil || id.uid != 22 {
		t.Errorf("have %+v, %v", id, err)
	}
	_ = os.Remove(passwd)
	if err := syscall.Mkfifo(passwd, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := db.lookup("bobby"); err == nil {
		t.Error("a FIFO has users")
	}
	_ = os.Remove(passwd)
	if id, err := db.lookup("5:6"); err != nil || id.uid != 5 || id.gid != 6 {
		t.Errorf("numbers need no file: %+v, %v", id, err)
	}
}

// A session that does not read holds up the others for a while, then loses its input.
func TestInboxStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInbox()
		chunkOf := func(n int) chunk { return chunk{data: make([]byte, n)} }
		if !in.push(chunkOf(maxInbox)) {
			t.Fatal("an empty inbox is full")
		}
		go func() { // progress keeps it alive
			for range 4 {
				time.Sleep(inboxStall * 3 / 4)
				c, _ := in.pop()
				in.done(len(c.data))
			}
		}()
		for range 4 {
			if !in.push(chunkOf(maxInbox)) {
				t.Fatal("a session that reads was given up")
			}
		}
		begin := time.Now()
		if in.push(chunkOf(1)) {
			t.Error("a session that does not read was not given up")
		}
		if took := time.Since(begin); took != inboxStall {
			t.Errorf("after %v", took)
		}
		in.close()
		if !in.push(chunkOf(1)) {
			t.Error("a closed inbox stalls")
		}
		if _, ok := in.pop(); ok {
			t.Error("a closed inbox has something")
		}
	})
}

func TestReaper(t *testing.T) {
	// A child that ended is not signalled, even though its group may be.
	r := newReaper(false)
	c, err := r.start(func() (int, error) {
		return syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if status := <-c.exit; !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("have %v", status)
	}
	if err := r.signal(c, syscall.SIGKILL); err != syscall.ESRCH {
		t.Errorf("have %v", err)
	}
	r.killAll()
	if _, err := r.start(func() (int, error) { return 0, syscall.ENOENT }); err != syscall.ENOENT {
		t.Errorf("have %v", err)
	}
}

// TestReaperNumbers: who waited for a child that was reaped meanwhile leaves the next one with its number alone.
func TestReaperNumbers(t *testing.T) {
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 7"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	newReaper(false).waitFor(&child{pid: pid, reaped: true, exit: make(chan syscall.WaitStatus, 1)})
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 7 {
		t.Errorf("have %v, %v", status, err)
	}
}

// TestWaitEmpty: who waits for the last process does not wait for patience first.
func TestWaitEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReaper(true)
		r.empty = false
		go r.waitEmpty()
		synctest.Wait()
		select {
		case <-r.hasten:
		default:
			t.Error("PID 1 does not wait yet")
		}
		r.mu.Lock()
		r.empty = true
		r.changed.Broadcast()
		r.mu.Unlock()
	})
}

// TestQuickFile: of a file whose reads block, none is made without telling the Go runtime.
func TestQuickFile(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		var fds [2]int
		if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if err := syscall.SetNonblock(fds[0], !blocking); err != nil {
			t.Fatal(err)
		}
		r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
		if _, quick := quickFile(r).(*quick); quick == blocking {
			t.Errorf("blocking: %v, quick: %v", blocking, quick)
		}
		_ = r.Close()
		_ = w.Close()
	}
}

func TestErrnoKinds(t *testing.T) {
	for e, want := range map[syscall.Errno]agentproto.FailureKind{
		syscall.ENOENT: agentproto.FailNotFound, syscall.ENOTDIR: agentproto.FailBadCwd, syscall.EACCES: agentproto.FailPermissionDenied,
		syscall.EPERM: agentproto.FailPermissionDenied, syscall.ENOEXEC: agentproto.FailNotExecutable, syscall.EISDIR: agentproto.FailNotExecutable,
		syscall.ETXTBSY: agentproto.FailNotExecutable, syscall.E2BIG: agentproto.FailBadArgs, syscall.ELOOP: agentproto.FailBadArgs,
		syscall.ENAMETOOLONG: agentproto.FailBadArgs, syscall.EFAULT: agentproto.FailBadArgs, syscall.EMFILE: agentproto.FailResourceLimit,
		syscall.ENFILE: agentproto.FailResourceLimit, syscall.EAGAIN: agentproto.FailResourceLimit, syscall.ENOMEM: agentproto.FailOutOfMemory,
		syscall.EIO: agentproto.FailOther,
	} {
		if have := kindOf(e); have != want {
			t.Errorf("%v is %s, want %s", e, have, want)
		}
	}
	if n, name := errno(syscall.EPIPE); n != 32 || name != "EPIPE" {
		t.Errorf("have %d %s", n, name)
	}
}
