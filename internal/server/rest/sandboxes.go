package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// shown is a sandbox as answers have it.
func shown(i sandbox.Info) cloudapi.Sandbox {
	spec := i.Effective()
	body, _ := cloudapi.BodyOf(spec, false)
	body.Name = string(i.Ref.Name)
	out := cloudapi.Sandbox{ID: i.ID, OrgID: orgID(i.Ref.Namespace), Name: string(i.Ref.Name), Slug: string(i.Ref.Name), Status: cloudapi.StatusOf(i.Status),
		Spec: &body, Ephemeral: spec.Lifecycle.Ephemeral, CreatedAt: i.CreatedAt.UTC()}
	if i.Status != sandbox.Created {
		at := i.UpdatedAt.UTC()
		if i.End == nil {
			out.StartedAt = &at
		}
	}
	if i.End != nil {
		at := i.End.At.UTC()
		out.StoppedAt = &at
		if i.End.Reason == sandbox.ReasonFailed {
			out.Status = cloudapi.StatusFailed
		}
		if i.End.Message != "" && i.End.Reason != sandbox.ReasonShutdown {
			out.LastFailure = &i.End.Message
		}
	}
	i.RunnerPID = 0
	out.Info = &i
	return out
}

func (h *Handler) get(_ *request, info sandbox.Info) (any, error) { return shown(info), nil }

func (h *Handler) list(r *request) (any, error) {
	var labels map[string]string
	if l := r.URL.Query().Get("labels"); l != "" {
		if err := json.Unmarshal([]byte(l), &labels); err != nil {
			return nil, invalid("labels is not a JSON object of texts")
		}
	}
	infos, err := h.backend.List(r.Context(), r.namespace)
	if err != nil {
		return nil, err
	}
	infos = slices.DeleteFunc(infos, func(i sandbox.Info) bool {
		have := i.Effective().Labels
		for k, v := range labels {
			if got, ok := have[k]; !ok || got != v {
				return true
			}
		}
		return false
	})
	page, err := paged(r, infos, func(i sandbox.Info) place { return place{i.CreatedAt.UnixNano(), string(i.Ref.Name)} })
	if err != nil {
		return nil, err
	}
	out := cloudapi.Page[cloudapi.Sandbox]{Data: []cloudapi.Sandbox{}, NextCursor: page.NextCursor, HasMore: page.HasMore}
	for _, i := range page.Data {
		out.Data = append(out.Data, shown(i))
	}
	return out, nil
}

// How long a start is waited for.
const (
	defaultWait = 90 * time.Second
	maxWait     = 10 * time.Minute
)

// wait reads how long the caller waits.
func (r *request) wait() (time.Duration, error) {
	q := r.URL.Query()
	if w := q.Get("wait_for"); w != "" && w != "running" && w != "starting" && w != "accepted" {
		return 0, invalid("wait_for is not running")
	}
	s := q.Get("wait_timeout")
	if s == "" {
		return defaultWait, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || time.Duration(n)*time.Second > maxWait {
		return 0, invalid(fmt.Sprintf("wait_timeout is not a number of seconds from 1 to %d", int(maxWait.Seconds())))
	}
	return time.Duration(n) * time.Second, nil
}

var errWait = errors.New("it took longer than was to be waited")

// late makes the error of a start that took too long one of the sandbox's, not of the caller who went.
func late(ctx context.Context, ref sandbox.Ref, err error) error {
	if err != nil && context.Cause(ctx) == errWait {
		return &sandbox.Error{Op: "start", Ref: ref, Kind: sandbox.BootFailed, Message: fmt.Sprintf("sandbox '%s' is not ready: %v", ref.Name, errWait), Err: nil,
			Hint: "wait longer, or pull its image first"}
	}
	return err
}

func (h *Handler) create(r *request) (any, error) {
	var b cloudapi.CreateBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	ctx := r.Context()
	req, err := h.request(ctx, r.namespace, b)
	ref := req.Ref
	if err == nil {
		server.Note(ctx, slog.String("sandbox", b.Name))
		req.Prepare = r.URL.Query().Get("start") != "true"
	}
	wait, werr := r.wait()
	if err = cmp.Or(err, werr); err != nil {
		h.server.Audited(ctx, "create", ref, err)
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errWait)
	defer cancel()
	info, err := h.called(r, true, cancel, func() (sandbox.Info, error) { return h.make(ctx, req, b.Registry) })
	err = late(ctx, ref, err)
	h.server.Audited(r.Context(), "create", ref, err)
	if err != nil {
		return nil, err
	}
	return shown(info), nil
}

// make makes a sandbox.
func (h *Handler) make(ctx context.Context, req backend.CreateRequest, registry *cloudapi.Registry) (sandbox.Info, error) {
	if registry != nil && (registry.Mode == "inline" || registry.Mode == "anonymous") {
		if _, ok := h.backend.(backend.Images); !ok && req.Spec.Image.OCI != nil && req.Spec.PullPolicy != sandbox.PullNever {
			return sandbox.Info{}, &sandbox.Error{Kind: sandbox.Unsupported, Message: "registry.mode: this server has no images of its own"}
		}
		req.Registry = &backend.RegistryAuth{Username: registry.Username, Password: backend.Secret(registry.Password)}
	}
	req.Progress = h.server.Pulling(nil)
	done, err := h.server.AdmitCreate(ctx, &req)
	if err != nil {
		return sandbox.Info{}, err
	}
	defer done()
	return h.backend.Create(ctx, req)
}

// request is what a body asks the backend for.
func (h *Handler) request(ctx context.Context, namespace string, b cloudapi.CreateBody) (req backend.CreateRequest, err error) {
	req.Ref = sandbox.Ref{Namespace: namespace, Name: sandbox.Name(b.Name)}
	if err := req.Ref.Validate(); err != nil {
		return req, err
	}
	x := b.Extension
	if x != nil && x.Spec != nil {
		req.Spec = *x.Spec
		if s := req.Spec.Network.Secrets; s != nil {
			for i := range s.Secrets {
				s.Secrets[i].Value = sandbox.SecretValue(x.Values[s.Secrets[i].EnvVar])
			}
		}
	} else if req.Spec, err = b.Spec(); err != nil {
		return req, err
	}
	req.Spec.Name, req.Resolved, req.Proven = req.Ref.Name, true, h.server.Confined(ctx)
	if x != nil {
		req.Startup, req.Replace, req.Grace, req.Generated = x.Startup, x.Replace, time.Duration(x.GraceMS)*time.Millisecond, x.Generated
	} else {
		req.Startup = len(req.Spec.Runtime.Cmd) > 0
		h.server.Config().Settings.Defaults.Apply(&req.Spec)
	}
	if req.Spec.DeploymentProfile == "" {
		req.Spec.DeploymentProfile = h.server.Config().Settings.DeploymentProfile
	}
	if err := h.confine(ctx, &req.Spec); err != nil {
		return req, err
	}
	return req, req.Spec.WithDefaults().Validate()
}

func (h *Handler) start(r *request, info sandbox.Info) (any, error) {
	var b cloudapi.StartBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	wait, err := r.wait()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), wait, errWait)
	defer cancel()
	now, err := h.called(r, info.Status.Terminal(), cancel, func() (sandbox.Info, error) {
		done, err := h.server.Admit(ctx, info.Ref, info.Spec)
		if err != nil {
			return sandbox.Info{}, err
		}
		defer done()
		return h.backend.Start(ctx, info.Ref, backend.StartOptions{Sole: b.Sole, Quiet: b.Quiet})
	})
	err = late(ctx, info.Ref, err)
	h.server.Audited(r.Context(), "start", info.Ref, err)
	if err != nil {
		return nil, err
	}
	return shown(now), nil
}

