package local

import (
	"path/filepath"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
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
	refs, err := db.LiveRefs()
	if err != nil {
		return
	}
	for _, ref := range refs {
		if !b.store.Live(ref.ShortID()) {
			_ = b.settleIn(db, ref)
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
			_ = atomicfile.RemoveAll(p)
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
