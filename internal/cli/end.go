package cli

import (
	"context"
	"errors"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// explainEnd makes of the end of a connection the end of the sandbox behind it; other errors stay. One that went over its memory ends
// the command with the code of a kill.
func (a *app) explainEnd(s *signals, b backend.Backend, info sandbox.Info, err error) error {
	err = s.explain(err)
	if _, exits := err.(exitCode); exits {
		return err
	}
	err = guest.Explain(s.ctx, err, info, func(ctx context.Context) (sandbox.Info, error) { return b.Get(ctx, info.Ref) })
	var ended *guest.Ended
	if errors.As(err, &ended) && ended.Info.End != nil && ended.Info.End.Reason == sandbox.ReasonOOM {
		return &codedError{err, exitKilled}
	}
	return err
}
