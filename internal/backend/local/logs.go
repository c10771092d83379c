package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// logDir is where the runner of a sandbox writes its logs. Those of an ephemeral one are in its run directory, and go with it.
func (b *Backend) logDir(info sandbox.Info) string {
	if info.Spec.Lifecycle.Ephemeral {
		return b.store.Path(info.Ref)
	}
	return filepath.Join(b.dirOf(info.Ref), logsDir)
}

var _ backend.LogReader = (*Backend)(nil)

// OpenLogs reads the log of a sandbox.
func (b *Backend) OpenLogs(ctx context.Context, ref sandbox.Ref, opt sandbox.LogOptions) (backend.LogStream, error) {
	info, err := b.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return execlog.Open(ctx, b.logDir(info), execlog.Options{LogOptions: opt, Life: func() execlog.Life { return b.lifeOf(ctx, info) }})
}

// lifeOf says whether more will come in the log of a sandbox.
func (b *Backend) lifeOf(ctx context.Context, was sandbox.Info) execlog.Life {
	live := b.store.Live(was.Ref.ShortID()) // before the record is read: its runner writes to the log as long as it has the lock
	info, err := b.Get(ctx, was.Ref)
	switch {
	case sandbox.KindOf(err) == sandbox.NotFound || err == nil && info.ID != was.ID:
		return execlog.Gone
	case live:
		return execlog.Alive
	case was.Spec.Lifecycle.Ephemeral:
		return execlog.Gone
	}
	return execlog.Ended
}

// maxRunnerLog is how much of a kept sandbox's runner.log goes on in the next run, in bytes.
const maxRunnerLog = 4 << 20

// openRunnerLog opens what a runner has as its stderr.
func openRunnerLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, launch.LogFile)
	if info, err := os.Lstat(path); err == nil && info.Size() > maxRunnerLog {
		_ = os.Rename(path, path+".1")
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
}

// recordBootError leaves in the log of a kept sandbox why it did not start.
func (b *Backend) recordBootError(info sandbox.Info, failure error) error {
	e := execlog.BootError{Time: time.Now().UTC(), Stage: bootStage(failure), Message: failure.Error()}
	var errno syscall.Errno
	if errors.As(failure, &errno) {
		n := int(errno)
		e.Errno = &n
	}
	if err := execlog.WriteBootError(b.logDir(info), e); err != nil {
		return fmt.Errorf("sandbox %s: %w", info.Ref, err)
	}
	return nil
}

// bootStage is how far a start came (contract msb-0.6 §5.1).
func bootStage(err error) string {
	switch sandbox.KindOf(err) {
	case sandbox.PatchFailed, sandbox.VolumeNotFound:
		return "mount"
	case sandbox.InvalidConfig, sandbox.InvalidArgument:
		return "config"
	case sandbox.ImageNotFound, sandbox.ImagePullFailed:
		return "image"
	case sandbox.BootFailed, sandbox.Runtime, sandbox.LibraryNotLoaded:
		return "build_vm"
	}
	return "other"
}
