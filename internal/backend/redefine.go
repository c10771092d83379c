package backend

import "context"

// Redefiner is a backend that can give a sandbox that does not run another spec.
type Redefiner interface {
	// Redefine makes of a stopped sandbox what the request says, from its next start on. Its files stay, so its image has to be the
	// same. Of the request Ref, Spec, Startup and Progress count. Kinds: those of Create; NotFound; StillRunning; Unsupported for
	// another image, or a sandbox that is not kept.
	Redefine(ctx context.Context, req CreateRequest) error
}
