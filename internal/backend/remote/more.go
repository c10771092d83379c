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

const mib = 1 << 20

func volume(v cloudapi.Volume, namespace string) backend.Volume {
	out := backend.Volume{Namespace: namespace, Name: v.Name, ID: v.ID, Labels: v.Labels, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt, Users: v.Users}
	if v.Capacity != nil {
		out.QuotaMiB = int(*v.Capacity / mib)
	}
	if v.Used != nil {
		out.Used = *v.Used
	}
	return out
}

// CreateVolume makes a volume.
func (b *Backend) CreateVolume(ctx context.Context, req backend.VolumeRequest) (backend.Volume, error) {
	body := cloudapi.CreateVolume{Name: req.Name, Labels: req.Labels}
	if body.Labels == nil {
		body.Labels = map[string]string{}
	}
	switch {
	case req.QuotaMiB == 0:
	case req.QuotaMiB%1024 == 0:
		gib := req.QuotaMiB / 1024
		body.CapacityGiB = &gib
	default:
		if err := b.needs(ctx, "a quota that is not whole GiB"); err != nil {
			return backend.Volume{}, err
		}
		body.CapacityMiB = &req.QuotaMiB
	}
	var v cloudapi.Volume
	if err := b.do(ctx, call{op: "create volume", namespace: req.Namespace, method: http.MethodPost, path: "/volumes", body: body, volume: true, create: true}, &v); err != nil {
		return backend.Volume{}, err
	}
	return volume(v, req.Namespace), nil
}

// ListVolumes returns the volumes of a namespace, newest first.
func (b *Backend) ListVolumes(ctx context.Context, namespace string) ([]backend.Volume, error) {
	var all []cloudapi.Volume
	if err := b.do(ctx, call{op: "list volumes", namespace: namespace, method: http.MethodGet, path: "/volumes", volume: true}, &all); err != nil {
		return nil, err
	}
	out := make([]backend.Volume, 0, len(all))
	for _, v := range all {
		out = append(out, volume(v, namespace))
	}
	return out, nil
}

// GetVolume returns what is known of a volume.
func (b *Backend) GetVolume(ctx context.Context, namespace, name string) (backend.Volume, error) {
	all, err := b.ListVolumes(ctx, namespace)
	if err != nil {
		return backend.Volume{}, err
	}
	for _, v := range all {
		if v.Name == name {
			return v, nil
		}
	}
	return backend.Volume{}, &sandbox.Error{Op: "get volume", Kind: sandbox.VolumeNotFound, Message: name, Hint: "make it with: msb volume create " + name}
}

// RemoveVolume removes a volume and its files.
func (b *Backend) RemoveVolume(ctx context.Context, namespace, name string) error {
	v, err := b.GetVolume(ctx, namespace, name)
	if err != nil {
		return err
	}
	return b.do(ctx, call{op: "remove volume", namespace: namespace, method: http.MethodDelete, path: "/volumes/" + url.PathEscape(v.ID), volume: true}, nil)
}

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
	err = b.ask(ctx, "modify", http.MethodPost, byName(ref)+"/modify", ref, req, &plan)
	return plan, err
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
