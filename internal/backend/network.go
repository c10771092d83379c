package backend

import (
	"context"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Networker is a backend that sees what goes on in a sandbox's network and can change its policy while it runs.
type Networker interface {
	// Network says what goes on now. Kinds: NotFound, NotRunning.
	Network(ctx context.Context, ref sandbox.Ref) (sandbox.NetworkState, error)
	// SetNetworkPolicy puts p in the place of the running sandbox's policy until it ends: what begins and what goes on is held
	// to it at once. For one that holds longer there is Modifier. Kinds: NotFound, NotRunning, InvalidConfig, Unsupported where the sandbox was started without a network.
	SetNetworkPolicy(ctx context.Context, ref sandbox.Ref, p sandbox.NetworkPolicy) error
}
