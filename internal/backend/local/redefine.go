package local

import (
	"context"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Redefiner = (*Backend)(nil)

// Redefine gives a stopped sandbox another spec.
func (b *Backend) Redefine(ctx context.Context, req backend.CreateRequest) error {
	row, err := b.row(req.Ref)
	if err != nil {
		return err
	}
	other := func(message string) error {
		return &sandbox.Error{Op: "redefine", Ref: req.Ref, Kind: sandbox.Unsupported, Message: message}
	}
	spec := b.floor(req.Spec)
	spec.Name = req.Ref.Name
	if spec.Lifecycle.Ephemeral != row.Spec.Lifecycle.Ephemeral {
		return other("whether a sandbox is kept does not change")
	}
	if err := unsupported(spec.WithDefaults()); err != nil {
		return err
	}
	if err := b.checkSources(&spec, req.Resolved); err != nil {
		return err
	}
	root, err := b.root(ctx, &spec, req)
	if err != nil {
		return err
	}
	defer root.lease.Close()
	spec = spec.WithDefaults()
	if spec.ManifestDigest != row.Spec.ManifestDigest || spec.Image.String() != row.Spec.Image.String() || spec.Image.Disk().Kind != row.Spec.Image.Disk().Kind {
		return other("the image is another one")
	}
	if err := spec.Validate(); err != nil {
		return err
	}
	if err := b.ensureVolumes(ctx, req.Ref, spec.Mounts, root); err != nil {
		return err
	}
	db, err := b.records()
	if err != nil {
		return err
	}
	dir, _, err := b.store.Hold(req.Ref) // nobody starts it meanwhile
	if err != nil {
		return err
	}
	defer dir.Remove()
	_ = b.unseal(row, &spec.Network) // what is not given again stays as it was; the next start says what is gone
	sealed, err := b.seal(row.ID, spec.Network)
	if err != nil {
		return err
	}
	_, err = db.Edit(row.ID, func(r *state.Row) error {
		if !r.Status.Terminal() {
			return &sandbox.Error{Op: "redefine", Ref: req.Ref, Kind: sandbox.StillRunning}
		}
		r.Spec, r.Startup, r.Sealed = spec, nil, sealed
		if req.Startup {
			r.Startup = startup(req.Spec, spec)
		}
		return nil
	})
	if err == nil {
		err = db.UseVolumes(row.ID, namedVolumes(spec))
	}
	return err
}
