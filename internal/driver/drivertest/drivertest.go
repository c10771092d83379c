// Package drivertest is the suite that every [driver.Driver] passes: what a sandbox gets, how it ends, and that nothing is left of it,
// whatever happened in between.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
)

// Options are what the sandboxes of the suite start from. All fields are needed.
type Options struct {
	RootImage string        // EROFS file; what Binds adds to it has a sh and coreutils
	Binds     []driver.Bind // read-only
	Agent     string        // EROFS file
	Home      string        // a directory that nothing but the files above may be left in; Keep says which
	Keep      []string      // as leakcheck.Home has them
}

// Run tests a driver. The calling process must be as a runner is: in namespaces of its own, and able to answer for the driver's
// children.
func Run(t *testing.T, d driver.Driver, o Options) {
	for name, test := range map[string]func(*suite){
		"Life": life, "Guest": guest, "Ends": ends, "Disk": disk, "Gauges": gauges, "Failures": failures, "Cancellation": cancellation, "Together": together,
	} {
		t.Run(name, func(t *testing.T) {
			leakcheck.Check(t, leakcheck.Home(o.Home, append([]string{"work"}, o.Keep...)...), leakcheck.Within(10*time.Second))
			work := filepath.Join(o.Home, "work")
			if err := os.Mkdir(work, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(work) })
			test(&suite{T: t, driver: d, opt: o, work: work})
		})
	}
}

// patience is how long anything that has to come may take.
const patience = time.Minute

type suite struct {
	*testing.T
	driver driver.Driver
	opt    Options
	work   string // of this test

	mu sync.Mutex
	n  int // sandboxes so far
}

// box is a sandbox and its agent.
type box struct {
	s    *suite
	inst driver.Instance
	*agentclient.Client
	exit chan driver.Exit
}

// config is that of a new sandbox, and the host's end of its control connection.
func (s *suite) config(edit func(*driver.Config)) (driver.Config, *os.File) {
	s.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.Fatal(err)
	}
	s.mu.Lock()
	s.n++
	id := fmt.Sprintf("suite%d", s.n)
	s.mu.Unlock()
	cfg := driver.Config{ID: id, RootImage: s.opt.RootImage, Binds: slices.Clone(s.opt.Binds), Agent: s.opt.Agent, Hostname: "suite",
		Tmpfs: []driver.Tmpfs{{Target: "/tmp"}}, Control: os.NewFile(uintptr(fds[0]), "guest's end"), CPUs: 1, MemoryBytes: 256 << 20, Log: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&cfg)
	}
	return cfg, os.NewFile(uintptr(fds[1]), "host's end")
}

// start starts a sandbox and waits for its agent. It is destroyed after the test.
func (s *suite) start(edit func(*driver.Config), b agentproto.Bootstrap) (*box, error) {
	cfg, control := s.config(edit)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	inst, err := s.driver.Start(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, control.Close())
	}
	x := &box{s: s, inst: inst, exit: make(chan driver.Exit, 1)}
	s.T.Cleanup(func() {
		if err := inst.Destroy(); err != nil {
			s.Error(err)
		}
	})
	conn, err := net.FileConn(control)
	_ = control.Close()
	if err != nil {
		return nil, err
	}
	if x.Client, err = greet(ctx, conn, b); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s.T.Cleanup(func() { _ = x.Client.Close() })
	go func() { x.exit <- inst.Wait() }()
	return x, nil
}

func (s *suite) up(edit func(*driver.Config), b agentproto.Bootstrap) *box {
	s.Helper()
	x, err := s.start(edit, b)
	if err != nil {
		s.Fatal(err)
	}
	return x
}

// greet does what a runner does with an agent before its clients come.
func greet(ctx context.Context, conn net.Conn, b agentproto.Bootstrap) (*agentclient.Client, error) {
	b.DefaultEnv = []agentproto.EnvVar{{Key: "PATH", Value: "/usr/bin:/bin:/usr/sbin:/sbin"}}
	hello := agentproto.Append(nil, 0, agentproto.TypeBootstrap, &b)
	if _, err := conn.Write(agentproto.Append(hello, 0, agentproto.TypeInitAck, nil)); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetReadDeadline(deadline)
	frames := agentproto.NewReader(conn)
	for {
		f, err := frames.Next()
		if err != nil {
			return nil, fmt.Errorf("the agent: %w", err)
		}
		kind, raw := agentproto.TypeOf(f.Body()), slices.Clone(f.Raw())
		f.Release()
		switch kind {
		case agentproto.TypeReady:
			_ = conn.SetReadDeadline(time.Time{})
			start, end := agentproto.IDRange(0)
			greeting := append(agentproto.AppendWords(nil, start, end), raw...)
			return agentclient.Connect(ctx, struct {
				io.Reader
				io.WriteCloser
			}{io.MultiReader(bytes.NewReader(greeting), conn), conn})
		case agentproto.TypeError:
			return nil, fmt.Errorf("the agent refuses: %q", raw)
		}
	}
}

