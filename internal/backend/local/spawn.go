package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// child is a runner that this process started.
type child struct {
	logs  string // where the runner's log is
	info  sandbox.Info
	cmd   *exec.Cmd
	watch *os.File // closing it ends the sandbox, unless it was detached
	first chan launch.Word
	done  chan struct{} // closed when the runner is gone
	mu    sync.Mutex
	end   *sandbox.End
	cpu   time.Duration // that it computed, once it has ended
	began time.Time     // when its agent answered

	recorded atomic.Bool   // its run is in the records, and so its end has to be
	settled  chan struct{} // closed when its end is noted
}

// spawn starts a runner in its own session, mount namespace and, for anyone but root, user namespace. The runner shares
// the directory's lock, and holds the lease on the image from now on.
func (b *Backend) spawn(dir *state.Dir, runner string, lease *os.File, cfg launch.Config) (_ *child, err error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	keep := func(f *os.File, err error) *os.File {
		if err == nil {
			open = append(open, f)
		}
		return f
	}
	cfg.UserNS, cfg.SpawnedAt = !privileged(), time.Now()
	config, err := configFile(cfg)
	if keep(config, err); err != nil {
		return nil, err
	}
	wordsR, wordsW, err := os.Pipe()
	if keep(wordsW, err); err != nil {
		return nil, fmt.Errorf("make a pipe for the runner's words: %w", err)
	}
	watchR, watchW, err := os.Pipe()
	if keep(watchR, err); err != nil {
		wordsR.Close()
		return nil, fmt.Errorf("make a pipe to the runner: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	keep(null, err)
	var log *os.File
	if err == nil {
		log, err = openRunnerLog(cfg.LogDir)
		keep(log, err)
	}
	if err != nil {
		return nil, errors.Join(&sandbox.Error{Kind: sandbox.IO, Message: "start the runner", Err: err}, wordsR.Close(), watchW.Close())
	}

	files := make([]*os.File, launch.TableFD+1-3)
	for fd, f := range map[int]*os.File{launch.ConfigFD: config, launch.LockFD: dir.Lock, launch.ReadyFD: wordsW, launch.WatchFD: watchR, launch.ImageFD: lease, launch.TableFD: null} {
		files[fd-3] = f
	}
	cmd := &exec.Cmd{Path: runner, Args: []string{"msb-runner"}, Env: []string{}, Dir: "/", Stdin: null, Stdout: null, Stderr: log, ExtraFiles: files}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	if cfg.UserNS {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(spawnError(runner, err, cfg.UserNS), wordsR.Close(), watchW.Close())
	}
	c := &child{logs: cfg.LogDir, info: cfg.Info, cmd: cmd, watch: watchW, first: make(chan launch.Word, 1), done: make(chan struct{}), settled: make(chan struct{})}
	go c.listen(wordsR)
	return c, nil
}

// privileged reports whether this process may make namespaces without a user namespace around them.
func privileged() bool {
	if os.Geteuid() != 0 {
		return false
	}
	var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// configFile holds the launch config in memory: it may carry secrets and may be larger than a pipe.
func configFile(cfg launch.Config) (*os.File, error) {
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode the launch config: %w", err)
	}
	fd, err := unix.MemfdCreate("msb-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the launch config: %w", err)
	}
	f := os.NewFile(uintptr(fd), "launch config")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the launch config: %w", err)
	}
	return f, nil
}

func spawnError(runner string, err error, userNS bool) error {
	e := &sandbox.Error{Op: "start", Kind: sandbox.Runtime, Message: "start the runner", Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		*e = sandbox.Error{Op: "start", Kind: sandbox.LibraryNotLoaded, Message: "msb-runner is missing: " + runner, Hint: "build it with: make build, or set MSB_RUNNER to where it is"}
	case errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EACCES) && unix.Access(runner, unix.X_OK) != nil:
		*e = sandbox.Error{Op: "start", Kind: sandbox.LibraryNotLoaded, Message: "msb-runner cannot be run: " + runner, Hint: "build it anew with: make build, or set MSB_RUNNER to one that can"}
	case userNS && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS)): // what clone(2) says for it
		e.Message, e.Err = "this machine has no more user namespaces for you (user.max_user_namespaces)", nil
		e.Hint = "see what to change with: msb doctor"
	case userNS && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)):
		e.Message, e.Err = "this machine does not let you make a user namespace", nil
		e.Hint = "see what to change with: msb doctor"
	}
	return e
}

