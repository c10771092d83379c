package local

import (
	"context"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

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
