// Package gvisor confines a sandbox with gVisor's user-space kernel. A [Driver] starts gVisor's sentry as a child of
// this process, through gVisor's own library; [Child] answers for those children. All that gVisor writes for itself
// lives in an anonymous file system that ends with this process, so nothing of it can be left behind.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/microsandbox-go/microsandbox/internal/cleanup"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
)

// Driver starts sandboxes with gVisor. The process must have CAP_SYS_ADMIN in its user namespace and a mount namespace
// of its own.
type Driver struct{}

// Name is "gvisor".
func (Driver) Name() string { return "gvisor" }

// Start boots a sentry and starts the agent in it.
func (d Driver) Start(ctx context.Context, cfg driver.Config) (driver.Instance, error) {
	pruneDisk(cfg)
	return d.create(ctx, cfg, func(i *instance) error {
		return startRoot(i.c.Sandbox.GetControlSocketPath(), i.id, cfg.Link)
	})
}

// Restore boots a sentry and loads the checkpoint in dir into it.
func (d Driver) Restore(ctx context.Context, cfg driver.Config, dir string) (driver.Instance, error) {
	return d.create(ctx, cfg, func(i *instance) error {
		args := networkArgs(cfg.Link)
		args.IsRestore = true
		if err := i.c.Sandbox.Restore(i.conf, i.c.Spec, i.id, dir, false, false, args); err != nil {
			return fmt.Errorf("restore the sandbox: %w", err)
		}
		return nil
	})
}

func (Driver) create(ctx context.Context, cfg driver.Config, start func(*instance) error) (_ driver.Instance, err error) {
	redirectLog(cfg.Log)
	begin := time.Now()
	mark := func(step string) {
		if cfg.Log != nil {
			cfg.Log.Debug("boot", "step", step, "after", time.Since(begin).Round(time.Microsecond))
		}
	}
	defer cfg.Control.Close()
	if cfg.Link != nil {
		defer cfg.Link.File.Close()
	}
	undo := cleanup.Make()
	defer undo.Clean()

	state, err := anonymousDir()
	if err != nil {
		return nil, err
	}
	dir := "/proc/self/fd/" + strconv.Itoa(int(state.Fd()))
	undo.Add(state.Close)
	for _, d := range []string{"state", "bundle", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("prepare gVisor's state: %w", err)
		}
	}
	conf, err := runscConfig(cfg, dir)
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(dir, "bundle")
	if cfg.Disk != nil {
		if err := gofer.Check(cfg.Disk.Source); errors.Is(err, gofer.ErrInUse) {
			return nil, fmt.Errorf("%w: %s", driver.ErrDiskInUse, cfg.Disk.Source)
		} else if err != nil {
			return nil, err
		}
	}
	served, err := servedMounts(cfg)
	if err != nil {
		return nil, err
	}
	spec, err := ociSpec(cfg, "/", served)
	if err != nil {
		return nil, fmt.Errorf("describe the sandbox: %w", err)
	}
	if err := writeBundle(bundle, spec); err != nil {
		return nil, err
	}

	// Attached: the children get SIGKILL when the thread that forked them ends. gVisor forks on whatever thread Go picks,
	// so no thread of this process may end before it: no goroutine of ours may return while locked to its thread.
	var c *container.Container
	if e := withStdio(cfg.Log, func() {
		c, err = container.New(conf, container.Args{
			ID: cfg.ID, Spec: spec, BundleDir: bundle, Attached: true,
			PassFiles: map[int]*os.File{controlFD: cfg.Control},
		})
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, bootError(err)
	}
	i := &instance{id: cfg.ID, conf: conf, c: c, state: state, sentry: c.Sandbox.Getpid(), gofer: c.GoferPid.Load(), goferfd: -1, served: served, done: make(chan struct{})}
	if err := i.watch(); err != nil {
		return nil, err
	}
	undo.Release()
	mark("sentry booted")
	go i.reap()

	started := make(chan error, 1)
	go func() { started <- start(i) }()
	select {
	case err = <-started:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, undoError(i.Destroy()))
	}
	mark("agent started")
	if i.memfile = openMemory(i.sentry); i.memfile == nil {
		return nil, fmt.Errorf("the guest's memory was not found among the sentry's files: it could not be limited%s", undoError(i.Destroy()))
	}
	mark("memory found")
	if len(i.served) > 0 {
		if i.usage, err = gofer.OpenUsage(i.gofer); err != nil {
			return nil, fmt.Errorf("%w%s", err, undoError(i.Destroy()))
		}
	}
	return i, nil
}

func undoError(err error) string {
	if err == nil {
		return ""
	}
	return " (and undoing it: " + err.Error() + ")"
}

// anonymousDir makes a tmpfs that is mounted nowhere: it ends with the last file descriptor in it.
func anonymousDir() (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("make an anonymous tmpfs for gVisor's state: %w", err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0700"); err != nil {
		return fail(err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fail(err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), "gvisor-state"), nil
}
