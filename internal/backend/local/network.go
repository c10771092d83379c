package local

import (
	"context"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
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

// SetNetworkPolicy puts another policy in the place of a running sandbox's.
func (b *Backend) SetNetworkPolicy(ctx context.Context, ref sandbox.Ref, p sandbox.NetworkPolicy) error {
	_, err := b.control(ctx, ref, launch.ControlRequest{Op: launch.OpPolicy, Policy: &p})
	return err
}
