package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cgroup"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Create makes a sandbox and starts it.
func (b *Backend) Create(ctx context.Context, req backend.CreateRequest) (sandbox.Info, error) {
	if err := req.Ref.Validate(); err != nil {
		return sandbox.Info{}, err
	}
	swept := make(chan struct{})
	go func() { b.Sweep(); close(swept) }()
	defer func() { <-swept }()

	spec := b.floor(req.Spec)
	spec.Name = req.Ref.Name
	if req.Prepare && spec.Lifecycle.Ephemeral {
		return sandbox.Info{}, &sandbox.Error{Op: "create", Ref: req.Ref, Kind: sandbox.InvalidConfig, Message: "an ephemeral sandbox cannot be created without being started"}
	}
	// Before anything is pulled for it:
	if err := unsupported(spec.WithDefaults()); err != nil {
		return sandbox.Info{}, err
	}
	if _, err := b.proxy(spec.WithDefaults().Network); err != nil {
		return sandbox.Info{}, err
	}
	if err := b.checkSources(&spec, req.Resolved); err != nil {
		return sandbox.Info{}, err
	}
	if err := b.vacate(ctx, req); err != nil {
		return sandbox.Info{}, err
	}
	root, err := b.root(ctx, &spec, req)
	if err != nil {
		return sandbox.Info{}, err
	}
	defer root.lease.Close() // the runner has its own
	spec = spec.WithDefaults()
	if err := spec.Validate(); err != nil {
		return sandbox.Info{}, err
	}
	if err := b.ensureVolumes(ctx, req.Ref, spec.Mounts, root); err != nil {
		return sandbox.Info{}, err
	}
	now := time.Now().UTC()
	row := state.Row{Info: sandbox.Info{Ref: req.Ref, ID: newID(), Status: sandbox.Created, Spec: spec, CreatedAt: now, UpdatedAt: now}}
	if req.Startup {
		row.Startup = startup(req.Spec, spec)
	}
	if row.Sealed, err = b.seal(row.ID, spec.Network); err != nil {
		return sandbox.Info{}, err
	}
	dir, err := b.store.Claim(req.Ref, row.Info)
	if err != nil {
		return sandbox.Info{}, err
	}
	say(req.Progress, "boot", "Starting "+string(req.Ref.Name))
	if spec.Lifecycle.Ephemeral {
		row.Status = sandbox.Starting
		return b.boot(ctx, dir, row, root, req.Attached, nil)
	}
	return b.createKept(ctx, dir, row, root, req)
}

// vacate looks whether a name is free, and makes it so if the request wants that.
func (b *Backend) vacate(ctx context.Context, req backend.CreateRequest) error {
	if req.Generated {
		return nil
	}
	info, err := b.Get(ctx, req.Ref)
	switch {
	case sandbox.KindOf(err) == sandbox.NotFound:
		return nil
	case err != nil:
		return err
	case req.Replace:
		say(req.Progress, "replace", "Stopping "+string(req.Ref.Name))
		err := b.Stop(ctx, req.Ref, backend.StopOptions{Force: req.Grace <= 0, Timeout: req.Grace})
		if k := sandbox.KindOf(err); err != nil && k != sandbox.NotRunning && k != sandbox.NotFound {
			return err
		}
		if err := b.Remove(ctx, req.Ref, true); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			return err
		}
		return nil
	case info.Spec.Lifecycle.Ephemeral && info.Status.Terminal():
		return nil
	}
	return b.taken(req.Ref, info)
}

// taken is the error of a name that somebody has, or nil if all that is left of it is the record of a start that failed.
func (b *Backend) taken(ref sandbox.Ref, info sandbox.Info) error {
	if info.Status == sandbox.Stopped && info.End != nil && info.End.Reason == sandbox.ReasonFailed {
		if row, err := b.row(ref); err == nil && row.ID == info.ID && !row.Booted {
			return b.Remove(context.Background(), ref, false)
		}
	}
	hint := "start it with: msb start " + string(ref.Name) + ", or replace it with --replace"
	if !info.Status.Terminal() {
		hint = "stop it with: msb stop " + string(ref.Name) + ", or replace it with --replace"
	}
	return &sandbox.Error{Op: "create", Ref: ref, Kind: sandbox.AlreadyExists, Hint: hint}
}

// createKept records the sandbox, makes its directory and starts it. It takes over dir.
func (b *Backend) createKept(ctx context.Context, dir *state.Dir, row state.Row, root *root, req backend.CreateRequest) (_ sandbox.Info, err error) {
	db, err := b.records()
	if err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	if err := b.enoughDisk(); err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	point("create: claimed")
	if row.Seq, err = db.Insert(row); err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	point("create: recorded")
	undo := func() {
		_ = b.discard(row.Ref)
		_ = db.Delete(row.ID)
		dir.Remove()
	}
	if err := b.makeDir(row.Ref, root); err != nil {
		undo()
		return sandbox.Info{}, err
	}
	point("create: directory made")
	if err := db.UseVolumes(row.ID, namedVolumes(row.Spec)); err != nil {
		undo()
		return sandbox.Info{}, err
	}
	if req.Prepare {
		return row.Info, dir.Remove()
	}
	info, err := b.startKept(ctx, db, dir, row, root, req.Attached, row.Startup)
	if sandbox.KindOf(err) == sandbox.Cancelled {
		_ = b.Remove(context.WithoutCancel(ctx), row.Ref, true) // nobody has seen it
	}
	return info, err
}

