package microsandbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// SandboxHandle is what is recorded of a sandbox. What it says is as of its making (see Refresh); what it does, it does to
// the same sandbox, and when another one has its name by then, fails with ErrSandboxReplaced.
type SandboxHandle struct {
	e    *engine
	ref  sandbox.Ref
	info sandbox.Info
}

func newHandle(e *engine, info sandbox.Info) *SandboxHandle {
	return &SandboxHandle{e: e, ref: info.Ref, info: info}
}

// GetSandbox returns what is recorded of a sandbox. Kind: ErrSandboxNotFound.
func GetSandbox(ctx context.Context, name string) (*SandboxHandle, error) {
	e, err := open()
	if err != nil {
		return nil, wrap(err)
	}
	ref := sandbox.DefaultRef(name)
	if err := ref.Validate(); err != nil {
		return nil, wrap(err)
	}
	info, err := e.get(ctx, ref, "")
	if err != nil {
		return nil, wrap(err)
	}
	return newHandle(e, info), nil
}

// SandboxPage is some of the sandboxes, newest first. NextCursor leads to those after them, and is nil when there are none.
type SandboxPage struct {
	Sandboxes  []*SandboxHandle
	NextCursor *string
}

// ListOption selects sandboxes.
type ListOption func(*listOptions)

type listOptions struct {
	cursor string
	limit  int
	labels map[string]string
}

// The bounds of [WithListLimit] (contract msb-0.6 §2.1).
const (
	listLimit    = 20
	maxListLimit = 100
)

// WithListCursor goes on behind a page.
func WithListCursor(cursor string) ListOption { return func(o *listOptions) { o.cursor = cursor } }

// WithListLimit bounds a page; the default is 20, the most 100.
func WithListLimit(limit uint32) ListOption {
	return func(o *listOptions) { o.limit = int(min(limit, maxListLimit)) }
}

// WithListLabels selects sandboxes with all of these labels.
func WithListLabels(labels map[string]string) ListOption {
	return func(o *listOptions) { merge(&o.labels, labels) }
}

// ListSandboxes returns the newest sandboxes, at most 20 (see [ListSandboxesWith]).
func ListSandboxes(ctx context.Context) (*SandboxPage, error) { return ListSandboxesWith(ctx) }

// ListSandboxesWith returns one page of the sandboxes that the options select. Kind: ErrInvalidArgument, for a cursor that is
// none.
func ListSandboxesWith(ctx context.Context, opts ...ListOption) (*SandboxPage, error) {
	o := listOptions{}
	for _, opt := range opts {
		opt(&o)
	}
	if o.limit == 0 {
		o.limit = listLimit
	}
	var after time.Time
	if o.cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(o.cursor)
		at, nerr := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || nerr != nil {
			return nil, wrap(&sandbox.Error{Op: "list", Kind: sandbox.InvalidCursor, Message: fmt.Sprintf("%.100q", o.cursor)})
		}
		after = time.Unix(0, at)
	}
	e, err := open()
	if err != nil {
		return nil, wrap(err)
	}
	infos, err := e.manage().List(ctx, sandbox.DefaultNamespace)
	if err != nil {
		return nil, wrap(err)
	}
	page := &SandboxPage{}
	for _, info := range infos {
		h := newHandle(e, info)
		if !after.IsZero() && !h.info.CreatedAt.Before(after) || !h.info.Spec.HasLabels(o.labels) {
			continue
		}
		if len(page.Sandboxes) == o.limit {
			last := page.Sandboxes[o.limit-1].info.CreatedAt
			cursor := base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(last.UnixNano(), 10)))
			page.NextCursor = &cursor
			break
		}
		page.Sandboxes = append(page.Sandboxes, h)
	}
	return page, nil
}

// Name is the sandbox's name.
func (h *SandboxHandle) Name() string { return string(h.ref.Name) }

// ID is what tells the sandbox from all others, those included that had or will have its name.
func (h *SandboxHandle) ID() string { return h.e.publicID(h.info.ID) }

// Status is where the sandbox was in its life.
func (h *SandboxHandle) Status() SandboxStatus { return SandboxStatus(h.info.Status) }

// BackendKind says where the sandbox lives.
func (h *SandboxHandle) BackendKind() BackendKind { return h.e.kind() }

// ConfigJSON is the recorded configuration (contract msb-0.6 §2.12).
func (h *SandboxHandle) ConfigJSON() string {
	b, err := json.Marshal(h.info.Spec)
	if err != nil {
		return "" // a spec that was recorded can be
	}
	return string(b)
}

// Config is the recorded configuration.
func (h *SandboxHandle) Config() (*SandboxConfig, error) {
	c := configOf(h.info.Spec)
	return &c, nil
}

// CreatedAt is when the sandbox was made.
func (h *SandboxHandle) CreatedAt() time.Time { return h.info.CreatedAt }

// UpdatedAt is when its record was last changed.
func (h *SandboxHandle) UpdatedAt() time.Time { return h.info.UpdatedAt }

// refresh is Refresh for those who wrap errors themselves.
func (h *SandboxHandle) refresh(ctx context.Context) (sandbox.Info, error) {
	return h.e.get(ctx, h.ref, h.info.ID)
}

