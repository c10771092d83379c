package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/console"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// job is one command for a sandbox and how its streams meet ours.
type job struct {
	req        agentclient.ExecRequest // complete but for what the sandbox's spec adds
	env        []sandbox.EnvVar        // over the spec's
	timeout    time.Duration
	detachKeys []byte
}

func (a *app) jobOf(e *execFlags, detachKeys []byte, command []string, env []sandbox.EnvVar, workdir, user string) job {
	j := job{env: env, timeout: e.timeout, detachKeys: detachKeys}
	j.req = agentclient.ExecRequest{Cwd: workdir, User: user, TTY: e.wantTTY(a), Rlimits: e.rlimits}
	if len(command) > 0 {
		j.req.Cmd, j.req.Args = command[0], command[1:]
	}
	return j
}

// complete adds what the sandbox's spec says; the side that runs commands has to (contract msb-0.6 §2.4).
func (j *job) complete(spec sandbox.Spec) error {
	what := guest.Given
	if j.req.Cmd == "" && j.req.TTY {
		what = guest.Shell
	}
	return guest.Complete(&j.req, what, spec, j.env)
}

// execIn runs the job in a running sandbox. Its error is an exitCode unless something failed.
func (a *app) execIn(s *signals, b backend.Backend, info sandbox.Info, j job) error {
	client, err := a.connect(s, b, info)
	if err != nil {
		return err
	}
	return a.execOver(s, b, client, info, j)
}

// connect reaches the agent of a running sandbox.
func (a *app) connect(s *signals, b backend.Backend, info sandbox.Info) (*agentclient.Client, error) {
	begin := time.Now()
	client, err := guest.Connect(s.ctx, b, info.Ref)
	if err != nil {
		return nil, a.explainEnd(s, b, info, err)
	}
	a.log.Debug("connect", "sandbox", info.Ref.Name, "took", time.Since(begin))
	return client, nil
}

// execOver is execIn over a connection.
func (a *app) execOver(s *signals, b backend.Backend, client *agentclient.Client, info sandbox.Info, j job) error {
	if err := j.complete(info.Effective()); err != nil {
		return err
	}
	begin := time.Now()
	code, err := a.session(s, client, j)
	if err == nil {
		if code != 0 && code != exitDetached {
			a.tellDenied(s.ctx, b, info.Ref, begin)
		}
		return code
	}
	return a.explainEnd(s, b, info, err)
}

// The reasons for which this side ends a command. Signals are another.
var (
	errDetached = errors.New("detached")
	errTimedOut = errors.New("timed out")
)

// grace is how long a command that was killed may take to say so.
const grace = 500 * time.Millisecond

// session runs the job over client and returns the command's exit code.
func (a *app) session(s *signals, client *agentclient.Client, j job) (exitCode, error) {
	ctx := s.ctx
	if j.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.timeout, errTimedOut)
		defer cancel()
	}
	t := console.Terminal{In: a.in}
	defer t.Restore()
	if j.req.TTY {
		j.req.Rows, j.req.Cols = a.size()
		t.Raw()
	}
	j.req.Stdin = a.stdin(j, func() { s.cancel(errDetached) })
	j.req.Stdout, j.req.Stderr = output{a.out}, output{a.err}
	begin := time.Now()
	x, err := client.Exec(ctx, j.req)
	if err != nil {
		return 0, endedBy(ctx, j, err)
	}
	a.log.Debug("exec started", "took", time.Since(begin))
	s.forwardTo(x, a)

	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := x.Wait()
		done <- result{code, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		select {
		case r = <-done: // it may have ended by itself all the same
		case <-time.After(grace): // it does not die, or whoever reads our output does not
			r.err = ctx.Err()
		}
	}
	s.forwardTo(nil, a)
	a.log.Debug("exec ended", "code", r.code, "err", r.err, "took", time.Since(begin))
	switch {
	case r.err != nil:
		return 0, endedBy(ctx, j, r.err)
	case r.code >= 0:
		return exitCode(r.code), nil
	case ctx.Err() != nil: // the signal that killed it was ours
		return 0, endedBy(ctx, j, ctx.Err())
	}
	if sig := x.Signaled(); sig != 0 {
		return exitCode(128 + sig), nil
	}
	return exitCode(s.killedBy()), nil
}

// endedBy says why this side ended the command, if it did, else err.
func endedBy(ctx context.Context, j job, err error) error {
	switch cause := context.Cause(ctx); cause {
	case nil:
		return err
	case errDetached:
		return exitCode(exitDetached)
	case errTimedOut:
		return guest.TimedOut(j.timeout)
	default:
		return cause
	}
}

// stdin is what the command gets to read, nil for nothing. detached is called when the detach keys were typed.
func (a *app) stdin(j job, detached func()) io.Reader {
	ours := isTerminal(a.in)
	switch {
	case ours && !console.Foreground(a.in):
		return eof{} // to read would stop this process
	case j.req.TTY && ours:
		return &console.DetachReader{In: a.in, Keys: j.detachKeys, Detached: detached}
	case j.req.TTY:
		return &ttyReader{in: a.in}
	}
	return a.in
}

// output is where the command's output goes.
type output struct{ to *os.File }

func (o output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		err = fmt.Errorf("write the command's output: %w", err)
	}
	return n, err
}

// eof is nothing to read.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }
