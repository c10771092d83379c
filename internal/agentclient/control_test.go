package agentclient_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agent"
	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentclient/agenttest"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestPingTouchReady(t *testing.T) {
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		ready := g.Client.Ready()
		if ready.ReadyTimeNS < ready.InitTimeNS || ready.InitTimeNS == 0 || !ready.Has(agentproto.TypeAck) || ready.AgentVersion == "" {
			t.Errorf("have %+v", ready)
		}
		if err := g.Client.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		before, err := g.Client.Touch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // is not activity
			_ = g.Client.Ping(t.Context())
		}
		if after, err := g.Client.Touch(t.Context()); err != nil || after != before+1 {
			t.Errorf("activity went from %d to %d, %v", before, after, err)
		}
		g.sh(t, "true")
		if after, err := g.Client.Touch(t.Context()); err != nil || after < before+4 {
			t.Errorf("activity went from %d to %d, %v", before, after, err)
		}
	})
}

// What the agent says to frames that are not as they should be.
func TestRefusals(t *testing.T) {
	request := agentproto.Encode(&agentproto.ExecRequest{Cmd: "true"})
	for _, c := range []struct {
		name  string
		flags agentproto.Flags
		t     agentproto.Type
		body  []byte
		kind  agentproto.ErrorKind
	}{
		{"unknown type", 0, "core.unknown", []byte{0xa0}, agentproto.UnsupportedType},
		{"not for an agent", 0, agentproto.TypeExecStarted, []byte{0xa0}, agentproto.UnsupportedType},
		{"flags", 0, agentproto.TypeExecRequest, request, agentproto.InvalidFlags},
		{"payload", agentproto.SessionStart, agentproto.TypeExecRequest, []byte{0xa0}, agentproto.InvalidPayload},
		{"payload is no map", agentproto.SessionStart, agentproto.TypeFSRequest, []byte{0x01}, agentproto.InvalidPayload},
		{"session 0", agentproto.SessionStart, agentproto.TypeExecRequest, request, agentproto.InvalidSession},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, host := rawGuest(t, agentproto.Bootstrap{})
			id := uint32(9)
			if c.kind == agentproto.InvalidSession {
				id = 0
			}
			if _, err := host.Write(agentproto.AppendRaw(nil, id, c.flags, c.t, c.body)); err != nil {
				t.Fatal(err)
			}
			m := g.next(t)
			var e agentproto.Error
			if err := agentproto.Decode(m.Payload, &e); m.Type != agentproto.TypeError || err != nil || e.Kind != c.kind || e.OffendingType != string(c.t) {
				t.Errorf("have %s %+v, %v", m.Type, e, err)
			}
		})
	}
	t.Run("malformed", func(t *testing.T) {
		g, host := rawGuest(t, agentproto.Bootstrap{})
		if _, err := host.Write([]byte{0, 0, 0, 6, 0, 0, 0, 9, 0, 0xff}); err != nil {
			t.Fatal(err)
		}
		var e agentproto.Error
		if m := g.next(t); agentproto.Decode(m.Payload, &e) != nil || e.Kind != agentproto.MalformedMessage {
			t.Errorf("have %+v", e)
		}
	})
	t.Run("length", func(t *testing.T) {
		g, host := rawGuest(t, agentproto.Bootstrap{})
		if _, err := host.Write([]byte{0xff, 0, 0, 6, 0, 0, 0, 9, 0, 0xff}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.frames.Next(); err == nil {
			t.Error("the agent goes on after a frame of 4 GiB")
		}
	})
}

// raw is an agent without a client.
type raw struct{ frames *agentproto.Reader }

// rawGuest brings an agent up and returns the connection to it.
func rawGuest(t *testing.T, b agentproto.Bootstrap) (*raw, net.Conn) {
	t.Helper()
	host, inner := agenttest.SocketPair(t)
	a := &agent.Agent{Conn: inner}
	done := make(chan error, 1)
	go func() { done <- a.Run() }()
	t.Cleanup(func() { _ = host.Close(); <-done })
	agenttest.Bootstrap(t, host, b)
	return &raw{agentproto.NewReader(host)}, host
}