// Refresh returns the same sandbox as it is now.
func (h *SandboxHandle) Refresh(ctx context.Context) (*SandboxHandle, error) {
	info, err := h.refresh(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return newHandle(h.e, info), nil
}

// Connect connects to a sandbox that runs. The returned Sandbox does not own it. Kind: ErrSandboxNotRunning.
func (h *SandboxHandle) Connect(ctx context.Context) (*Sandbox, error) {
	s, err := h.connect(ctx)
	return s, wrap(err)
}

func (h *SandboxHandle) connect(ctx context.Context) (*Sandbox, error) {
	info, err := h.refresh(ctx)
	if err != nil {
		return nil, err
	}
	s := newSandbox(newHandle(h.e, info), false)
	if _, _, err := s.agent(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Start starts the sandbox if it does not run. If it was this call that started it, it ends with this process, and the
// returned Sandbox owns it.
func (h *SandboxHandle) Start(ctx context.Context) (*Sandbox, error) {
	s, err := h.start(ctx, true)
	return s, wrap(err)
}

// StartDetached starts the sandbox if it does not run. It outlives this process.
func (h *SandboxHandle) StartDetached(ctx context.Context) (*Sandbox, error) {
	s, err := h.start(ctx, false)
	return s, wrap(err)
}

func (h *SandboxHandle) start(ctx context.Context, attached bool) (*Sandbox, error) {
	if _, err := h.refresh(ctx); err != nil {
		return nil, err
	}
	b, err := h.e.starter()
	if err != nil {
		return nil, err
	}
	ours := false
	info, err := b.Start(ctx, h.ref, backend.StartOptions{Attached: attached, Progress: func(e backend.Event) { ours = ours || e.Step == "boot" }})
	switch {
	case err != nil:
		return nil, err
	case info.ID != h.info.ID:
		return nil, h.e.replaced(h.ref, h.info.ID, info.ID)
	case info.Status.Terminal(): // an ephemeral one, which cannot be started
		return nil, info.NotRunning("")
	}
	return newSandbox(newHandle(h.e, info), ours && attached), nil
}

// ConnectOrStartOption changes what ConnectOrStart does.
type ConnectOrStartOption func(*connectOrStartOptions)

type connectOrStartOptions struct{ detached bool }

// WithConnectOrStartDetached lets a sandbox that has to be started outlive this process.
func WithConnectOrStartDetached() ConnectOrStartOption {
	return func(o *connectOrStartOptions) { o.detached = true }
}

// ConnectOrStart connects to the sandbox, and starts it if it does not run. Only if this call started it, and not detached,
// the returned Sandbox owns it.
func (h *SandboxHandle) ConnectOrStart(ctx context.Context, opts ...ConnectOrStartOption) (*Sandbox, error) {
	o := connectOrStartOptions{}
	for _, opt := range opts {
		opt(&o)
	}
	s, err := h.connectOrStart(ctx, !o.detached)
	return s, wrap(err)
}

func (h *SandboxHandle) connectOrStart(ctx context.Context, attached bool) (*Sandbox, error) {
	s, err := h.connect(ctx)
	if !errors.Is(err, sandbox.NotRunning) {
		return s, err
	}
	return h.start(ctx, attached)
}

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

// SandboxStopResult says how a sandbox ended.
type SandboxStopResult struct {
	Name       string
	Status     SandboxStatus // stopped or crashed
	ExitCode   *int
	Signal     *int
	ObservedAt time.Time
	Source     *string // why it ended, e.g. "idle-timeout"
}

// WaitUntilStopped returns when the sandbox has ended, and how. Of one that was ephemeral nothing may be known but that.
func (h *SandboxHandle) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	info, err := h.await(ctx, func(i sandbox.Info) bool { return i.Status == sandbox.Stopped || i.Status == sandbox.Crashed })
	if errors.Is(err, sandbox.NotFound) && h.info.Spec.Lifecycle.Ephemeral {
		info, err = h.info, nil
		info.Status, info.End = sandbox.Stopped, nil
	}
	if err != nil {
		return nil, wrap(err)
	}
	r := &SandboxStopResult{Name: h.Name(), Status: SandboxStatus(info.Status), ObservedAt: time.Now()}
	if e := info.End; e != nil {
		source := string(e.Reason)
		r.ExitCode, r.Signal, r.Source = e.ExitCode, e.Signal, &source
	}
	return r, nil
}

// WaitForStatus returns when the sandbox is in that state. Kind: ErrSandboxNotFound, when it was removed.
func (h *SandboxHandle) WaitForStatus(ctx context.Context, status SandboxStatus) (*SandboxHandle, error) {
	info, err := h.await(ctx, func(i sandbox.Info) bool { return SandboxStatus(i.Status) == status })
	if err != nil {
		return nil, wrap(err)
	}
	return newHandle(h.e, info), nil
}

// await polls the record (contract msb-0.6 §2.3).
func (h *SandboxHandle) await(ctx context.Context, done func(sandbox.Info) bool) (sandbox.Info, error) {
	tick := time.NewTicker(statusPoll)
	defer tick.Stop()
	for {
		info, err := h.refresh(ctx)
		if err != nil || done(info) {
			return info, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return info, ctx.Err()
		}
	}
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

// Ping asks the sandbox for a sign of life. It does not count as activity.
func (h *SandboxHandle) Ping(ctx context.Context) (*SandboxPingResult, error) {
	client, err := h.once(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	defer client.Close()
	return ping(ctx, h.Name(), client)
}

// Touch begins the sandbox's idle timeout anew.
func (h *SandboxHandle) Touch(ctx context.Context) (*SandboxTouchResult, error) {
	client, err := h.once(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	defer client.Close()
	return touch(ctx, h.Name(), client)
}

// once is a connection for one question.
func (h *SandboxHandle) once(ctx context.Context) (*agentclient.Client, error) {
	if _, err := h.refresh(ctx); err != nil {
		return nil, err
	}
	return h.dial(ctx)
}