// A stop is answered when the sandbox has ended, or after stopAnswer; it has to have ended when clients lose patience, after 10 s.
const (
	stopAnswer = 3 * time.Second
	stopGrace  = 8 * time.Second
)

func (h *Handler) stop(r *request, info sandbox.Info) (any, error) {
	var b cloudapi.StopBody
	if err := r.body(&b); err != nil {
		return nil, err
	}
	if b.TimeoutMS < 0 || b.TimeoutMS > maxWait.Milliseconds() {
		return nil, invalid("timeout_ms is out of bounds")
	}
	opt := backend.StopOptions{Force: b.Force, Timeout: cmp.Or(time.Duration(b.TimeoutMS)*time.Millisecond, stopGrace)}
	done := make(chan error, 1)
	h.server.Go(r.Context(), func(ctx context.Context) {
		err := h.backend.Stop(ctx, info.Ref, opt)
		h.server.Audited(ctx, "stop", info.Ref, err)
		done <- err
	})
	patience := stopAnswer
	if b.Wait {
		patience = maxWait
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		if k := sandbox.KindOf(err); err != nil && (b.Wait || k != sandbox.NotRunning && k != sandbox.NotFound) {
			return nil, err
		}
	case <-timer.C:
	case <-r.Context().Done():
		return nil, &sandbox.Error{Op: "stop", Ref: info.Ref, Kind: sandbox.Cancelled, Message: "the stop goes on"}
	}
	now, err := h.backend.Get(r.Context(), info.Ref)
	switch {
	case sandbox.KindOf(err) == sandbox.NotFound || err == nil && now.ID != info.ID:
		now = info // it is gone with its end
		now.Status = sandbox.Stopped
	case err != nil:
		return nil, err
	case !now.Status.Terminal():
		now.Status = sandbox.Draining
	}
	return shown(now), nil
}

func (h *Handler) remove(r *request, info sandbox.Info) (any, error) {
	force := r.URL.Query().Get("force") != "false"
	err := h.backend.Remove(r.Context(), info.Ref, force)
	if sandbox.KindOf(err) == sandbox.NotFound && info.Spec.Lifecycle.Ephemeral {
		err = nil // it went by itself meanwhile
	}
	h.server.Audited(r.Context(), "remove", info.Ref, err)
	if err != nil {
		return nil, err
	}
	return cloudapi.Message{Message: "Sandbox destroyed"}, nil
}

// rename gives a sandbox another name, which is its slug, too.
func (h *Handler) rename(r *request, info sandbox.Info) (any, error) {
	var b struct{ Name, Slug *string }
	if err := r.body(&b); err != nil {
		return nil, err
	}
	to := string(info.Ref.Name)
	if b.Name != nil {
		to = *b.Name
	}
	if b.Slug != nil && *b.Slug != to {
		if b.Name != nil {
			return nil, invalid("slug: it is the name here, and there is but one")
		}
		to = *b.Slug
	}
	if to == string(info.Ref.Name) {
		return shown(info), nil
	}
	renamer, ok := h.backend.(backend.Renamer)
	if !ok {
		return nil, unsupported("renaming")
	}
	now, err := renamer.Rename(r.Context(), info.Ref, sandbox.Name(to))
	h.server.Audited(r.Context(), "rename", info.Ref, err, slog.String("to", to))
	if err != nil {
		return nil, err
	}
	return shown(now), nil
}
