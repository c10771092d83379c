package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// keptRuns is how many runs of a sandbox are remembered.
const keptRuns = 20

// startKept starts a sandbox that has its record and its directory. It takes over dir, whose lock it keeps until the record
// says how the start went.
func (b *Backend) startKept(ctx context.Context, db *state.DB, dir *state.Dir, row state.Row, root *root, attached bool, startup []string) (sandbox.Info, error) {
	id, given := row.ID, row.Spec.Network.Secrets
	row, err := db.Begin(id)
	row.Spec.Network.Secrets = withValues(row.Spec.Network.Secrets, given)
	if err == nil {
		err = db.KeepRuns(id, keptRuns)
	}
	if err == nil && !row.Booted { // what an earlier start may have left on the disk is half a sandbox
		disk := filepath.Join(b.dirOf(row.Ref), diskDir)
		if err = discard(disk); err == nil {
			err = os.Mkdir(disk, 0o700)
		}
	}
	if err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	point("start: begun")
	row.Startup = startup
	info, err := b.boot(ctx, dir, row, root, attached, func(run launch.Running) error { return db.Running(id, run) })
	if err == nil {
		return info, dir.Lock.Close() // the runner has its own
	}
	defer dir.Remove()
	point("start: failed")
	end := sandbox.End{Reason: sandbox.ReasonFailed, Message: err.Error(), At: time.Now().UTC()}
	if sandbox.KindOf(err) == sandbox.Cancelled {
		end.Reason = sandbox.ReasonShutdown
	}
	if end.Reason == sandbox.ReasonFailed {
		_ = b.recordBootError(row.Info, err) // where it is not there, the record still says it
	}
	if endErr := db.End(id, sandbox.Stopped, end, state.Measured{}); endErr != nil && sandbox.KindOf(endErr) != sandbox.NotFound {
		err = errors.Join(err, endErr)
	}
	return sandbox.Info{}, err
}

// Start starts a sandbox that was stopped.
func (b *Backend) Start(ctx context.Context, ref sandbox.Ref, opt backend.StartOptions) (sandbox.Info, error) {
	if err := ref.Validate(); err != nil {
		return sandbox.Info{}, err
	}
	b.Sweep()
	for {
		row, err := b.row(ref)
		if sandbox.KindOf(err) == sandbox.NotFound {
			return b.getEphemeral(ctx, ref) // it runs, or is gone
		}
		if err != nil {
			return sandbox.Info{}, err
		}
		if opt.Sole && !row.Status.Terminal() && row.Status != sandbox.Created {
			return sandbox.Info{}, &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.AlreadyExists}
		}
		switch row.Status {
		case sandbox.Running, sandbox.Paused, sandbox.Draining:
			return row.Info, nil
		case sandbox.Starting:
			if err := b.awaitStart(ctx, ref); err != nil {
				return sandbox.Info{}, err
			}
			continue
		}
		info, err := b.startAgain(ctx, row, opt)
		if sandbox.KindOf(err) == sandbox.AlreadyExists && (!opt.Sole || b.ending(ref)) { // somebody else is starting it, or its runner is still about to go
			if err := b.awaitStart(ctx, ref); err != nil {
				return sandbox.Info{}, err
			}
			continue
		}
		return info, err
	}
}

// ending reports whether a sandbox has ended and its runner is still there, or just gone.
func (b *Backend) ending(ref sandbox.Ref) bool {
	r, err := b.store.Get(ref)
	return err != nil || !r.Live || r.End != nil
}

// startPoll is how often a start that another process makes is looked at.
const startPoll = 10 * time.Millisecond

func (b *Backend) awaitStart(ctx context.Context, ref sandbox.Ref) error {
	select {
	case <-ctx.Done():
		return &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "the start was cancelled", Err: context.Cause(ctx)}
	case <-time.After(startPoll):
		return nil
	}
}

func (b *Backend) startAgain(ctx context.Context, row state.Row, opt backend.StartOptions) (sandbox.Info, error) {
	ref := row.Ref
	db, err := b.records()
	if err != nil {
		return sandbox.Info{}, err
	}
	if err := b.enoughDisk(); err != nil {
		return sandbox.Info{}, err
	}
	if err := b.checkBinds(slices.Clone(row.Spec.Mounts), true); err != nil {
		return sandbox.Info{}, err
	}
	if err := b.unseal(row, &row.Spec.Network); err != nil {
		return sandbox.Info{}, err
	}
	info := row.Info
	info.Status, info.End, info.Confinement = sandbox.Starting, nil, nil
	dir, err := b.store.Claim(ref, info)
	if err != nil {
		return sandbox.Info{}, err
	}
	if now, err := db.Get(ref); err != nil || now.ID != row.ID || !now.Status.Terminal() {
		dir.Remove()
		if err != nil {
			return sandbox.Info{}, err
		}
		return sandbox.Info{}, &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.AlreadyExists} // look again
	}
	root, err := b.rootOf(ctx, row) // not before: whoever makes or removes it has the claim
	if err != nil {
		dir.Remove()
		return sandbox.Info{}, err
	}
	defer root.lease.Close()
	say(opt.Progress, "boot", "Starting "+string(ref.Name))
	startup := row.Startup
	if opt.Quiet {
		startup = nil
	}
	return b.startKept(ctx, db, dir, row, root, opt.Attached, startup)
}

// rootOf is the root of a sandbox that is kept, from its own directory.
func (b *Backend) rootOf(ctx context.Context, row state.Row) (*root, error) {
	img := &image.Root{Path: filepath.Join(b.dirOf(row.Ref), rootFile), Digest: row.Spec.ManifestDigest}
	if row.Spec.Image.OCI != nil && row.Spec.Image.OCI.Reference == sandbox.HostImage {
		host, err := image.Host(ctx, b.cfg.Home)
		if err != nil {
			return nil, err
		}
		img.Binds = host.Binds
	}
	lease, err := img.Lease()
	if errors.Is(err, sandbox.ImageNotFound) {
		return nil, &sandbox.Error{Op: "start", Ref: row.Ref, Kind: sandbox.IO, Message: "the sandbox's files are gone: " + b.dirOf(row.Ref),
			Hint: "remove what is left of it with: msb rm " + string(row.Ref.Name)}
	}
	if err != nil {
		return nil, err
	}
	return &root{img, lease}, nil
}
