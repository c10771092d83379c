package local

import (
	"context"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/internal/state"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var _ backend.Networker = (*Backend)(nil)

// Network says what goes on in the network of a running sandbox.
func (b *Backend) Network(ctx context.Context, ref sandbox.Ref) (sandbox.NetworkState, error) {
	resp, err := b.control(ctx, ref, launch.ControlRequest{Op: launch.OpNetwork})
	if err != nil || resp.Network == nil {
		return sandbox.NetworkState{}, err
	}
	return *resp.Network, nil
}

// SetNetworkPolicy puts another policy in the place of a running sandbox's. Its record says that the present run has it.
func (b *Backend) SetNetworkPolicy(ctx context.Context, ref sandbox.Ref, p sandbox.NetworkPolicy) error {
	if _, err := b.control(ctx, ref, launch.ControlRequest{Op: launch.OpPolicy, Policy: &p}); err != nil {
		return err
	}
	row, err := b.row(ref)
	if sandbox.KindOf(err) == sandbox.NotFound { // it is not kept
		return nil
	}
	if err != nil {
		return err
	}
	db, err := b.records()
	if err != nil {
		return err
	}
	_, err = db.Edit(row.ID, func(r *state.Row) error {
		if r.Active != nil {
			now := *r.Active
			now.Network.Policy = &p
			r.Active = &now
		}
		return nil
	})
	return err
}