func (g *raw) next(t *testing.T) agentproto.Message {
	t.Helper()
	f, err := g.frames.Next()
	if err != nil {
		t.Fatal(err)
	}
	m, err := agentproto.Open(f.Clone().Body())
	f.Release()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A client of another make has no windows. What it sends to a command that does not read waits in the agent, and the
// signal behind it arrives.
func TestForeignClient(t *testing.T) {
	g, host := rawGuest(t, agentproto.Bootstrap{})
	b := agentproto.Append(nil, 5, agentproto.TypeExecRequest, &agentproto.ExecRequest{Cmd: "sleep", Args: []string{"1000"}})
	for range 50 {
		b = agentproto.AppendData(b, 5, agentproto.TypeExecStdin, make([]byte, 64<<10))
	}
	b = agentproto.Append(b, 5, agentproto.TypeExecSignal, &agentproto.ExecSignal{Signal: 9})
	if _, err := host.Write(b); err != nil {
		t.Fatal(err)
	}
	if m := g.next(t); m.Type != agentproto.TypeExecStarted {
		t.Errorf("have %s", m.Type)
	}
	var exited agentproto.ExecExited
	m := g.next(t)
	for m.Type == agentproto.TypeExecStdinError { // the kill breaks the pipe
		m = g.next(t)
	}
	if m.Type != agentproto.TypeExecExited || agentproto.Decode(m.Payload, &exited) != nil || exited.Code != -1 {
		t.Errorf("have %s %+v", m.Type, exited)
	}
}

func TestShutdown(t *testing.T) {
	for name, start := range places {
		t.Run(name, func(t *testing.T) {
			leaks := goleak.IgnoreCurrent()
			g := startGuest(t, start, agentproto.Bootstrap{})
			var out buffer
			req := sh("trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.02; done")
			req.Stdout = &out
			s := g.start(t, req)
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			stubborn := g.start(t, sh("trap '' TERM; echo ready; while :; do sleep 0.02; done"))
			if _, err := stubborn.Recv(); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := g.Client.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if code, err := s.Wait(); code != 4 || err != nil || string(out) != "bye\n" {
				t.Errorf("have %d, %v, %q", code, err, out)
			}
			<-g.Client.Done()
			if took := time.Since(begin); took < time.Second || took > 4*time.Second {
				t.Errorf("took %v", took)
			}
			until(t, "the stubborn one is dead", func() bool { return !alive(int(stubborn.PID())) })
			stubborn.Close()
			g.stop(t)
			goleak.VerifyNone(t, leaks)
		})
	}
}

// files is a tar as a host sends it.
func files(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := h.PAXRecords["MSB.content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, PAXRecords: map[string]string{"MSB.content": content}}
}

// bringUp sends a bootstrap with files to an agent whose root is a directory, and returns how it ended.
func bringUp(t *testing.T, root string, archive []byte) error {
	t.Helper()
	host, inner := agenttest.SocketPair(t)
	a := &agent.Agent{Conn: inner, Root: root}
	done := make(chan error, 1)
	go func() { done <- a.Run() }()
	b := agentproto.Append(nil, 0, agentproto.TypeBootstrap, &agentproto.Bootstrap{Files: true})
	for len(archive) > 0 {
		n := min(len(archive), agentproto.MaxFilesChunk)
		b = agentproto.AppendData(b, 0, agentproto.TypeFiles, archive[:n])
		archive = archive[n:]
	}
	b = agentproto.AppendData(b, 0, agentproto.TypeFiles, nil)
	b = agentproto.Append(b, 0, agentproto.TypeInitAck, nil)
	go func() { _, _ = host.Write(b) }()
	frames := agentproto.NewReader(host)
	for {
		f, err := frames.Next()
		if err != nil {
			break
		}
		if agentproto.TypeOf(f.Body()) == agentproto.TypeReady {
			_ = host.Close()
		}
	}
	return <-done
}

func TestFiles(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "old"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 150)
	err := bringUp(t, root, files(t,
		&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o751},
		file("etc/hosts", "127.0.0.1 localhost\n", 0o644),
		file("/abs/"+long, strings.Repeat("y", 3<<20), 0o4755),
		file("old", "new", 0o600),
		&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "etc/hosts"},
		&tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "old"},
		file("../up", "stays below", 0o600),
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/hosts": "127.0.0.1 localhost\n", "old": "new", "hard": "new", "link": "127.0.0.1 localhost\n", "up": "stays below"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "etc")); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("have %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(root, "abs", long)); err != nil || info.Mode() != 0o755|os.ModeSetuid || info.Size() != 3<<20 {
		t.Errorf("have %v, %v", info.Mode(), err)
	}
}

