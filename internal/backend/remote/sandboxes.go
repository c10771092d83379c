package remote

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// byName is the path of a sandbox.
func byName(ref sandbox.Ref) string { return "/sandboxes/by-name/" + url.PathEscape(string(ref.Name)) }

// info is what an answer says of the sandbox that was asked for as ref.
func info(s cloudapi.Sandbox, ref sandbox.Ref) sandbox.Info {
	var i sandbox.Info
	if s.Info != nil {
		i = *s.Info
	} else {
		i = sandbox.Info{ID: s.ID, Status: cloudapi.Status(s.Status), CreatedAt: s.CreatedAt, UpdatedAt: s.CreatedAt}
		if s.Spec != nil {
			i.Spec, _ = s.Spec.Spec() // as much of it as there is
		}
		i.Spec.Name = sandbox.Name(s.Name)
		i.Spec.Lifecycle.Ephemeral = s.Ephemeral
		i.Spec = i.Spec.WithDefaults()
		if s.StartedAt != nil {
			i.UpdatedAt = *s.StartedAt
		}
		if i.Status == sandbox.Stopped || i.Status == sandbox.Crashed {
			i.End = &sandbox.End{Reason: sandbox.ReasonShutdown, At: i.UpdatedAt}
			if s.StoppedAt != nil {
				i.End.At = *s.StoppedAt
			}
			if s.LastFailure != nil {
				i.End.Reason, i.End.Message = sandbox.ReasonFailed, *s.LastFailure
			}
		}
	}
	i.Ref = sandbox.Ref{Namespace: ref.Namespace, Name: sandbox.Name(s.Name)}
	return i
}

// check looks at a name before it is sent.
func check(ref sandbox.Ref) error { return ref.Validate() }

// Get returns what is recorded of one sandbox.
func (b *Backend) Get(ctx context.Context, ref sandbox.Ref) (sandbox.Info, error) {
	if err := check(ref); err != nil {
		return sandbox.Info{}, err
	}
	var s cloudapi.Sandbox
	err := b.do(ctx, call{op: "get", ref: ref, method: http.MethodGet, path: byName(ref)}, &s)
	if err != nil {
		return sandbox.Info{}, err
	}
	return info(s, ref), nil
}

// Find returns what is recorded of the sandbox with an ID.
func (b *Backend) Find(ctx context.Context, id string) (sandbox.Info, error) {
	var s cloudapi.Sandbox
	err := b.do(ctx, call{op: "get", method: http.MethodGet, path: "/sandboxes/" + url.PathEscape(id)}, &s)
	if err != nil {
		return sandbox.Info{}, err
	}
	ref := sandbox.DefaultRef(s.Name)
	if s.Info != nil {
		ref = s.Info.Ref
	}
	return info(s, ref), nil
}

// The size of a page, and how many there may be.
const (
	pageSize = 100
	maxPages = 10_000
)