// makeDir makes the directory of a sandbox. The image is linked into it, so that what the sandbox's disk is a layer upon stays
// as it is whatever becomes of the image.
func (b *Backend) makeDir(ref sandbox.Ref, root *root) error {
	dir := b.dirOf(ref)
	fail := func(err error) error {
		return &sandbox.Error{Op: "create", Ref: ref, Kind: sandbox.IO, Message: "make the sandbox's directory", Err: err, Hint: diskHint(err)}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fail(err)
	}
	if err := b.discard(ref); err != nil { // of a sandbox that nobody knows any more
		return fail(err)
	}
	for _, d := range []string{dir, filepath.Join(dir, logsDir), filepath.Join(dir, diskDir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return fail(err)
		}
	}
	point("create: directory half made")
	if err := os.Link(root.Path, filepath.Join(dir, rootFile)); err != nil {
		return fail(err)
	}
	return nil
}

// discard removes the directory of a sandbox.
func (b *Backend) discard(ref sandbox.Ref) error { return discard(b.dirOf(ref)) }

func discard(dir string) error {
	if err := atomicfile.Discard(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// floor makes of a spec what this machine's settings guarantee of every sandbox, whoever asks for it.
func (b *Backend) floor(spec sandbox.Spec) sandbox.Spec {
	if b.cfg.Settings.DeploymentProfile == sandbox.MultiTenant {
		spec.DeploymentProfile = sandbox.MultiTenant
	}
	return spec
}

// Files in a sandbox's directory.
const (
	rootFile = "root.erofs" // a link to the image's
	diskDir  = "disk"       // the writable layer
	logsDir  = "logs"
)

// dirOf is the directory of a sandbox that is kept.
func (b *Backend) dirOf(ref sandbox.Ref) string {
	return filepath.Join(b.cfg.Home, "sandboxes", ref.Namespace, string(ref.Name))
}

// boot starts a runner and waits until the agent answers. Who gives recorded, which is told before anyone else, keeps the
// lock of dir; otherwise the runner takes dir over.
func (b *Backend) boot(ctx context.Context, dir *state.Dir, row state.Row, root *root, attached bool, recorded func(launch.Running) error) (sandbox.Info, error) {
	runner, agent, err := b.binaries()
	if err == nil {
		agent, err = image.AgentImage(b.cfg.Home, agent)
	}
	if err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	info := row.Info
	if spec := b.floor(info.Spec); spec.DeploymentProfile != info.Spec.DeploymentProfile { // the settings are newer than the sandbox
		info.Spec = spec.WithDefaults()
	}
	cfg := launch.Config{Info: info, RunDir: dir.Path, LogDir: b.logDir(info), Home: b.cfg.Home, Root: root.launch(), Agent: agent, Group: cgroup.Name(b.cfg.Home, info.Ref.ShortID()),
		Attached: attached, Startup: row.Startup}
	cfg.Root.Disk = b.disk(row)
	if cfg.Mounts, err = b.mounts(info.Ref, info.Spec); err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	if cfg.Proxy, err = b.proxy(info.Spec.Network); err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	c, err := b.spawn(dir, runner, root.lease, cfg)
	if err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	if recorded == nil {
		dir.Lock.Close() // the runner has it
	}
	point("start: spawned")
	b.mu.Lock()
	b.mine[info.Ref] = c
	b.mu.Unlock()
	go func() {
		<-c.done
		b.ended(c)
	}()
	run, err := c.ready(ctx)
	if err == nil && recorded != nil {
		point("start: runner ready")
		err = recorded(*run)
		c.recorded.Store(err == nil)
	}
	if err == nil && !attached {
		point("start: recorded")
		err = c.detach()
	}
	if err != nil {
		c.kill()
		return sandbox.Info{}, b.startError(info.Ref, err)
	}
	info.Status, info.RunnerPID, info.Confinement, info.UpdatedAt = sandbox.Running, run.PID, &run.Confinement, run.StartedAt
	info.Ports = run.Ports
	return info, nil
}

// binaries are the runner and the agent.
func (b *Backend) binaries() (runner, agent string, err error) {
	runner, agent = b.cfg.Runner, b.cfg.Agent
	for name, path := range map[string]*string{config.Runner: &runner, config.Agent: &agent} {
		if *path == "" && b.cfg.Find != nil {
			if *path, err = b.cfg.Find(name); err != nil {
				return "", "", err
			}
		}
	}
	return runner, agent, nil
}

// disk is where what the guest writes to its root goes.
func (b *Backend) disk(row state.Row) *launch.Disk {
	d := row.Spec.Image.Disk()
	switch {
	case d.Kind == sandbox.RootDiskManaged:
		return &launch.Disk{Source: filepath.Join(b.dirOf(row.Ref), diskDir), SizeMiB: d.SizeMiB, Used: row.Booted}
	case d.SizeMiB > 0:
		return &launch.Disk{SizeMiB: d.SizeMiB}
	}
	return nil
}

func say(progress func(backend.Event), step, text string) {
	if progress != nil {
		progress(backend.Event{Step: step, Text: text})
	}
}

// leastFree is how much of the disk must be free for a sandbox to be made or started: a guest whose disk cannot take what it
// may write (see --root-disk) fails in ways that are hard to tell.
const leastFree = 64 << 20

func (b *Backend) enoughDisk() error {
	free, err := diskFree(b.cfg.Home)
	if err != nil || free >= leastFree {
		return nil
	}
	return &sandbox.Error{Kind: sandbox.IO, Message: fmt.Sprintf("only %d MiB are free on the disk of MSB_HOME", free>>20),
		Hint: "free some, see what takes it with: msb system df"}
}