// An archive cannot leave the guest's root, however it tries; links lead to where they do in the guest.
func TestFilesStayBelow(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	link := func(name, target string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
	}
	err := bringUp(t, root, files(t, link("a", outside), file("a/f", "absolute", 0o600),
		link("deep/r", "../../../../../.."+outside), file("deep/r/g", "relative", 0o600),
		link("run", "/var/run"), file("run/h", "in the root", 0o600), link("f", outside+"/f"), file("f", "replaced", 0o600)))
	if err != nil {
		t.Fatal(err)
	}
	if all, _ := os.ReadDir(outside); len(all) > 0 {
		t.Errorf("there is %v outside", all)
	}
	for name, want := range map[string]string{outside + "/f": "absolute", outside + "/g": "relative", "var/run/h": "in the root", "f": "replaced"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// TestFilesDevices has the devices of an image made. The guest's root is made to look as a sentry shows the image: character
// devices are not there, block devices have no numbers.
func TestFilesDevices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make devices")
	}
	root, outside := t.TempDir(), t.TempDir()
	at, before := time.Unix(1_600_000_000, 123_456_789), time.Unix(1_500_000_000, 987_654_321)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "files/null"), 0o755)) // as for a directory that is mounted there
	must(os.Mkdir(filepath.Join(root, "mnt"), 0o755))
	must(unix.Mknod(filepath.Join(root, "a/disk"), unix.S_IFBLK, 0))
	must(unix.Mknod(filepath.Join(root, "a/disk-too"), unix.S_IFBLK, 0))
	must(os.Symlink(outside, filepath.Join(root, "out")))
	must(os.Symlink("a", filepath.Join(root, "link")))
	must(os.Chown(filepath.Join(root, "a/b"), 0, 5))
	must(os.Chmod(filepath.Join(root, "a/b"), 0o755|os.ModeSetgid))
	must(unix.Mount("tmpfs", filepath.Join(root, "mnt"), "tmpfs", 0, ""))
	defer unix.Unmount(filepath.Join(root, "mnt"), 0)
	for _, dir := range []string{"a/b", "a", "files", "mnt"} {
		must(os.Chtimes(filepath.Join(root, dir), before, before))
	}
	device := func(typ byte, name, link string, mode int64, id int, major, minor int64) *tar.Header {
		return &tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: mode, Uid: id, Gid: id, ModTime: at, Devmajor: major, Devminor: minor, Format: tar.FormatPAX}
	}
	must(bringUp(t, root, files(t,
		device(tar.TypeBlock, "a/b/early", "", 0o600, 0, 7, 1),
		device(tar.TypeChar, "a/b/null", "", 0o666, 0, 1, 3),
		device(tar.TypeBlock, "a/disk", "", 0o2660, 6, 4095, 1<<20-1),
		device(tar.TypeBlock, "a/disk-too", "a/disk", 0o2660, 6, 4095, 1<<20-1),
		device(tar.TypeChar, "files/null", "", 0o666, 0, 1, 3),
		device(tar.TypeChar, "files/zero", "files/null", 0o666, 0, 1, 5),
		device(tar.TypeChar, "link/d", "", 0o666, 0, 1, 3),
		device(tar.TypeChar, "mnt/d", "", 0o666, 0, 1, 3),
		device(tar.TypeChar, "no/such/directory/d", "", 0o666, 0, 1, 3),
		device(tar.TypeChar, "out/d", "", 0o666, 0, 1, 3),
		file("a/b/early", "replaced", 0o600),
	)))
	for name, want := range map[string]string{
		"a/b/null": "20666 0:0 1:3 1", "a/disk": "62660 6:6 4095:1048575 2", "a/disk-too": "62660 6:6 4095:1048575 2", "files/zero": "20666 0:0 1:5 1",
	} {
		var st unix.Stat_t
		must(unix.Lstat(filepath.Join(root, name), &st))
		if got := fmt.Sprintf("%o %d:%d %d:%d %d", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Nlink); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(at) {
			t.Errorf("%s is of %v, want %v", name, got, at)
		}
	}
	for name, want := range map[string]time.Time{"a": before, "files": before, "mnt": before} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s is of %v, %v, want %v", name, info.ModTime(), err, want)
		}
	}
	for _, name := range []string{"a/d", "mnt/d", "no"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want nothing there", name, err)
		}
	}
	if all, _ := os.ReadDir(outside); len(all) > 0 {
		t.Errorf("there is %v outside", all)
	}
	if b, err := os.ReadFile(filepath.Join(root, "a/b/early")); string(b) != "replaced" {
		t.Errorf("a file in the place of a device: %q, %v", b, err)
	}
}