// sh runs a script, which prints want.
func (x *box) sh(script, want string) {
	x.s.Helper()
	var out bytes.Buffer
	c, err := x.Exec(context.Background(), agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", script}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	if err != nil {
		x.s.Fatalf("%s: %v", script, err)
	}
	if code, err := c.Wait(); code != 0 || err != nil || out.String() != want {
		x.s.Errorf("%s: printed %q, exit code %d, %v; want %q", script, out.String(), code, err, want)
	}
}

// ended waits for the end.
func (x *box) ended() driver.Exit {
	x.s.Helper()
	select {
	case e := <-x.exit:
		return e
	case <-time.After(patience):
		x.s.Fatal("it does not end")
		return driver.Exit{}
	}
}

// destroy gives all back, twice.
func (x *box) destroy() {
	x.s.Helper()
	for range 2 {
		if err := x.inst.Destroy(); err != nil {
			x.s.Error(err)
		}
	}
}

// gone fails the test when a process is there.
func (s *suite) gone(pid int) {
	s.Helper()
	if err := unix.Kill(pid, 0); err == nil {
		s.Errorf("process %d is there still", pid)
	}
}

// life is a sandbox that is used and asked to end.
func life(s *suite) {
	if s.driver.Name() == "" {
		s.Error("the driver has no name")
	}
	x := s.up(nil, agentproto.Bootstrap{})
	pid := x.inst.PID()
	if unix.Kill(pid, 0) != nil {
		s.Errorf("there is no process %d", pid)
	}
	x.sh("echo hello", "hello\n")
	if err := x.Shutdown(context.Background()); err != nil {
		s.Error(err)
	}
	if e := x.ended(); e.Signal != 0 || e.Cause != "" {
		s.Errorf("it ended as %+v", e)
	}
	x.destroy()
	s.gone(pid)
}

// guest is what a sandbox was configured with, as seen from inside.
func guest(s *suite) {
	dir := filepath.Join(s.work, "dir")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), []byte("of the host\n"), 0o644)); err != nil {
		s.Fatal(err)
	}
	x := s.up(func(c *driver.Config) {
		c.Binds = append(c.Binds, driver.Bind{Source: dir, Target: "/ro", ReadOnly: true}, driver.Bind{Source: dir, Target: "/rw"})
		c.Tmpfs = append(c.Tmpfs, driver.Tmpfs{Target: "/small", SizeBytes: 1 << 20})
		c.Hostname = "named"
	}, agentproto.Bootstrap{})
	x.sh("hostname", "named\n")
	x.sh("cat /ro/f; echo x 2>/dev/null >/ro/g || echo refused", "of the host\nrefused\n")
	x.sh("echo of the guest >/rw/g; cat /rw/g", "of the guest\n")
	if b, err := os.ReadFile(filepath.Join(dir, "g")); string(b) != "of the guest\n" {
		s.Errorf("the host reads %q, %v", b, err)
	}
	x.sh("head -c 2000000 /dev/zero 2>/dev/null >/small/f && echo fits || stat -c %s /small/f", "1048576\n")
	x.sh("echo written >/etc/here; cat /etc/here; mkdir /new; ls -d /new", "written\n/new\n")
	x.sh("ls /sys/class/net 2>/dev/null | grep -v '^lo$'; echo", "\n")
	x.sh("kb=$(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo); [ $kb -le 262144 ] && echo bounded", "bounded\n")
	x.sh("cat /proc/1/comm", "agent\n")
	x.destroy()
	if b, err := os.ReadFile(s.opt.RootImage); err != nil || bytes.Contains(b, []byte("written\n")) {
		s.Errorf("the guest has written to its image: %v", err)
	}
}

// ends are those that nobody asked the guest for.
func ends(s *suite) {
	for what, end := range map[string]func(*box){
		"killed":              func(x *box) { x.inst.Kill(); x.inst.Kill() },
		"killed from outside": func(x *box) { _ = unix.Kill(x.inst.PID(), unix.SIGKILL) },
		"destroyed":           func(x *box) { x.destroy() },
	} {
		x := s.up(nil, agentproto.Bootstrap{})
		c, err := x.Exec(context.Background(), agentclient.ExecRequest{Cmd: "/bin/sh", Args: []string{"-c", "echo runs; exec sleep 600"}})
		if err != nil {
			s.Fatal(err)
		}
		pid := x.inst.PID()
		end(x)
		if e := x.ended(); e.Signal != int(unix.SIGKILL) && what != "destroyed" {
			s.Errorf("%s: it ended as %+v", what, e)
		}
		if code, err := c.Wait(); err == nil {
			s.Errorf("%s: its command ended with %d", what, code)
		}
		x.destroy()
		s.gone(pid)
	}
}

// onDisk asks the agent for a root on the disk.
var onDisk = agentproto.Bootstrap{BlockRoot: &agentproto.BlockRoot{Kind: agentproto.RootOCI, Lower: "/",
	Upper: &agentproto.BlockUpper{Kind: agentproto.UpperDirectory, Device: driver.DiskTarget}}}

