package microsandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Times of contract msb-0.6 §2.1.
const (
	stopTimeout = 10 * time.Second
	killTimeout = 5 * time.Second
	statusPoll  = 100 * time.Millisecond
)

// Sandbox is a sandbox that is connected to. Its methods may be called from any goroutine. Close or Detach gives it back.
type Sandbox struct {
	handle *SandboxHandle

	mu      sync.Mutex
	owns    bool // Close ends the sandbox
	closed  bool
	link    guest.Link
	running sync.WaitGroup // goroutines that belong to the connection
	closing chan struct{}  // closed with closed
}

func newSandbox(h *SandboxHandle, owns bool) *Sandbox {
	s := &Sandbox{handle: h, owns: owns, closing: make(chan struct{}), link: guest.Link{Get: h.refresh, Dial: h.dial}}
	if b, ok := h.e.manage().(backend.Stamper); ok {
		s.link.Stamp = func() any { return b.Stamp(h.ref) }
	}
	return s
}

// CreateSandbox makes a sandbox and starts it. It returns when commands can be run in it. The sandbox ends with this process,
// unless it was made [WithDetached]; ctx bounds only the call. One that has no [WithEphemeral] stays after its end, with its
// files, until it is removed.
//
// Kinds: ErrSandboxAlreadyExists, unless [WithReplace] is given; ErrInvalidConfig; ErrImageNotFound; ErrImagePullFailed;
// ErrLibraryNotLoaded; ErrUnsupportedOperation; ErrCancelled.
func CreateSandbox(ctx context.Context, name string, opts ...SandboxOption) (*Sandbox, error) {
	s, err := create(ctx, name, opts, nil)
	return s, wrap(err)
}

// create makes a sandbox. change may look at the request before it is made.
func create(ctx context.Context, name string, opts []SandboxOption, change func(*backend.CreateRequest)) (*Sandbox, error) {
	c := SandboxConfig{}
	for _, o := range opts {
		o(&c)
	}
	c.Name = name
	ref := sandbox.DefaultRef(name)
	if err := ref.Validate(); err != nil {
		return nil, err
	}
	e, err := open()
	if err != nil {
		return nil, err
	}
	req := backend.CreateRequest{Ref: ref, Attached: !c.Detached, Replace: c.Replace || c.ReplaceWithTimeout != nil, Grace: backend.ReplaceGrace}
	if t := c.ReplaceWithTimeout; t != nil {
		req.Grace = max(0, roundUp(*t, time.Millisecond))
	}
	if req.Spec, err = c.spec(e.set.File); err != nil {
		return nil, err
	}
	if change != nil {
		change(&req)
	}
	b, err := e.starter()
	if err != nil {
		return nil, err
	}
	if err := c.pull(ctx, e, req.Spec); err != nil {
		return nil, err
	}
	info, err := b.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return newSandbox(newHandle(e, info), req.Attached), nil
}

// ConnectOrCreateSandbox connects to the sandbox of that name. One that has ended is started with the configuration that it
// has, and one that is not there is made as the options say; it outlives this process. The returned Sandbox does not own
// it.
func ConnectOrCreateSandbox(ctx context.Context, name string, opts ...SandboxOption) (*Sandbox, error) {
	for {
		h, err := GetSandbox(ctx, name)
		if err == nil && !h.info.Gone() {
			s, err := h.connectOrStart(ctx, false)
			if IsKind(err, ErrSandboxReplaced) || IsKind(err, ErrSandboxNotFound) {
				continue // it was removed meanwhile
			}
			return s, wrap(err)
		}
		if err != nil && !IsKind(err, ErrSandboxNotFound) {
			return nil, err
		}
		s, err := create(ctx, name, opts, func(r *backend.CreateRequest) { r.Attached, r.Replace = false, false })
		if errors.Is(err, sandbox.AlreadyExists) {
			select {
			case <-ctx.Done():
				return nil, wrap(ctx.Err())
			case <-time.After(time.Millisecond): // somebody else is just making or removing it
				continue
			}
		}
		return s, wrap(err)
	}
}

