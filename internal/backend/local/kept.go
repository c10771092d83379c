package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// records opens the database, makes it if there is none, and brings it up to date.
func (b *Backend) records() (*state.DB, error) {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	if b.db != nil {
		return b.db, nil
	}
	db, err := state.OpenDB(b.cfg.Home)
	if err != nil {
		return nil, err
	}
	b.db = db
	b.tidy(db)
	return db, nil
}

// recordsIfAny is records where something was ever kept; nil otherwise.
func (b *Backend) recordsIfAny() (*state.DB, error) {
	if !state.HasDB(b.cfg.Home) {
		return nil, nil
	}
	return b.records()
}

// tidy records how those ended that were running, and removes the directories that belong to no record: somebody was killed
// while he removed one.
func (b *Backend) tidy(db *state.DB) {
	rows, err := db.List(state.Query{Live: true})
	if err != nil {
		return
	}
	for _, r := range rows {
		if !b.store.Live(r.Ref.ShortID()) {
			_ = b.settleIn(db, r.Ref)
		}
	}
	found := b.directories() // before the records are read: one that is just being made has its record first
	names, err := db.Names()
	if err != nil {
		return
	}
	for name, ref := range found {
		if !names[name] {
			_ = b.discardStray(db, ref)
		}
	}
}

// directories are those of kept sandboxes, by namespace/name. What was on its way out is removed.
func (b *Backend) directories() map[string]sandbox.Ref {
	top := filepath.Join(b.cfg.Home, "sandboxes")
	temps, _ := filepath.Glob(filepath.Join(top, "*", ".*"))
	for _, p := range temps {
		if atomicfile.IsTemp(p) {
			_ = os.RemoveAll(p)
		}
	}
	return listDirectories(top)
}

// discardStray removes a directory without a record, unless there is one by now.
func (b *Backend) discardStray(db *state.DB, ref sandbox.Ref) error {
	dir, _, err := b.store.Hold(ref)
	if err != nil {
		return err
	}
	defer dir.Remove()
	if _, err := db.Get(ref); sandbox.KindOf(err) != sandbox.NotFound {
		return err
	}
	if err := b.settleDirectory(db, ref); err != nil {
		return err
	}
	return b.discard(ref)
}

// row is the record of a kept sandbox, brought up to date. Kind: NotFound, also for one that is ephemeral.
func (b *Backend) row(ref sandbox.Ref) (state.Row, error) {
	none := &sandbox.Error{Ref: ref, Kind: sandbox.NotFound, Message: string(ref.Name), Hint: "see what there is with: msb ls"}
	db, err := b.recordsIfAny()
	if err != nil {
		return state.Row{}, err
	}
	if db == nil {
		return state.Row{}, none
	}
	r, err := db.Get(ref)
	if sandbox.KindOf(err) == sandbox.NotFound {
		return r, none
	}
	if err != nil {
		return r, err
	}
	return b.truth(db, r)
}

// truth compares a record with what runs.
func (b *Backend) truth(db *state.DB, r state.Row) (state.Row, error) {
	const tries = 100 // of others that end and start it all the time
	for range tries {
		if r.Status.Terminal() {
			return r, nil
		}
		run, err := b.store.Get(r.Ref)
		if err == nil && run.Live && run.ID == r.ID {
			if run.Status == sandbox.Stopped { // its runner is about to go
				r.Status, r.End, r.UpdatedAt = run.Status, run.End, run.UpdatedAt
				return r, nil
			}
			r.RunnerPID, r.Ports = run.RunnerPID, run.Ports
			if r.Status == sandbox.Starting || run.Status != sandbox.Running {
				r.Status = run.Status
			}
			if run.Confinement != nil {
				r.Confinement = run.Confinement
			}
			return r, nil
		}
		switch err := b.settleIn(db, r.Ref); {
		case sandbox.KindOf(err) == sandbox.StillRunning:
			time.Sleep(time.Millisecond) // somebody else is settling it, or it has just begun
		case err != nil:
			return r, err
		}
		fresh, err := db.Get(r.Ref)
		if err != nil {
			return r, err
		}
		r = fresh
	}
	return r, nil
}

// keptInfos are the kept sandboxes of a namespace.
func (b *Backend) keptInfos(namespace string) ([]sandbox.Info, error) {
	db, err := b.recordsIfAny()
	if err != nil || db == nil {
		return nil, err
	}
	rows, err := db.List(state.Query{Namespace: namespace})
	if err != nil {
		return nil, err
	}
	var infos []sandbox.Info
	for _, r := range rows {
		r, err := b.truth(db, r)
		if sandbox.KindOf(err) == sandbox.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, r.Info)
	}
	return infos, nil
}