// listen hears the runner's words until it is gone, then reaps it.
func (c *child) listen(r *os.File) {
	defer close(c.done)
	defer c.watch.Close()
	defer c.cmd.Wait()
	defer r.Close()
	dec := json.NewDecoder(r)
	for n := 0; ; n++ {
		var w launch.Word
		err := dec.Decode(&w)
		if err != nil && n == 0 {
			w.Failure = &launch.Failure{Kind: sandbox.BootFailed, Message: "the runner ended without a word" + lastLines(c.logs)}
		}
		c.mu.Lock()
		if w.End != nil {
			c.end, c.cpu = w.End, w.CPUTime
		}
		if w.Running != nil {
			c.began = w.Running.StartedAt
		}
		c.mu.Unlock()
		if n == 0 {
			c.first <- w
		}
		if err != nil {
			return
		}
	}
}

// lastLines returns the end of a crashed runner's log, to be appended to an error.
func lastLines(dir string) string {
	const most = 2000
	b, err := os.ReadFile(filepath.Join(dir, launch.LogFile))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "; it said: " + strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// ready waits for the runner's first word.
func (c *child) ready(ctx context.Context) (*launch.Running, error) {
	select {
	case w := <-c.first:
		if w.Failure != nil {
			<-c.done
			return nil, w.Failure.Err(c.info.Ref)
		}
		return w.Running, nil
	case <-ctx.Done():
		return nil, &sandbox.Error{Op: "start", Ref: c.info.Ref, Kind: sandbox.Cancelled, Message: "the start was cancelled", Err: context.Cause(ctx)}
	}
}

// kill ends the sandbox and waits until the runner is gone.
func (c *child) kill() {
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(killTimeout + time.Second): // the runner gives a start that hangs that long itself
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// detach lets the sandbox live on without this process.
func (c *child) detach() error {
	if _, err := c.watch.Write([]byte{launch.Detach}); err != nil {
		return &sandbox.Error{Op: "start", Ref: c.info.Ref, Kind: sandbox.Runtime, Message: "let go of the sandbox", Err: err}
	}
	return nil
}

var _ backend.Owner = (*Backend)(nil)

// Disown lets a sandbox live on without this process.
func (b *Backend) Disown(_ context.Context, ref sandbox.Ref, id string) error {
	b.mu.Lock()
	c := b.mine[ref]
	b.mu.Unlock()
	if c == nil || c.info.ID != id {
		return nil
	}
	if err := c.detach(); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EPIPE) { // it has ended meanwhile
		return err
	}
	return nil
}

// result is how the sandbox ended. It is for after done.
func (c *child) result() sandbox.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.info
	info.Status, info.End = sandbox.Stopped, c.end
	if c.end == nil {
		info.Status, info.End = sandbox.Crashed, &sandbox.End{Reason: sandbox.ReasonLost, Message: "its runner was killed"}
	}
	return info
}

// startError says what failed in the words of contract msb-0.6 §1.1.
func (b *Backend) startError(ref sandbox.Ref, err error) error {
	var e *sandbox.Error
	if errors.As(err, &e) && e.Kind == sandbox.BootFailed {
		return &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.BootFailed, Message: fmt.Sprintf("failed to start %q", ref.Name), Hint: e.Hint, Err: errors.New(e.Message)}
	}
	return err
}

// dialRunDir connects to the relay of a run directory.
func dialRunDir(ctx context.Context, dir string) (net.Conn, error) {
	return dialSocket(ctx, dir, launch.SocketFile)
}

// dialSocket connects to a run directory's socket, however long the directory's path is.
func dialSocket(ctx context.Context, dir, name string) (net.Conn, error) {
	path := filepath.Join(dir, name)
	if len(path) > 100 {
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		path = filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())), name)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