// disk is what the next sandbox finds, and that there is only one at a time.
func disk(s *suite) {
	dir := filepath.Join(s.work, "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.Fatal(err)
	}
	withDisk := func(c *driver.Config) { c.Disk = &driver.Disk{Source: dir, LimitBytes: 8 << 20} }
	x := s.up(withDisk, onDisk)
	x.sh("echo one >/one; chown 12:34 /one; chmod 640 /one; rm /etc/hostname; sync", "")
	if _, err := s.start(withDisk, onDisk); !errors.Is(err, driver.ErrDiskInUse) {
		s.Errorf("a disk for two: %v", err)
	}
	x.inst.Kill()
	x.ended()
	x.destroy()
	x = s.up(withDisk, onDisk)
	x.sh("stat -c %u:%g:%a /one; cat /one; ls /etc/hostname 2>/dev/null || echo gone", "12:34:640\none\ngone\n")
	x.sh("head -c 20000000 /dev/zero 2>/dev/null >/big || echo full; rm /big", "full\n")
	if d, ok := x.inst.(driver.Disks); ok {
		i := slices.IndexFunc(d.Disks(), func(u driver.DiskUsage) bool { return u.Target == driver.DiskTarget })
		if i < 0 || d.Disks()[i].LimitBytes != 8<<20 || d.Disks()[i].Inodes == 0 {
			s.Errorf("its use is %+v", d.Disks())
		}
	}
	x.destroy()
}

// gauges are what an instance can tell.
func gauges(s *suite) {
	x := s.up(nil, agentproto.Bootstrap{})
	x.sh("head -c 50000000 /dev/zero >/tmp/x", "")
	if m, ok := x.inst.(driver.Meter); ok {
		if n, err := m.Memory(); err != nil || n < 50<<20 || n > 1<<30 {
			s.Errorf("with 50 MB of files it holds %d bytes, %v", n, err)
		}
	}
	if g, ok := x.inst.(driver.Gauge); ok {
		if u, err := g.Usage(); err != nil || u.CPU == 0 || u.Guest < 50e6 || u.Resident == 0 {
			s.Errorf("it uses %+v, %v", u, err)
		}
	}
	if p, ok := x.inst.(driver.Processes); ok && !slices.Contains(p.PIDs(), x.inst.PID()) {
		s.Errorf("its processes %v have not %d among them", p.PIDs(), x.inst.PID())
	}
	x.destroy()
	if m, ok := x.inst.(driver.Meter); ok {
		if n, err := m.Memory(); err == nil && n > 0 {
			s.Errorf("when it is gone it holds %d bytes", n)
		}
	}
}

// failures are starts that cannot be. The driver has closed the control connection. A bind of nothing is not among them: whoever
// configures a driver has looked, and gVisor keeps a thread in the namespaces of a sandbox that failed so, until the runner ends.
func failures(s *suite) {
	text := filepath.Join(s.work, "text")
	if err := os.WriteFile(text, []byte("no image"), 0o600); err != nil {
		s.Fatal(err)
	}
	for what, edit := range map[string]func(*driver.Config){
		"an image that is not there": func(c *driver.Config) { c.RootImage = filepath.Join(s.work, "missing") },
		"an image that is a text":    func(c *driver.Config) { c.RootImage = text },
		"an agent that is not there": func(c *driver.Config) { c.Agent = filepath.Join(s.work, "missing") },
		"a disk that is not there":   func(c *driver.Config) { c.Disk = &driver.Disk{Source: filepath.Join(s.work, "missing")} },
	} {
		cfg, control := s.config(edit)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		inst, err := s.driver.Start(ctx, cfg)
		cancel()
		if err == nil {
			s.Errorf("%s: it starts", what)
			_ = inst.Destroy()
		}
		if n, err := control.Read(make([]byte, 1)); n != 0 || err == nil {
			s.Errorf("%s: the control connection is open", what)
		}
		_ = control.Close()
	}
}

// cancellation ends starts early, at times over a whole one.
func cancellation(s *suite) {
	for after := range 10 {
		cfg, control := s.config(nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(after)*8*time.Millisecond)
		inst, err := s.driver.Start(ctx, cfg)
		cancel()
		if err == nil {
			err = inst.Destroy()
		} else if ctx.Err() != nil {
			err = nil
		}
		if err != nil {
			s.Errorf("after %d ms: %v", after*8, err)
		}
		_ = control.Close()
	}
}

// together is a few at once.
func together(s *suite) {
	const n = 4
	var all sync.WaitGroup
	boxes := make([]*box, n)
	for i := range n {
		all.Go(func() {
			x, err := s.start(func(c *driver.Config) { c.Hostname = fmt.Sprint("box", i) }, agentproto.Bootstrap{})
			if err != nil {
				s.Errorf("box %d: %v", i, err)
			}
			boxes[i] = x
		})
	}
	all.Wait()
	for i, x := range boxes {
		if x != nil {
			x.sh("hostname; echo x >/etc/x", fmt.Sprintf("box%d\n", i))
		}
	}
	for _, x := range boxes {
		if x != nil {
			all.Go(x.destroy)
		}
	}
	all.Wait()
}