// StartSandbox starts a sandbox that was stopped. It ends with this process.
func StartSandbox(ctx context.Context, name string) (*Sandbox, error) {
	h, err := GetSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.Start(ctx)
}

// StartSandboxDetached starts a sandbox that was stopped. It outlives this process.
func StartSandboxDetached(ctx context.Context, name string) (*Sandbox, error) {
	h, err := GetSandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.StartDetached(ctx)
}

// RemoveSandbox removes what is kept of a sandbox that has ended. Kinds: ErrSandboxNotFound, ErrSandboxStillRunning.
func RemoveSandbox(ctx context.Context, name string) error {
	h, err := GetSandbox(ctx, name)
	if err != nil {
		return err
	}
	return h.Remove(ctx)
}

// Name is the sandbox's name.
func (s *Sandbox) Name() string { return s.handle.Name() }

// ID is what tells the sandbox from all others, those included that had or will have its name.
func (s *Sandbox) ID() string { return s.handle.ID() }

// BackendKind says where the sandbox lives.
func (s *Sandbox) BackendKind() BackendKind { return s.handle.BackendKind() }

// Config is the configuration that the sandbox had when this Sandbox was made; see SandboxHandle.Refresh for today's.
func (s *Sandbox) Config() (*SandboxConfig, error) { return s.handle.Config() }

// OwnsLifecycle reports whether Close ends the sandbox. Kind: ErrInvalidHandle, after Close or Detach.
func (s *Sandbox) OwnsLifecycle() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, closed()
	}
	return s.owns, nil
}

// OwnsLifecycleOrFalse is OwnsLifecycle without the error.
func (s *Sandbox) OwnsLifecycleOrFalse() bool {
	owns, err := s.OwnsLifecycle()
	return err == nil && owns
}

func closed() error { return fail(ErrInvalidHandle, "the sandbox's handle was closed") }

// Close gives the Sandbox back, and ends the sandbox if it owns it. Commands that were started by it end. Kind:
// ErrInvalidHandle, at the second call.
func (s *Sandbox) Close() error {
	owns, err := s.release()
	if err != nil || !owns || s.handle.e.kind() == BackendCloud { // which lives on by itself
		return err
	}
	err = s.handle.stop(context.Background(), backend.StopOptions{})
	if errors.Is(err, sandbox.NotFound) || errors.Is(err, sandbox.Replaced) {
		return nil // it is gone already
	}
	return wrap(err)
}

// Detach gives the Sandbox back and lets the sandbox live on, also after this process. Kind: ErrInvalidHandle.
func (s *Sandbox) Detach(ctx context.Context) error {
	owns, err := s.release()
	if err != nil || !owns || s.handle.e.kind() == BackendCloud { // which lives on by itself
		return err
	}
	b, err := capable[backend.Owner](s.handle.e, "Sandbox::detach")
	if err == nil {
		err = b.Disown(ctx, s.handle.ref, s.handle.info.ID)
	}
	return wrap(err)
}

// release ends the connection. owns is what Close has to do.
func (s *Sandbox) release() (owns bool, err error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false, closed()
	}
	s.closed = true
	close(s.closing)
	s.mu.Unlock()
	_ = s.link.Close()
	s.running.Wait()
	return s.owns, nil
}

// agent returns the connection to the guest, which all that is done with the Sandbox shares, and the sandbox's present
// configuration. Kinds: InvalidHandle, NotFound, Replaced, NotRunning.
func (s *Sandbox) agent(ctx context.Context) (*agentclient.Client, sandbox.Spec, error) {
	client, spec, err := s.link.Agent(ctx)
	if err == guest.ErrClosed {
		err = closed()
	}
	return client, spec, err
}