// List returns the sandboxes of a namespace, newest first.
func (b *Backend) List(ctx context.Context, namespace string) ([]sandbox.Info, error) {
	var all []sandbox.Info
	q := url.Values{"limit": {fmt.Sprint(pageSize)}}
	for range maxPages {
		var page cloudapi.Page[cloudapi.Sandbox]
		if err := b.do(ctx, call{op: "list", namespace: namespace, method: http.MethodGet, path: "/sandboxes", query: q}, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Data {
			ref := sandbox.Ref{Namespace: namespace, Name: sandbox.Name(s.Name)}
			if namespace == "" {
				ref.Namespace = sandbox.DefaultNamespace
			}
			all = append(all, info(s, ref))
		}
		if page.NextCursor == nil || *page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", *page.NextCursor)
	}
	return nil, &sandbox.Error{Op: "list", Kind: sandbox.Protocol, Message: "the cloud's list does not end"}
}

// waiting is the query that waits for a sandbox to run.
func waiting(ours bool) (url.Values, time.Duration) {
	wait := otherWait
	if ours {
		wait = startTimeout
	}
	return url.Values{"wait_for": {"running"}, "wait_timeout": {fmt.Sprint(int(wait.Seconds()))}}, wait + 5*time.Second
}

// Create makes a sandbox and starts it.
func (b *Backend) Create(ctx context.Context, req backend.CreateRequest) (sandbox.Info, error) {
	if err := check(req.Ref); err != nil {
		return sandbox.Info{}, err
	}
	body, lost, err := b.body(ctx, req)
	if err != nil {
		return sandbox.Info{}, err
	}
	ours := body.Extension != nil
	if !ours && len(lost) > 0 {
		return sandbox.Info{}, &sandbox.Error{Op: "create", Ref: req.Ref, Kind: sandbox.Unsupported, Message: "this cloud cannot give a sandbox: " + strings.Join(lost, ", ")}
	}
	if !ours && req.Replace {
		if err := b.Remove(ctx, req.Ref, true); err != nil && sandbox.KindOf(err) != sandbox.NotFound {
			return sandbox.Info{}, err
		}
	}
	c := call{op: "create", ref: req.Ref, method: http.MethodPost, path: "/sandboxes", body: body, create: true}
	if !req.Prepare {
		c.query, c.timeout = waiting(ours)
		c.query.Set("start", "true")
	}
	if req.Progress != nil {
		req.Progress(backend.Event{Step: "boot", Text: "Starting " + string(req.Ref.Name)})
	}
	var s cloudapi.Sandbox
	if err := b.taken(ctx, c, ours, "remove", &s); err != nil {
		return sandbox.Info{}, err
	}
	return info(s, req.Ref), nil
}

// body is the body of a request.
func (b *Backend) body(ctx context.Context, req backend.CreateRequest) (cloudapi.CreateBody, []string, error) {
	spec := req.Spec
	spec.Name = req.Ref.Name
	v, err := b.extension(ctx)
	if err != nil {
		return cloudapi.CreateBody{}, nil, err
	}
	body, lost := cloudapi.BodyOf(spec, true)
	if a := req.Registry; a != nil {
		body.Registry = &cloudapi.Registry{Mode: "inline", Username: a.Username, Password: string(a.Password)}
	}
	if v < cloudapi.ExtensionVersion {
		return body, lost, nil
	}
	body = cloudapi.CreateBody{Name: body.Name, Image: body.Image, Registry: body.Registry, Extension: &cloudapi.Extension{Spec: &spec, Startup: req.Startup, Replace: req.Replace,
		GraceMS: req.Grace.Milliseconds(), Generated: req.Generated, Values: map[string]string{}}}
	if s := spec.Network.Secrets; s != nil {
		for _, x := range s.Secrets {
			body.Extension.Values[x.EnvVar] = x.Value.Reveal()
		}
	}
	return body, nil, nil
}

// Start starts a sandbox that was stopped.
func (b *Backend) Start(ctx context.Context, ref sandbox.Ref, opt backend.StartOptions) (sandbox.Info, error) {
	if err := check(ref); err != nil {
		return sandbox.Info{}, err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return sandbox.Info{}, err
	}
	ours := v >= cloudapi.ExtensionVersion
	if !ours && opt.Sole {
		now, err := b.Get(ctx, ref)
		if err == nil && !now.Status.Terminal() {
			err = &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.AlreadyExists}
		}
		if err != nil {
			return sandbox.Info{}, err
		}
	}
	c := call{op: "start", ref: ref, method: http.MethodPost, path: byName(ref) + "/start", body: cloudapi.StartBody{Sole: opt.Sole, Quiet: opt.Quiet}}
	c.query, c.timeout = waiting(ours)
	if opt.Progress != nil {
		opt.Progress(backend.Event{Step: "boot", Text: "Starting " + string(ref.Name)})
	}
	var s cloudapi.Sandbox
	if err := b.taken(ctx, c, ours, "stop", &s); err != nil {
		return sandbox.Info{}, err
	}
	return info(s, ref), nil
}

// stopPoll is how often a sandbox that is ending is looked at.
const stopPoll = 100 * time.Millisecond

// Stop ends a running sandbox and returns when it has ended.
func (b *Backend) Stop(ctx context.Context, ref sandbox.Ref, opt backend.StopOptions) error {
	if err := check(ref); err != nil {
		return err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return err
	}
	if v < cloudapi.ExtensionVersion {
		now, err := b.Get(ctx, ref)
		switch {
		case err != nil:
			return err
		case now.Status.Terminal():
			return notRunning(ref, now.Status)
		case opt.Force:
			return b.needs(ctx, "kill")
		}
	}
	var s cloudapi.Sandbox
	body := cloudapi.StopBody{Force: opt.Force, TimeoutMS: opt.Timeout.Milliseconds(), Wait: true}
	if opt.Timeout > 0 && body.TimeoutMS == 0 {
		body.TimeoutMS = 1
	}
	if err := b.do(ctx, call{op: "stop", ref: ref, method: http.MethodPost, path: byName(ref) + "/stop", body: body, timeout: opt.Timeout + time.Minute}, &s); err != nil {
		return err
	}
	for i := info(s, ref); !i.Status.Terminal(); {
		select {
		case <-ctx.Done():
			return &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Cancelled, Message: "the stop goes on", Err: context.Cause(ctx)}
		case <-time.After(stopPoll):
		}
		var err error
		if i, err = b.Get(ctx, ref); sandbox.KindOf(err) == sandbox.NotFound || err == nil && i.ID != s.ID {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func notRunning(ref sandbox.Ref, s sandbox.Status) error {
	return sandbox.Info{Ref: ref, Status: s}.NotRunning("")
}

// Remove forgets a sandbox and its files.
func (b *Backend) Remove(ctx context.Context, ref sandbox.Ref, force bool) error {
	if err := check(ref); err != nil {
		return err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return err
	}
	c := call{op: "remove", ref: ref, method: http.MethodDelete, path: byName(ref), timeout: 2 * time.Minute}
	switch {
	case force:
	case v >= cloudapi.ExtensionVersion:
		c.query = url.Values{"force": {"false"}}
	default:
		now, err := b.Get(ctx, ref)
		if err == nil && !now.Status.Terminal() {
			err = &sandbox.Error{Op: "remove", Ref: ref, Kind: sandbox.StillRunning, Hint: "stop it first, or remove it with: msb rm -f " + string(ref.Name)}
		}
		if err != nil {
			return err
		}
	}
	return b.do(ctx, c, nil)
}
