package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Renamer = (*Backend)(nil)

// ownerFile is in the directory of a sandbox while that gets another name, and says whose it is: a directory without a record is swept,
// and who is killed between the two renames leaves one (see directories).
const ownerFile = "renaming"

// Rename gives a sandbox that does not run another name.
func (b *Backend) Rename(ctx context.Context, ref sandbox.Ref, to sandbox.Name) (sandbox.Info, error) {
	next := sandbox.Ref{Namespace: ref.Namespace, Name: to}
	if err := next.Validate(); err != nil {
		return sandbox.Info{}, err
	}
	row, err := b.row(ref)
	if sandbox.KindOf(err) == sandbox.NotFound {
		if _, eph := b.getEphemeral(ctx, ref); eph == nil {
			err = &sandbox.Error{Op: "rename", Ref: ref, Kind: sandbox.Unsupported, Message: "sandbox '" + string(ref.Name) + "' is ephemeral, and keeps its name"}
		}
	}
	if err != nil || to == ref.Name {
		return row.Info, err
	}
	if !row.Status.Terminal() {
		return sandbox.Info{}, &sandbox.Error{Op: "rename", Ref: ref, Kind: sandbox.StillRunning, Hint: "stop it first with: msb stop " + string(ref.Name)}
	}
	db, err := b.records()
	if err != nil {
		return sandbox.Info{}, err
	}
	from, _, err := b.store.Hold(ref) // nobody starts or removes it meanwhile
	if err != nil {
		return sandbox.Info{}, err
	}
	defer from.Remove()
	info := row.Info
	info.Ref, info.Spec.Name = next, to
	info.Status, info.Active = sandbox.Stopped, nil // not Created: it is not being made
	into, err := b.store.Claim(next, info)          // an ephemeral one may have the name
	if err != nil {
		return sandbox.Info{}, err
	}
	defer into.Remove()
	renamed, err := db.Rename(row.ID, to, func() error { return b.move(ref, next, row.ID) })
	if err != nil {
		return sandbox.Info{}, errors.Join(err, b.settleDirectory(db, next))
	}
	point("rename: recorded")
	_ = os.Remove(filepath.Join(b.dirOf(next), ownerFile))
	return renamed.Info, nil
}

// move gives the directory of a sandbox another name.
func (b *Backend) move(from, to sandbox.Ref, id string) error {
	fail := func(err error) error {
		return &sandbox.Error{Op: "rename", Ref: from, Kind: sandbox.IO, Message: "rename the sandbox's directory", Err: err, Hint: diskHint(err)}
	}
	if err := atomicfile.WriteSync(filepath.Join(b.dirOf(from), ownerFile), []byte(id), 0o600); err != nil {
		return fail(err)
	}
	if err := b.discard(to); err != nil { // of a sandbox that nobody knows any more
		return fail(err)
	}
	point("rename: marked")
	if err := os.Rename(b.dirOf(from), b.dirOf(to)); err != nil {
		return fail(err)
	}
	point("rename: moved")
	return nil
}

// settleDirectory brings a directory to where its record is, if it was marked by a rename that did not come to its end. Who calls it
// keeps others from starting what has its name.
func (b *Backend) settleDirectory(db *state.DB, at sandbox.Ref) error {
	mark := filepath.Join(b.dirOf(at), ownerFile)
	id, err := os.ReadFile(mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := db.GetID(strings.TrimSpace(string(id)))
	if sandbox.KindOf(err) == sandbox.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Ref != at {
		if err := os.Rename(b.dirOf(at), b.dirOf(r.Ref)); err != nil { // fails where there is one already
			return err
		}
	}
	return os.Remove(filepath.Join(b.dirOf(r.Ref), ownerFile))
}