// client returns the connection alone, which is less work. Kinds: those of agent.
func (s *Sandbox) client(ctx context.Context) (*agentclient.Client, error) {
	client, err := s.link.Client(ctx)
	if err == guest.ErrClosed {
		err = closed()
	}
	return client, err
}

// dial connects to the agent of a sandbox that runs.
func (h *SandboxHandle) dial(ctx context.Context) (*agentclient.Client, error) {
	return guest.Connect(ctx, h.e.manage(), h.ref)
}

// The rest is what a SandboxHandle can do, too.

// Stop asks the sandbox to end, and kills it when it has not after 10 s (see [WithStopTimeout]). It returns when the sandbox
// has ended; one that has ended already is fine.
func (s *Sandbox) Stop(ctx context.Context, opts ...StopOption) error {
	return s.handle.Stop(ctx, opts...)
}

// RequestStop asks the sandbox to end and does not wait for that.
func (s *Sandbox) RequestStop(ctx context.Context) error { return s.handle.RequestStop(ctx) }

// Kill ends the sandbox at once, and returns when it has ended.
func (s *Sandbox) Kill(ctx context.Context, opts ...KillOption) error {
	return s.handle.Kill(ctx, opts...)
}

// RequestKill ends the sandbox at once.
func (s *Sandbox) RequestKill(ctx context.Context) error { return s.handle.RequestKill(ctx) }

// RequestDrain lets the sandbox begin no new command and end with its last one. It does not wait for that.
func (s *Sandbox) RequestDrain(ctx context.Context) error { return s.handle.RequestDrain(ctx) }

// WaitUntilStopped returns when the sandbox has ended, and how.
func (s *Sandbox) WaitUntilStopped(ctx context.Context) (*SandboxStopResult, error) {
	return s.handle.WaitUntilStopped(ctx)
}

// WaitForStatus returns when the sandbox is in that state. Kind: ErrSandboxNotFound, when it was removed.
func (s *Sandbox) WaitForStatus(ctx context.Context, status SandboxStatus) (*SandboxHandle, error) {
	return s.handle.WaitForStatus(ctx, status)
}

// Restart stops the sandbox and starts it again. The returned Sandbox is the one to use then; it owns the sandbox unless
// [WithRestartDetached] is given. This one does not own it any more.
func (s *Sandbox) Restart(ctx context.Context, opts ...RestartOption) (*Sandbox, error) {
	again, err := s.handle.Restart(ctx, opts...)
	if err == nil {
		s.mu.Lock()
		s.owns = false
		s.mu.Unlock()
	}
	return again, err
}

// Destroy stops the sandbox and removes it.
func (s *Sandbox) Destroy(ctx context.Context, opts ...DestroyOption) error {
	return s.handle.Destroy(ctx, opts...)
}

// Ping asks the sandbox for a sign of life. It does not count as activity.
func (s *Sandbox) Ping(ctx context.Context) (*SandboxPingResult, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return ping(ctx, s.Name(), client)
}

// Touch begins the sandbox's idle timeout anew.
func (s *Sandbox) Touch(ctx context.Context) (*SandboxTouchResult, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return touch(ctx, s.Name(), client)
}

// SandboxPingResult is a sign of life, and how long it took.
type SandboxPingResult struct {
	Name    string
	Latency time.Duration
}

// SandboxTouchResult says how many messages counted as activity so far.
type SandboxTouchResult struct {
	Name        string
	ActivitySeq uint64
}

func ping(ctx context.Context, name string, client *agentclient.Client) (*SandboxPingResult, error) {
	begin := time.Now()
	if err := client.Ping(ctx); err != nil {
		return nil, wrap(err)
	}
	return &SandboxPingResult{Name: name, Latency: time.Since(begin)}, nil
}

func touch(ctx context.Context, name string, client *agentclient.Client) (*SandboxTouchResult, error) {
	seq, err := client.Touch(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	return &SandboxTouchResult{Name: name, ActivitySeq: seq}, nil
}
