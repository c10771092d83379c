package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// How long it may take to be known how a sandbox ended after the connection to it broke, and how often that is looked at.
const (
	endWait = 3 * time.Second
	endPoll = 10 * time.Millisecond
)

// Ended is the end of a sandbox with which a connection to it broke. Its kind is NotRunning.
type Ended struct {
	Info sandbox.Info // End is nil if nobody knows how
	What string       // how, in the reader's words; "" if nobody knows
	hint string
	err  error
}

// Error says it for people.
func (e *Ended) Error() string { return e.Unwrap().Error() }

// Unwrap is the typed error.
func (e *Ended) Unwrap() error {
	message := fmt.Sprintf("sandbox %q ended", e.Info.Ref.Name)
	if e.What != "" {
		message += ": " + e.What
	}
	return &sandbox.Error{Op: "exec", Ref: e.Info.Ref, Kind: sandbox.NotRunning, Message: message, Hint: e.hint}
}

// Cause is the error of the connection.
func (e *Ended) Cause() error { return e.err }

// IsEnd reports whether an error of a session is, or comes from, the end of the sandbox.
func IsEnd(err error) bool {
	var refused *agentproto.Error
	return sandbox.KindOf(err) == sandbox.NotRunning || errors.As(err, &refused) && refused.Message == agentproto.ShuttingDown
}

// Explain makes of the end of a connection the end of the sandbox behind it, an *Ended; other errors it returns as they are. It waits
// a little until the end is known, whatever became of ctx. info is what was known of the sandbox before.
func Explain(ctx context.Context, err error, info sandbox.Info, get Get) error {
	var said *sandbox.Error
	if !IsEnd(err) || errors.As(err, &said) && said.Ref != (sandbox.Ref{}) { // it is about another thing, or says it already
		return err
	}
	e := &Ended{Info: info, err: err}
	e.Info.End = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWait)
	defer cancel()
	for {
		now, gerr := get(ctx)
		if gerr == nil && now.End != nil {
			e.Info = now
			break
		}
		if k := sandbox.KindOf(gerr); k == sandbox.NotFound || k == sandbox.Replaced {
			return e
		}
		select {
		case <-ctx.Done():
			return e
		case <-time.After(endPoll):
		}
	}
	spec := info.Effective()
	switch e.What = e.Info.End.Message; e.Info.End.Reason {
	case sandbox.ReasonOOM:
		e.What = fmt.Sprintf("it went over its memory limit of %d MiB", spec.Resources.MemoryMiB)
		e.hint = fmt.Sprintf("give it more with: -m %dM", 2*spec.Resources.MemoryMiB)
	case sandbox.ReasonMaxDuration:
		e.What = "it ran for its maximum of " + Seconds(spec.Lifecycle.MaxDuration())
	case sandbox.ReasonShutdown:
		e.What = "it was stopped"
	}
	if e.What == "" {
		e.What = string(e.Info.End.Reason)
	}
	return e
}

// Seconds is a duration as the contract's messages have it.
func Seconds(d time.Duration) string {
	if d%time.Second != 0 {
		return d.String()
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// TimedOut is the error of a command that was killed after that time (contract msb-0.6 §2.10).
func TimedOut(d time.Duration) error {
	return &sandbox.Error{Op: "exec", Kind: sandbox.ExecTimeout, Message: "exec timed out after " + Seconds(d)}
}
