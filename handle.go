package microsandbox

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
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