// settle records how a sandbox ended that does not run any more.
func (b *Backend) settle(ref sandbox.Ref) error {
	db, err := b.recordsIfAny()
	if err != nil || db == nil {
		return err
	}
	return b.settleIn(db, ref)
}

// settleIn does it with the run directory's lock, so that nobody starts the sandbox meanwhile. A sandbox whose first start was
// cut off is undone: whoever made it never heard of it. Kind: StillRunning.
func (b *Backend) settleIn(db *state.DB, ref sandbox.Ref) error {
	dir, last, err := b.store.Hold(ref)
	if err != nil {
		return err
	}
	defer dir.Remove()
	r, err := db.Get(ref)
	switch {
	case sandbox.KindOf(err) == sandbox.NotFound:
		return nil
	case err == nil && r.Status == sandbox.Created && last.ID == r.ID && last.Claimed == sandbox.Created:
		return b.forget(db, r) // while it was being made
	case err != nil || r.Status.Terminal():
		return err
	}
	if !r.Booted {
		runs, err := db.Runs(r.ID, 2)
		if err != nil {
			return err
		}
		if len(runs) < 2 {
			return b.forget(db, r)
		}
	}
	status, end := sandbox.Crashed, sandbox.End{Reason: sandbox.ReasonLost, Message: "its runner was killed", At: time.Now().UTC()}
	if last.Ended && last.ID == r.ID {
		status, end = sandbox.Stopped, *last.End
	}
	point("end: held")
	return db.End(r.ID, status, end, b.measured(r.Info))
}

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
		if opt.Sole && !row.Status.Terminal() {
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
	if err := b.checkBinds(row.Spec.Mounts); err != nil {
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

// removePatience bounds how long a removal waits for those who make, start and end the sandbox meanwhile.
const removePatience = 10 * time.Second

// Remove forgets a sandbox and its files.
func (b *Backend) Remove(ctx context.Context, ref sandbox.Ref, force bool) error {
	b.Sweep()
	killed := false
	for deadline := time.Now().Add(removePatience); ; {
		info, err := b.Get(ctx, ref)
		if killed && sandbox.KindOf(err) == sandbox.NotFound {
			return nil // whoever was making it has undone it
		}
		if err != nil {
			return err
		}
		running := info.Status == sandbox.Starting || !info.Status.Terminal()
		if running && !force {
			return &sandbox.Error{Op: "remove", Ref: ref, Kind: sandbox.StillRunning, Hint: "stop it first, or remove it with: msb rm -f " + string(ref.Name)}
		}
		if running {
			err := b.Stop(ctx, ref, backend.StopOptions{Force: true})
			if k := sandbox.KindOf(err); err != nil && k != sandbox.NotRunning && k != sandbox.NotFound {
				return err
			}
			killed = killed || err == nil
		}
		if info.Spec.Lifecycle.Ephemeral {
			return nil
		}
		err = b.removeStopped(ref, info.ID)
		k := sandbox.KindOf(err)
		if k == sandbox.StillRunning && time.Now().Before(deadline) && ctx.Err() == nil {
			time.Sleep(startPoll) // it is being made, or torn down, or it was started again
			continue
		}
		if killed && k == sandbox.NotFound {
			return nil
		}
		return err
	}
}

func (b *Backend) removeStopped(ref sandbox.Ref, id string) error {
	db, err := b.records()
	if err != nil {
		return err
	}
	dir, _, err := b.store.Hold(ref)
	if err != nil {
		return err
	}
	defer dir.Remove()
	r, err := db.Get(ref)
	if err != nil {
		return err
	}
	if r.ID != id {
		return &sandbox.Error{Op: "remove", Ref: ref, Kind: sandbox.NotFound, Message: string(ref.Name), Hint: "another one was made of that name meanwhile"}
	}
	return b.forget(db, r)
}

// forget removes the record first: a directory without one is swept, whoever is killed in between.
func (b *Backend) forget(db *state.DB, r state.Row) error {
	point("remove: held")
	if err := db.Delete(r.ID); err != nil {
		return err
	}
	point("remove: forgotten")
	if err := b.discard(r.Ref); err != nil {
		return &sandbox.Error{Op: "remove", Ref: r.Ref, Kind: sandbox.IO, Message: "remove the sandbox's directory", Err: err}
	}
	return nil
}

// namedVolumes are the names of the volumes that a spec mounts.
func namedVolumes(s sandbox.Spec) []string {
	var names []string
	for _, m := range s.Mounts {
		if m.Type == sandbox.MountNamed {
			names = append(names, m.Host)
		}
	}
	return names
}

func diskFree(path string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func diskHint(err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "free some disk space, see what takes it with: msb system df"
	}
	return ""
}
