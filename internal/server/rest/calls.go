package rest

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// calls are the requests that clients gave a name, to take them back (see Handler.revoke).
type calls struct {
	mu  sync.Mutex
	all map[string]map[string]*call // by namespace and name
}

// call is one that goes on, or did just now.
type call struct {
	cancel context.CancelFunc // nil of one that was taken back before it came
	done   chan struct{}
	made   sandbox.Info // what it made, after done: its Ref and ID
}

// keptCall is how long a call can be taken back, and keptCalls how many of a namespace there are.
const (
	keptCall  = time.Minute
	keptCalls = 10_000
)

// enterLocked keeps a call, unless there are too many of its namespace.
func (c *calls) enterLocked(namespace, id string, one *call) error {
	if len(c.all[namespace]) >= keptCalls {
		return &server.Failure{Status: http.StatusTooManyRequests, Message: "too many requests have names, or are taken back", Retry: keptCall}
	}
	if c.all[namespace] == nil {
		c.all[namespace] = map[string]*call{}
	}
	c.all[namespace][id] = one
	return nil
}

// forget keeps a call no longer than it can be taken back.
func (c *calls) forget(namespace, id string) {
	time.AfterFunc(keptCall, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all[namespace], id)
		if len(c.all[namespace]) == 0 {
			delete(c.all, namespace)
		}
	})
}

// called runs f, which makes or starts something, so that the client can take it back by the name that it gave the request. What is not
// fresh was there before and stays as it is.
func (h *Handler) called(r *request, fresh bool, cancel context.CancelFunc, f func() (sandbox.Info, error)) (sandbox.Info, error) {
	id := r.Header.Get(cloudapi.RequestHeader)
	if id == "" || len(id) > 64 {
		return f()
	}
	c := &call{cancel: cancel, done: make(chan struct{})}
	h.calls.mu.Lock()
	err := invalid("this request was made before, or taken back")
	if h.calls.all[r.namespace][id] == nil {
		err = h.calls.enterLocked(r.namespace, id, c)
	}
	h.calls.mu.Unlock()
	if err != nil {
		return sandbox.Info{}, err
	}
	info, err := f()
	if fresh {
		c.made = sandbox.Info{Ref: info.Ref, ID: info.ID}
	}
	close(c.done)
	h.calls.forget(r.namespace, id)
	return info, err
}

// revoke takes a request back that its client did not wait for: it is ended, and what it made goes. One that comes later is refused.
func (h *Handler) revoke(r *request) (any, error) {
	id := r.PathValue("id")
	if len(id) > 64 {
		return nil, invalid("this is the name of no request")
	}
	h.calls.mu.Lock()
	c := h.calls.all[r.namespace][id]
	var err error
	if c == nil {
		c = &call{done: make(chan struct{})}
		close(c.done)
		if err = h.calls.enterLocked(r.namespace, id, c); err == nil {
			h.calls.forget(r.namespace, id)
		}
	}
	h.calls.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if c.cancel != nil {
		c.cancel()
	}
	select {
	case <-c.done:
	case <-r.Context().Done():
		return nil, &sandbox.Error{Kind: sandbox.Cancelled, Message: "it goes on"}
	}
	if err := h.undo(r, c.made); err != nil {
		return nil, err
	}
	return cloudapi.Message{Message: http.StatusText(http.StatusOK)}, nil
}

// undo removes or stops what a request made that was taken back.
func (h *Handler) undo(r *request, made sandbox.Info) error {
	how := r.URL.Query().Get("undo")
	if made.ID == "" || how == "" {
		return nil
	}
	if now, err := h.backend.Get(r.Context(), made.Ref); err != nil || now.ID != made.ID {
		return nil
	}
	var err error
	switch how {
	case "remove":
		err = h.backend.Remove(r.Context(), made.Ref, true)
	case "stop":
		err = h.backend.Stop(r.Context(), made.Ref, backend.StopOptions{Force: true})
	default:
		return invalid("undo is not remove or stop")
	}
	h.server.Audited(r.Context(), how, made.Ref, err)
	if k := sandbox.KindOf(err); k == sandbox.NotFound || k == sandbox.NotRunning {
		return nil
	}
	return err
}
