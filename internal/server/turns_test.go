package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestTurns has one namespace take as many places as it gets and wait for more: another has its place at once, and those who wait give way to
// it where the queue is full.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := &turns{places: 4, each: share(4), queue: 4}
		var mu sync.Mutex
		has, refused := map[string]int{}, map[string]int{}
		var all sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		ask := func(ns string) {
			all.Go(func() {
				err := places.take(ctx, ns)
				mu.Lock()
				defer mu.Unlock()
				var f *Failure
				switch {
				case err == nil:
					has[ns]++
				case errors.As(err, &f) && f.Status == http.StatusTooManyRequests && f.Retry > 0:
					refused[ns]++
				case err != context.Canceled:
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		look := func(when string, want string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if got := fmt.Sprint(has, " refused ", refused, " waiting ", places.length()); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		for range 8 {
			ask("a")
		}
		look("a alone", "map[a:3] refused map[a:1] waiting 4")
		ask("b")
		look("b comes", "map[a:3 b:1] refused map[a:1] waiting 4")
		ask("b")
		ask("c")
		look("the queue is full", "map[a:3 b:1] refused map[a:3] waiting 4")
		places.leave("a")
		synctest.Wait()
		look("one goes", "map[a:3 b:1 c:1] refused map[a:3] waiting 3")
		places.leave("a")
		synctest.Wait()
		places.leave("a")
		synctest.Wait()
		look("all of a go", "map[a:5 b:1 c:1] refused map[a:3] waiting 1")
		stop()
		all.Wait()
		look("nobody waits", "map[a:5 b:1 c:1] refused map[a:3] waiting 0")
		for _, ns := range []string{"a", "a", "b", "c"} {
			places.leave(ns)
		}
		if places.taken != 0 || len(places.of) != 0 {
			t.Errorf("%d places are taken, %v", places.taken, places.of)
		}
	})
}

// registry is a backend whose images do not come until they are let.
type registry struct {
	dialer
	backend.Images
	come chan struct{}

	mu    sync.Mutex
	pulls []string
}

func (r *registry) InspectImage(_ context.Context, ref string) (backend.ImageDetail, error) {
	if ref == "here" {
		return backend.ImageDetail{}, nil
	}
	return backend.ImageDetail{}, sandbox.ImageNotFound
}

func (r *registry) PullImage(_ context.Context, ref string, _ backend.PullOptions) (backend.Image, error) {
	r.mu.Lock()
	r.pulls = append(r.pulls, ref)
	r.mu.Unlock()
	<-r.come
	return backend.Image{}, nil
}

// TestPullsTakeNoPlace has one namespace pull images that do not come: others start, and so does it what is there.
func TestPullsTakeNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{come: make(chan struct{})}
		s := New(Config{Backend: r, Limits: Limits{Starts: 1}})
		defer s.Close()
		create := func(ns, image string, policy string) (*backend.CreateRequest, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			req := &backend.CreateRequest{Ref: sandbox.Ref{Namespace: ns, Name: "x"}, Spec: sandbox.Spec{PullPolicy: policy, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: image}}}}
			done, err := s.AdmitCreate(ctx, req)
			if err == nil {
				done()
			}
			return req, err
		}
		var all sync.WaitGroup
		for range 2 * maxPulls {
			all.Go(func() {
				if req, err := create("a", "far", sandbox.PullIfMissing); err != nil || !req.Pulled {
					t.Errorf("pulled %v, %v", req.Pulled, err)
				}
			})
		}
		synctest.Wait()
		if len(r.pulls) != maxPulls {
			t.Errorf("%d pulls of one namespace at once", len(r.pulls))
		}
		for _, ns := range []string{"a", "b"} {
			if req, err := create(ns, "here", sandbox.PullIfMissing); err != nil || req.Pulled {
				t.Errorf("%s starts what is there: pulled %v, %v", ns, req.Pulled, err)
			}
		}
		all.Go(func() {
			if req, err := create("b", "here", sandbox.PullAlways); err != nil || !req.Pulled {
				t.Errorf("pulled %v, %v", req.Pulled, err)
			}
		})
		synctest.Wait()
		if len(r.pulls) != maxPulls+1 {
			t.Errorf("%d pulls with those of another namespace", len(r.pulls))
		}
		close(r.come)
		all.Wait()
		if s.Waiting() != 0 || s.admit.pulls.taken != 0 || s.admit.starts.taken != 0 {
			t.Errorf("%d wait, %d pull, %d start", s.Waiting(), s.admit.pulls.taken, s.admit.starts.taken)
		}
	})
}
