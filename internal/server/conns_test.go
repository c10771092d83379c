package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// dialer is a backend whose sandboxes greet and say nothing more.
type dialer struct {
	backend.Backend
	mu    sync.Mutex
	dials int
	fail  error
	ends  []net.Conn // the sandboxes'
	infos []sandbox.Info
}

func (d *dialer) Dial(context.Context, sandbox.Ref) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials++
	if d.fail != nil {
		return nil, d.fail
	}
	ours, theirs := net.Pipe()
	d.ends = append(d.ends, theirs)
	go func() {
		_, _ = theirs.Write(agentproto.Append(agentproto.AppendWords(nil, 1, 1000), 0, agentproto.TypeReady, &agentproto.Ready{}))
	}()
	return ours, nil
}

func (d *dialer) List(context.Context, string) ([]sandbox.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]sandbox.Info{}, d.infos...), nil
}

var someone = sandbox.Ref{Namespace: "n", Name: "s"}

func TestOneConnectionForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{}
		s := New(Config{Backend: d})
		ctx := t.Context()
		var wait sync.WaitGroup
		for range 50 {
			wait.Go(func() {
				_, release, err := s.Agent(ctx, someone)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Second)
				release()
				release() // does nothing
			})
		}
		wait.Wait()
		if d.dials != 1 || s.Connections() != 1 {
			t.Errorf("%d dials, %d connections", d.dials, s.Connections())
		}
		// One that nobody uses goes after a while, one that somebody uses does not.
		client, release, err := s.Agent(ctx, someone)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * idleConn)
		if s.Connections() != 1 {
			t.Error("a connection that is used was closed")
		}
		release()
		time.Sleep(2 * idleConn)
		synctest.Wait()
		if s.Connections() != 0 {
			t.Error("a connection that nobody uses is kept")
		}
		<-client.Done()
		// The next dials anew, and so does the one after the sandbox has ended.
		if client, release, err = s.Agent(ctx, someone); err != nil {
			t.Fatal(err)
		}
		d.ends[1].Close()
		<-client.Done()
		if _, other, err := s.Agent(ctx, someone); err != nil || d.dials != 3 {
			t.Errorf("after the end: %v, %d dials", err, d.dials)
		} else {
			other()
		}
		release()
		s.Close()
		if _, _, err := s.Agent(ctx, someone); sandbox.KindOf(err) != sandbox.Cancelled || s.Connections() != 0 {
			t.Errorf("of a closed server: %v, %d connections", err, s.Connections())
		}
	})
}

func TestFailedDialIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{fail: &sandbox.Error{Kind: sandbox.NotRunning, Message: "it does not run"}}
		s := New(Config{Backend: d})
		defer s.Close()
		if _, _, err := s.Agent(t.Context(), someone); !errors.Is(err, sandbox.NotRunning) {
			t.Errorf("error %v", err)
		}
		d.fail = nil
		_, release, err := s.Agent(t.Context(), someone)
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
}

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := func(cpus, memory int) sandbox.Spec {
			return sandbox.Spec{Resources: sandbox.Resources{CPUs: cpus, MemoryMiB: memory}, Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "x"}}}
		}
		d := &dialer{infos: []sandbox.Info{{Ref: sandbox.Ref{Namespace: "n", Name: "old"}, Status: sandbox.Running, Spec: spec(2, 1024).WithDefaults()}}}
		ref := func(name string) sandbox.Ref { return sandbox.Ref{Namespace: "n", Name: sandbox.Name(name)} }
		s := New(Config{Backend: d, Limits: Limits{CPUs: 4, MemoryMiB: 2048, Starts: 2, Queue: 1}})
		defer s.Close()
		status := func(err error) int {
			var f *Failure
			if errors.As(err, &f) && f.Retry > 0 {
				return f.Status
			}
			return 0
		}
		if _, err := s.Admit(t.Context(), ref("a"), spec(3, 256)); status(err) != http.StatusTooManyRequests {
			t.Errorf("too many CPUs: %v", err)
		}
		if _, err := s.Admit(t.Context(), ref("a"), spec(1, 2000)); status(err) != http.StatusTooManyRequests {
			t.Errorf("too much memory: %v", err)
		}
		grows := spec(1, 256)
		grows.Resources.MaxCPUs = 3
		if _, err := s.Admit(t.Context(), ref("a"), grows); status(err) != http.StatusTooManyRequests {
			t.Errorf("CPUs that it may be given later: %v", err)
		}
		if _, err := s.Reserve(t.Context(), ref("old"), spec(5, 256), true); status(err) != http.StatusTooManyRequests {
			t.Errorf("more CPUs for what runs: %v", err)
		}
		if done, err := s.Admit(t.Context(), ref("old"), spec(4, 2048)); err != nil { // it counts once
			t.Errorf("the same again: %v", err)
		} else {
			done()
		}
		a, err := s.Admit(t.Context(), ref("a"), spec(1, 256))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Admit(t.Context(), ref("b"), spec(2, 256)); status(err) != http.StatusTooManyRequests {
			t.Errorf("what is being started does not count: %v", err)
		}
		b, err := s.Admit(t.Context(), ref("b"), spec(1, 256))
		if err != nil {
			t.Fatal(err)
		}
		// Two start. One waits, the next is told to come back.
		ended := make(chan error)
		go func() {
			done, err := s.Admit(t.Context(), ref("a"), spec(1, 256))
			if err == nil {
				done()
			}
			ended <- err
		}()
		synctest.Wait()
		if s.Waiting() != 1 {
			t.Errorf("%d wait", s.Waiting())
		}
		if _, err := s.Admit(t.Context(), ref("c"), spec(1, 1)); status(err) != http.StatusTooManyRequests {
			t.Errorf("the queue is full: %v", err)
		}
		a()
		a()
		if err := <-ended; err != nil {
			t.Errorf("who waited: %v", err)
		}
		b()
		if s.Waiting() != 0 {
			t.Errorf("%d wait", s.Waiting())
		}
	})
}
