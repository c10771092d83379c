package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// endWait is how long the end of a sandbox may take to be known after the connection to it broke.
const endWait = 3 * time.Second

// explainEnd makes of the end of a connection the end of the sandbox behind it; other errors stay.
func (a *app) explainEnd(s *signals, b backend.Backend, info sandbox.Info, err error) error {
	err = s.explain(err)
	var refused *agentproto.Error
	ending := errors.As(err, &refused) && refused.Message == agentproto.ShuttingDown
	if _, exits := err.(exitCode); exits || !ending && sandbox.KindOf(err) != sandbox.NotRunning {
		return err
	}
	end := endOf(b, info.Ref)
	if end == nil {
		return &sandbox.Error{Op: "exec", Ref: info.Ref, Kind: sandbox.NotRunning, Message: fmt.Sprintf("sandbox %q ended", info.Ref.Name)}
	}
	e := &sandbox.Error{Op: "exec", Ref: info.Ref, Kind: sandbox.NotRunning}
	code := exitError
	what := end.Message
	switch end.Reason {
	case sandbox.ReasonOOM:
		code = exitKilled
		what = "it went over its memory limit of " + mebibytes(info.Effective().Resources.MemoryMiB)
		e.Hint = fmt.Sprintf("give it more with: -m %dM", 2*info.Effective().Resources.MemoryMiB)
	case sandbox.ReasonMaxDuration:
		what = "it ran for its maximum of " + seconds(info.Effective().Lifecycle.MaxDuration())
	case sandbox.ReasonShutdown:
		what = "it was stopped"
	}
	if what == "" {
		what = string(end.Reason)
	}
	e.Message = fmt.Sprintf("sandbox %q ended: %s", info.Ref.Name, what)
	return &codedError{e, code}
}

// endOf asks how a sandbox ended until that is known, nil if nobody knows.
func endOf(b backend.Backend, ref sandbox.Ref) *sandbox.End {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	for {
		info, err := b.Get(ctx, ref)
		if err == nil && info.End != nil {
			return info.End
		}
		if sandbox.KindOf(err) == sandbox.NotFound {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}