func TestFilesRefused(t *testing.T) {
	for name, archive := range map[string][]byte{
		"a loop":   files(t, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "l"}, file("l/f", "x", 0o600)),
		"a socket": files(t, &tar.Header{Name: "d", Typeflag: 's'}),
		"cut off":  files(t, file("f", "x", 0o600))[:512],
		"rubbish":  bytes.Repeat([]byte("x"), 2048),
	} {
		t.Run(name, func(t *testing.T) {
			if err := bringUp(t, t.TempDir(), archive); err == nil {
				t.Error("the agent came up")
			}
		})
	}
}

func TestBootstrapRefused(t *testing.T) {
	for name, b := range map[string]agentproto.Bootstrap{
		"no such user":  {User: "nosuchuser"},
		"block root":    {BlockRoot: &agentproto.BlockRoot{Kind: "disk-image", Device: "/dev/vda"}},
		"no such limit": {Rlimits: []agentproto.Rlimit{{Resource: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			host, inner := agenttest.SocketPair(t)
			done := make(chan error, 1)
			go func() { done <- (&agent.Agent{Conn: inner}).Run() }()
			if _, err := host.Write(agentproto.Append(nil, 0, agentproto.TypeBootstrap, &b)); err != nil {
				t.Fatal(err)
			}
			g := &raw{agentproto.NewReader(host)}
			if m := g.next(t); m.Type != agentproto.TypeError {
				t.Errorf("have %s", m.Type)
			}
			if err := <-done; err == nil {
				t.Error("the agent came up")
			}
			_ = host.Close()
		})
	}
}

func TestAckTimeout(t *testing.T) {
	host, inner := agenttest.SocketPair(t)
	done := make(chan error, 1)
	go func() { done <- (&agent.Agent{Conn: inner, AckTimeout: 20 * time.Millisecond}).Run() }()
	if _, err := host.Write(agentproto.Append(nil, 0, agentproto.TypeBootstrap, &agentproto.Bootstrap{})); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no core.init.ack within 20ms") {
		t.Errorf("have %v", err)
	}
	_ = host.Close()
}

