package remote

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ask is a call of one of the routes that are ours.
func (b *Backend) ask(ctx context.Context, what, method, path string, ref sandbox.Ref, body, into any) error {
	if ref.Name != "" {
		if err := check(ref); err != nil {
			return err
		}
	}
	if err := b.needs(ctx, what); err != nil {
		return err
	}
	return b.do(ctx, call{op: what, ref: ref, method: method, path: path, body: body, timeout: 2 * time.Minute}, into)
}

// Metrics returns the last sample of a sandbox.
func (b *Backend) Metrics(ctx context.Context, ref sandbox.Ref) (m sandbox.Metrics, err error) {
	err = b.ask(ctx, "metrics", http.MethodGet, byName(ref)+"/metrics", ref, nil, &m)
	m.Ref = ref
	return m, err
}

// AllMetrics returns the last samples of a namespace's sandboxes.
func (b *Backend) AllMetrics(ctx context.Context, namespace string) ([]sandbox.Metrics, error) {
	if err := b.needs(ctx, "metrics"); err != nil {
		return nil, err
	}
	var all []sandbox.Metrics
	if err := b.do(ctx, call{op: "metrics", namespace: namespace, method: http.MethodGet, path: "/metrics"}, &all); err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Ref = sandbox.Ref{Namespace: namespace, Name: all[i].Name}
	}
	return all, nil
}

// Drain lets a running sandbox end with its last session.
func (b *Backend) Drain(ctx context.Context, ref sandbox.Ref) error {
	return b.ask(ctx, "drain", http.MethodPost, byName(ref)+"/drain", ref, struct{}{}, nil)
}

// Modify changes a sandbox that is there.
func (b *Backend) Modify(ctx context.Context, ref sandbox.Ref, req backend.ModifyRequest) (plan sandbox.Plan, err error) {
	body := cloudapi.ModifyBody{Modification: req.Modification, Policy: req.Policy, DryRun: req.DryRun, Values: map[string]string{}}
	for _, s := range req.Secrets {
		if v := s.Value.Reveal(); v != "" {
			body.Values[s.EnvVar] = v
		}
	}
	err = b.ask(ctx, "modify", http.MethodPost, byName(ref)+"/modify", ref, body, &plan)
	return plan, err
}

// Rename gives a sandbox that does not run another name.
func (b *Backend) Rename(ctx context.Context, ref sandbox.Ref, to sandbox.Name) (sandbox.Info, error) {
	if err := check(ref); err != nil {
		return sandbox.Info{}, err
	}
	now, err := b.Get(ctx, ref)
	if err != nil {
		return sandbox.Info{}, err
	}
	var s cloudapi.Sandbox
	err = b.do(ctx, call{op: "rename", ref: ref, method: http.MethodPatch, path: "/sandboxes/" + url.PathEscape(now.ID), body: map[string]any{"name": to}}, &s)
	if err != nil {
		return sandbox.Info{}, err
	}
	return info(s, sandbox.Ref{Namespace: ref.Namespace, Name: to}), nil
}

// Network says what goes on in a sandbox's network.
func (b *Backend) Network(ctx context.Context, ref sandbox.Ref) (state sandbox.NetworkState, err error) {
	err = b.ask(ctx, "network", http.MethodGet, byName(ref)+"/network", ref, nil, &state)
	return state, err
}

// SetNetworkPolicy changes the policy of a running sandbox.
func (b *Backend) SetNetworkPolicy(ctx context.Context, ref sandbox.Ref, p sandbox.NetworkPolicy) error {
	return b.ask(ctx, "network", http.MethodPut, byName(ref)+"/network", ref, p, nil)
}

// Redefine gives a stopped sandbox another spec.
func (b *Backend) Redefine(ctx context.Context, req backend.CreateRequest) error {
	if err := check(req.Ref); err != nil {
		return err
	}
	if err := b.needs(ctx, "redefine"); err != nil {
		return err
	}
	body, _, err := b.body(ctx, req)
	if err != nil {
		return err
	}
	return b.do(ctx, call{op: "redefine", ref: req.Ref, method: http.MethodPut, path: byName(req.Ref) + "/spec", body: body, timeout: startTimeout}, nil)
}
