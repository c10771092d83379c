package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
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
	starts  *turns // nil: no bound
	pulls   turns

	mu     sync.Mutex
	coming map[string]map[*claimed]bool // by namespace: what is being made, started or changed, and not there yet
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
		a.starts = &turns{places: n, each: share(n), queue: max(0, cmp.Or(l.Queue, maxQueue))}
	}
	a.pulls = turns{places: math.MaxInt, each: maxPulls, queue: maxQueue}
	return a
}

// Admit waits for its turn to start a sandbox, and refuses one that would be too much for its namespace. The caller calls done when
// the start has ended, however. What is too much is a [Failure], 429 with a time to come back.
func (s *Server) Admit(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec) (done func(), err error) {
	return s.admit.admit(ctx, ref, spec.WithDefaults())
}

// Reserve is Admit without a turn, for what is no start: a sandbox that is made or changed, and runs or does not.
func (s *Server) Reserve(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec, runs bool) (done func(), err error) {
	return s.admit.claim(ctx, &claimed{ref, spec.WithDefaults(), runs})
}

// AdmitCreate is Admit for a sandbox that is made. It gets the image before it waits for its turn, however long that takes, so that Create
// has only to start it, and says so in req. What is only prepared needs no turn.
func (s *Server) AdmitCreate(ctx context.Context, req *backend.CreateRequest) (done func(), err error) {
	spec := req.Spec.WithDefaults()
	reserved, err := s.Reserve(ctx, req.Ref, spec, !req.Prepare)
	if err != nil {
		return nil, err
	}
	if err = s.get(ctx, req); err == nil && !req.Prepare {
		var leave func()
		if leave, err = s.admit.turn(ctx, req.Ref); err == nil {
			return sync.OnceFunc(func() { leave(); reserved() }), nil
		}
	}
	if err != nil {
		reserved()
		return nil, err
	}
	return reserved, nil
}

// get pulls the image of a request, unless it is there or there is nothing to be pulled.
func (s *Server) get(ctx context.Context, req *backend.CreateRequest) error {
	images, ok := s.cfg.Backend.(backend.Images)
	i := req.Spec.Image
	if !ok || i.Bind != nil || i.OCI == nil || i.OCI.Reference == "" || i.OCI.Reference == sandbox.HostImage || req.Spec.PullPolicy == sandbox.PullNever {
		return nil
	}
	opt := backend.PullOptions{Refresh: req.Spec.PullPolicy == sandbox.PullAlways, Auth: req.Registry, Proven: req.Proven}
	if _, err := images.InspectImage(ctx, i.OCI.Reference); err == nil && !opt.Refresh && !opt.Proven {
		return nil
	}
	if progress := req.Progress; progress != nil {
		opt.Progress = func(e backend.PullEvent) { progress(backend.Event{Step: "image", Pull: &e}) }
	}
	done, err := s.PullTurn(ctx, req.Ref.Namespace)
	if err != nil {
		return err
	}
	defer done()
	if _, err := images.PullImage(ctx, i.OCI.Reference, opt); err != nil {
		return err
	}
	req.Pulled, req.Proven = true, false // it was just now
	return nil
}

// maxPulls is how many images a namespace gets at the same time, and maxQueue how many pulls, and starts where nothing else is said, wait.
const (
	maxPulls = 4
	maxQueue = 256
)

// PullTurn waits until a namespace may get one image more. The caller calls done when it is there.
func (s *Server) PullTurn(ctx context.Context, namespace string) (done func(), err error) {
	if err := s.admit.pulls.take(ctx, namespace); err != nil {
		if ctx.Err() != nil {
			err = &sandbox.Error{Op: "pull image", Kind: sandbox.Cancelled, Message: "the pull was cancelled", Err: err}
		}
		return nil, err
	}
	return func() { s.admit.pulls.leave(namespace) }, nil
}

// Waiting is how many starts wait for their turn.
func (s *Server) Waiting() int {
	if s.admit.starts == nil {
		return 0
	}
	return s.admit.starts.length()
}

func (a *admission) admit(ctx context.Context, ref sandbox.Ref, spec sandbox.Spec) (func(), error) {
	done, err := a.claim(ctx, &claimed{ref, spec, true})
	if err != nil {
		return nil, err
	}
	leave, err := a.turn(ctx, ref)
	if err != nil {
		done()
		return nil, err
	}
	return sync.OnceFunc(func() { leave(); done() }), nil
}

// turn waits for a place among the starts.
func (a *admission) turn(ctx context.Context, ref sandbox.Ref) (leave func(), err error) {
	if a.starts == nil {
		return func() {}, nil
	}
	if err := a.starts.take(ctx, ref.Namespace); err != nil {
		if ctx.Err() != nil {
			err = &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.Cancelled, Message: "the start was cancelled", Err: err}
		}
		return nil, err
	}
	return func() { a.starts.leave(ref.Namespace) }, nil
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
