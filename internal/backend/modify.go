package backend

import (
	"context"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Modifier is a backend that can change a sandbox that is there.
type Modifier interface {
	// Modify plans the changes and, unless the request wants a plan only or the plan has conflicts, makes them. Kinds: NotFound,
	// InvalidConfig for what no sandbox can be, Unsupported for one that is ephemeral; those of Start and Stop after a restart.
	Modify(ctx context.Context, ref sandbox.Ref, req ModifyRequest) (sandbox.Plan, error)
}

// ModifyRequest says what to change and when.
type ModifyRequest struct {
	sandbox.Modification
	Policy sandbox.ModifyPolicy // "" is ModifyNoRestart
	DryRun bool
}
