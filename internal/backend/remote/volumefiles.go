package remote

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
)

// files is a call about a file of a volume (contract msb-0.6 §3.3).
func files(v backend.Volume, op, method, what, path string) call {
	return call{op: op, namespace: v.Namespace, method: method, path: "/volumes/" + url.PathEscape(v.ID) + "/files" + what, volume: true, timeout: 2 * time.Minute,
		header: map[string]string{cloudapi.FilePathHeader: base64.RawURLEncoding.EncodeToString([]byte(path))}}
}

// ReadVolume opens a file of a volume.
func (b *Backend) ReadVolume(ctx context.Context, v backend.Volume, path string) (io.ReadCloser, error) {
	resp, err := b.send(ctx, files(v, "read", http.MethodGet, "/content", path))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// WriteVolume makes a file of a volume.
func (b *Backend) WriteVolume(ctx context.Context, v backend.Volume, path string, r io.Reader) error {
	c := files(v, "write", http.MethodPut, "/content", path)
	c.raw = r
	resp, err := b.send(ctx, c)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// MkdirVolume makes a directory of a volume.
func (b *Backend) MkdirVolume(ctx context.Context, v backend.Volume, path string) error {
	c := files(v, "mkdir", http.MethodPost, "/mkdir", path)
	c.body = map[string]string{"path": path}
	return b.do(ctx, c, nil)
}

// RemoveVolumeFile removes a file of a volume.
func (b *Backend) RemoveVolumeFile(ctx context.Context, v backend.Volume, path string, all bool) error {
	c := files(v, "remove", http.MethodDelete, "", path)
	c.header[cloudapi.RecursiveHeader] = fmt.Sprint(all)
	return b.do(ctx, c, nil)
}

// ExistsVolume reports whether a volume has a file.
func (b *Backend) ExistsVolume(ctx context.Context, v backend.Volume, path string) (bool, error) {
	var answer struct{ Exists bool }
	err := b.do(ctx, files(v, "stat", http.MethodGet, "/exists", path), &answer)
	return answer.Exists, err
}

// DefaultVolume returns the volume of who names none.
func (b *Backend) DefaultVolume(ctx context.Context, namespace string) (backend.Volume, error) {
	var v cloudapi.Volume
	err := b.do(ctx, call{op: "get volume", namespace: namespace, method: http.MethodGet, path: "/volumes/default", volume: true}, &v)
	if err != nil {
		return backend.Volume{}, err
	}
	out := volume(v, namespace)
	out.Default = true
	return out, nil
}

// UpdateVolume changes the limit and the labels of a volume.
func (b *Backend) UpdateVolume(ctx context.Context, namespace, name string, change backend.VolumeChange) (backend.Volume, error) {
	v, err := b.GetVolume(ctx, namespace, name)
	if err != nil {
		return v, err
	}
	body := cloudapi.UpdateVolume{Labels: change.Labels}
	switch q := change.QuotaMiB; {
	case q == nil:
	case *q == 0:
		body.CapacityGiB = []byte("null")
	case *q%1024 == 0:
		body.CapacityGiB = fmt.Append(nil, *q/1024)
	default:
		if err := b.needs(ctx, "a quota that is not whole GiB"); err != nil {
			return v, err
		}
		body.CapacityMiB = q
	}
	var now cloudapi.Volume
	err = b.do(ctx, call{op: "update volume", namespace: namespace, method: http.MethodPatch, path: "/volumes/" + url.PathEscape(v.ID), body: body, volume: true}, &now)
	if err != nil {
		return backend.Volume{}, err
	}
	return volume(now, namespace), nil
}
