package remote

import (
	"context"
	"net/http"
	"net/url"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

const mib = 1 << 20

func volume(v cloudapi.Volume, namespace string) backend.Volume {
	out := backend.Volume{Namespace: namespace, Name: v.Name, ID: v.ID, Labels: v.Labels, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt, Users: v.Users, Default: v.Kind == cloudapi.VolumeHost}
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
