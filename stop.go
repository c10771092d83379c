package microsandbox

import (
	"context"
	"errors"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

type lifecycleOptions struct {
	timeout  time.Duration
	force    bool
	detached bool
}

// StopOption changes how Stop does it.
type StopOption func(*lifecycleOptions)

// WithStopTimeout sets how long the sandbox may take to end before it is killed, rounded up to milliseconds; 0 kills it at
// once.
func WithStopTimeout(timeout time.Duration) StopOption {
	return func(o *lifecycleOptions) { o.timeout = timeout }
}

// KillOption changes how Kill does it.
type KillOption func(*lifecycleOptions)

// WithKillTimeout sets how long Kill waits for the end.
func WithKillTimeout(timeout time.Duration) KillOption {
	return func(o *lifecycleOptions) { o.timeout = timeout }
}

// RestartOption changes how Restart does it.
type RestartOption func(*lifecycleOptions)

// WithRestartForce kills the sandbox instead of asking it to end.
func WithRestartForce() RestartOption { return func(o *lifecycleOptions) { o.force = true } }

// WithRestartTimeout is as [WithStopTimeout].
func WithRestartTimeout(timeout time.Duration) RestartOption {
	return func(o *lifecycleOptions) { o.timeout = timeout }
}

// WithRestartDetached lets the sandbox outlive this process.
func WithRestartDetached() RestartOption { return func(o *lifecycleOptions) { o.detached = true } }

// DestroyOption changes how Destroy does it.
type DestroyOption func(*lifecycleOptions)

// WithDestroyForce kills the sandbox instead of asking it to end.
func WithDestroyForce() DestroyOption { return func(o *lifecycleOptions) { o.force = true } }

// WithDestroyTimeout is as [WithStopTimeout].
func WithDestroyTimeout(timeout time.Duration) DestroyOption {
	return func(o *lifecycleOptions) { o.timeout = timeout }
}

func (o lifecycleOptions) stop() backend.StopOptions {
	return guest.StopWithin(roundUp(o.timeout, time.Millisecond), o.force)
}

// Stop asks the sandbox to end, and kills it when it has not after 10 s (see [WithStopTimeout]). It returns when the sandbox
// has ended; one that has ended already is fine.
func (h *SandboxHandle) Stop(ctx context.Context, opts ...StopOption) error {
	o := lifecycleOptions{timeout: stopTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	return wrap(h.stop(ctx, o.stop()))
}

func (h *SandboxHandle) stop(ctx context.Context, opt backend.StopOptions) error {
	info, err := h.refresh(ctx)
	if err != nil || info.Status.Terminal() {
		return err
	}
	err = h.e.manage().Stop(ctx, h.ref, opt)
	if errors.Is(err, sandbox.NotRunning) || errors.Is(err, sandbox.NotFound) && info.Spec.Lifecycle.Ephemeral {
		return nil // it ended by itself
	}
	return err
}

// RequestStop asks the sandbox to end and does not wait for that.
func (h *SandboxHandle) RequestStop(ctx context.Context) error {
	if _, err := h.refresh(ctx); err != nil {
		return wrap(err)
	}
	client, err := h.dial(ctx)
	if err != nil {
		return wrap(err)
	}
	err = client.Shutdown(ctx)
	go func() { // not before: the frame could be lost
		defer client.Close()
		select {
		case <-client.Done():
		case <-time.After(stopTimeout):
		}
	}()
	return wrap(err)
}

// Kill ends the sandbox at once, and returns when it has ended.
func (h *SandboxHandle) Kill(ctx context.Context, opts ...KillOption) error {
	o := lifecycleOptions{timeout: killTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	ctx, cancel := context.WithTimeout(ctx, max(o.timeout, time.Millisecond))
	defer cancel()
	return wrap(h.stop(ctx, backend.StopOptions{Force: true}))
}

// RequestKill ends the sandbox at once. To be killed takes no time that it were worth not to wait for.
func (h *SandboxHandle) RequestKill(ctx context.Context) error { return h.Kill(ctx) }

// RequestDrain lets the sandbox begin no new command and end with its last one. It does not wait for that.
func (h *SandboxHandle) RequestDrain(ctx context.Context) error {
	b, err := capable[backend.Drainer](h.e, "SandboxHandle::drain")
	if err == nil {
		_, err = h.refresh(ctx)
	}
	if err == nil {
		err = b.Drain(ctx, h.ref)
	}
	return wrap(err)
}

// Restart stops the sandbox and starts it again. The returned Sandbox owns it unless [WithRestartDetached] is given. Kind:
// ErrInvalidArgument, for one that is ephemeral, which is left as it is.
func (h *SandboxHandle) Restart(ctx context.Context, opts ...RestartOption) (*Sandbox, error) {
	o := lifecycleOptions{timeout: stopTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	info, err := h.refresh(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	var again *Sandbox
	err = guest.Restart(ctx, h.e.manage(), info, o.stop(), func() (err error) {
		again, err = h.start(ctx, !o.detached)
		return err
	})
	return again, wrap(err)
}

// Destroy stops the sandbox and removes it.
func (h *SandboxHandle) Destroy(ctx context.Context, opts ...DestroyOption) error {
	o := lifecycleOptions{timeout: stopTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	if err := h.stop(ctx, o.stop()); err != nil {
		return wrap(err)
	}
	if h.info.Spec.Lifecycle.Ephemeral {
		return nil // nothing is left of it
	}
	return wrap(h.e.manage().Remove(ctx, h.ref, false))
}

// Remove removes what is kept of a sandbox that has ended. Kind: ErrSandboxStillRunning.
func (h *SandboxHandle) Remove(ctx context.Context) error {
	if _, err := h.refresh(ctx); err != nil {
		return wrap(err)
	}
	return wrap(h.e.manage().Remove(ctx, h.ref, false))
}
