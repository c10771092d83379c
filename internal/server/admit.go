package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// admission bounds the starts that go on at the same time, and what each namespace has.
type admission struct {
	backend backend.Backend
	limits  Limits
	slots   chan struct{}

	mu      sync.Mutex
	waiting int
	coming  map[string]map[*claimed]bool // by namespace: what is being made, started or changed, and not there yet
}

// claimed is what a sandbox is about to take.
type claimed struct {
	ref  sandbox.Ref
	spec sandbox.Spec
	runs bool
}

func newAdmission(b backend.Backend, l Limits) *admission {
	a := &admission{backend: b, limits: l, coming: map[string]map[*claimed]bool{}}
	if n := cmp.Or(l.Starts, 2*runtime.GOMAXPROCS(0)); n > 0 {
		a.slots = make(chan struct{}, n)
	}
	return a
}

// Admit waits for its turn to start a sandbox, and refuses one that would be too much for its namespace. The caller calls done when
// the start has ended, however. What is too much
// is a [Failure], 429 with a time to come back.
func (s *Server) Admit(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec) (done func(), err error) {
	return s.admit.admit(ctx, ref, spec.WithDefaults())
}

// Reserve is Admit without a turn, for what is no start: a sandbox that is made or changed, and runs or does not.
func (s *Server) Reserve(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec, runs bool) (done func(), err error) {
	return s.admit.claim(ctx, &claimed{ref, spec.WithDefaults(), runs})
}

// Waiting is how many starts wait for their turn.
func (s *Server) Waiting() int {
	s.admit.mu.Lock()
	defer s.admit.mu.Unlock()
	return s.admit.waiting
}

func (a *admission) admit(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec) (func(), error) {
	if err := a.turn(ctx, ref); err != nil {
		return nil, err
	}
	leave := func() {
		if a.slots != nil {
			<-a.slots
		}
	}
	done, err := a.claim(ctx, &claimed{ref, spec, true})
	if err != nil {
		leave()
		return nil, err
	}
	return sync.OnceFunc(func() { done(); leave() }), nil
}

// turn takes a slot.
func (a *admission) turn(ctx context.Context, ref sandbox.Ref) error {
	if a.slots == nil {
		return nil
	}
	select {
	case a.slots <- struct{}{}:
		return nil
	default:
	}
	a.mu.Lock()
	most := cmp.Or(a.limits.Queue, 256)
	full := most > 0 && a.waiting >= most
	if !full {
		a.waiting++
	}
	a.mu.Unlock()
	if full {
		return busy("too many sandboxes are being started", 2*time.Second)
	}
	defer func() { a.mu.Lock(); a.waiting--; a.mu.Unlock() }()
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "the start was cancelled", Err: context.Cause(ctx)}
	}
}

// claim looks whether the namespace may have what is claimed, and counts it until done is called.
func (a *admission) claim(ctx context.Context, c *claimed) (done func(), err error) {
	l, ref := a.limits, c.ref
	if l.Sandboxes <= 0 && l.CPUs <= 0 && l.MemoryMiB <= 0 && l.DiskMiB <= 0 {
		return func() {}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	infos, err := a.backend.List(ctx, ref.Namespace)
	if err != nil {
		return nil, err
	}
	var have usage
	for _, i := range infos {
		if i.Ref != ref {
			have.add(i.Effective(), !i.Status.Terminal())
		}
	}
	for other := range a.coming[ref.Namespace] {
		if other.ref != ref {
			have.add(other.spec, other.runs)
		}
	}
	have.add(c.spec, c.runs)
	for _, c := range []struct {
		what       string
		have, most int
	}{{"sandboxes at the same time", have.sandboxes, l.Sandboxes}, {"CPUs", have.cpus, l.CPUs}, {"MiB of memory", have.memory, l.MemoryMiB}, {"MiB of disk", have.disk, l.DiskMiB}} {
		if c.most > 0 && c.have > c.most {
			f := busy(fmt.Sprintf("namespace %s may have %d %s", ref.Namespace, c.most, c.what), 10*time.Second)
			f.Hint = "stop others first"
			return nil, f
		}
	}
	if a.coming[ref.Namespace] == nil {
		a.coming[ref.Namespace] = map[*claimed]bool{}
	}
	a.coming[ref.Namespace][c] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.coming[ref.Namespace], c)
		if len(a.coming[ref.Namespace]) == 0 {
			delete(a.coming, ref.Namespace)
		}
	}, nil
}

// usage is what sandboxes take, or may come to take while they run.
type usage struct{ sandboxes, cpus, memory, disk int }

func (u *usage) add(s sandbox.Spec, runs bool) {
	if d := s.Image.Disk(); d.Kind == sandbox.RootDiskManaged {
		u.disk += d.SizeMiB
	}
	if runs {
		u.sandboxes++
		u.cpus += max(s.Resources.CPUs, s.Resources.MaxCPUs)
		u.memory += max(s.Resources.MemoryMiB, s.Resources.MaxMemoryMiB)
	}
}

func busy(message string, retry time.Duration) *Failure {
	return &Failure{Status: http.StatusTooManyRequests, Code: CodeBusy, Message: message, Retry: retry}
}