// TestNoFileIsLeft: an agent that ends has no file open, although it keeps pipes for the next command.
func TestNoFileIsLeft(t *testing.T) {
	round := func() int {
		g := startGuest(t, inProcess, agentproto.Bootstrap{})
		for range 3 {
			g.sh(t, "true")
		}
		g.stop(t)
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	first := round() // the poller's come with the first
	if again := round(); again > first {
		t.Errorf("%d files are open after one agent, %d after another", first, again)
	}
}

// As PID 1 the agent adopts orphans and reaps them, and its end is the end of all.
func TestPID1(t *testing.T) {
	var pid int
	start := func(t *testing.T, inner net.Conn) func() error {
		f, err := inner.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		_ = inner.Close()
		_ = syscall.SetNonblock(int(f.Fd()), false)
		cmd := exec.Command(binary(t))
		cmd.ExtraFiles = []*os.File{f}
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		err = cmd.Start()
		_ = f.Close()
		if err != nil {
			t.Skipf("no namespaces: %v", err)
		}
		pid = cmd.Process.Pid
		return cmd.Wait
	}
	g := startGuest(t, start, agentproto.Bootstrap{Hostname: "guest", SecurityProfile: agentproto.ProfileRestricted})
	if out := g.sh(t, "uname -n; echo $PPID"); out != "guest\n1\n" {
		t.Errorf("have %q", out)
	}
	if out := g.sh(t, "grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/thread-self/status"); !strings.Contains(out, "NoNewPrivs:\t1") {
		t.Errorf("have %q", out)
	}
	for range 20 {
		g.sh(t, "for i in 1 2 3 4 5; do (setsid sleep 0.01 >/dev/null 2>&1 &) ; done")
	}
	g.tree(t)
	req := sh("ulimit -Sn")
	req.Rlimits = []sandbox.Rlimit{{Resource: "nofile", Soft: 50, Hard: 60}}
	if out, _, code := g.output(t, req); out != "50\n" || code != 0 {
		t.Errorf("have %q, %d", out, code)
	}
	until(t, "all orphans are reaped", func() bool {
		return zombies(pid) == 0
	})
	g.stop(t)
}

// zombies counts the dead children of a process.
func zombies(parent int) (n int) {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
	for _, file := range tasks {
		b, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(b)) {
			stat, _ := os.ReadFile("/proc/" + child + "/stat")
			if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "Z") {
				n++
			}
		}
	}
	return n
}

func TestGreeting(t *testing.T) {
	ready := func(gen byte) []byte {
		b := agentproto.Append(nil, 0, agentproto.TypeReady, &agentproto.Ready{})
		b[4+5+3] = gen
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		kind sandbox.Kind
	}{
		{"nothing", nil, sandbox.NotRunning},
		{"half", []byte{0, 0, 0, 1}, sandbox.NotRunning},
		{"an old agent", agentproto.Append(nil, 0, agentproto.TypeReady, nil), sandbox.Protocol},
		{"an empty range", agentproto.AppendWords(nil, 9<<24, 8<<24), sandbox.Protocol},
		{"not ready", agentproto.Append(agentproto.AppendWords(nil, 1, 1<<24), 0, agentproto.TypePong, nil), sandbox.Protocol},
		{"too long", append(agentproto.AppendWords(nil, 1, 1<<24), 0xff, 0, 0, 0, 0, 0, 0, 0, 0), sandbox.Protocol},
	} {
		conn := agenttest.Greeted(nothing{}, c.data)
		if _, err := agentclient.Connect(t.Context(), conn); !errors.Is(err, c.kind) {
			t.Errorf("%s: have %v", c.name, err)
		}
	}

	// A peer of generation 4 is not asked for what came later.
	host, inner := net.Pipe()
	go func() { _, _ = host.Write(append(agentproto.AppendWords(nil, 1, 1<<24), ready(4)...)) }()
	c, err := agentclient.Connect(t.Context(), inner)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Ping(t.Context())
	want := "the sandbox runtime is too old for 'core.ping' (needs protocol generation 6, the sandbox speaks 4); restart the sandbox to update its runtime"
	if !errors.Is(err, sandbox.Unsupported) || err.Error() != want {
		t.Errorf("have %v", err)
	}
	_ = c.Close()
	_ = host.Close()

	host, inner = net.Pipe()
	defer host.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := agentclient.Connect(ctx, inner); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have %v", err)
	}
}

// nothing is a connection that has ended.
type nothing struct{ net.Conn }

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }
func (nothing) Close() error             { return nil }
