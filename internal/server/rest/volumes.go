package rest

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/internal/volumefs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

const mib = 1 << 20

func shownVolume(v backend.Volume) cloudapi.Volume {
	used := v.Used
	out := cloudapi.Volume{ID: v.ID, Name: v.Name, Kind: cloudapi.VolumeManaged, Status: "active", Storage: "block", Used: &used, Labels: v.Labels,
		CreatedAt: v.CreatedAt.UTC(), UpdatedAt: v.UpdatedAt.UTC(), Users: v.Users}
	if v.Name == DefaultVolume {
		out.Kind = cloudapi.VolumeHost
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if v.QuotaMiB > 0 {
		capacity := int64(v.QuotaMiB) * mib
		out.Capacity = &capacity
	}
	return out
}

func (h *Handler) keeper() (backend.Volumes, error) {
	v, ok := h.backend.(backend.Volumes)
	if !ok {
		return nil, &sandbox.Error{Kind: sandbox.Unsupported, Message: "this server has no volumes"}
	}
	return v, nil
}

func (h *Handler) allVolumes(r *request) ([]backend.Volume, error) {
	keeper, err := h.keeper()
	if err != nil {
		return nil, err
	}
	return keeper.ListVolumes(r.Context(), r.namespace)
}

func (h *Handler) volumes(r *request) (any, error) {
	all, err := h.allVolumes(r)
	if err != nil {
		return nil, err
	}
	out := []cloudapi.Volume{}
	for _, v := range all {
		out = append(out, shownVolume(v))
	}
	return out, nil
}

func (h *Handler) createVolume(r *request) (any, error) {
	var b cloudapi.CreateVolume
	if err := r.body(&b); err != nil {
		return nil, err
	}
	keeper, err := h.keeper()
	if err != nil {
		return nil, err
	}
	req := backend.VolumeRequest{Namespace: r.namespace, Name: b.Name, Labels: b.Labels}
	switch {
	case b.CapacityMiB != nil:
		req.QuotaMiB = *b.CapacityMiB
	case b.CapacityGiB != nil && (*b.CapacityGiB < 1 || *b.CapacityGiB > sandbox.MaxQuotaMiB/1024):
		return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "capacity_gib is out of bounds"}
	case b.CapacityGiB != nil:
		req.QuotaMiB = *b.CapacityGiB * 1024
	}
	v, err := keeper.CreateVolume(r.Context(), req)
	h.audited(r, "volume.create", b.Name, err)
	if err != nil {
		return nil, err
	}
	return shownVolume(v), nil
}

// audited notes a change of a volume.
func (h *Handler) audited(r *request, action, volume string, err error) {
	h.server.Audited(r.Context(), action, sandbox.Ref{Namespace: r.namespace, Name: sandbox.Name(volume)}, err)
}

// DefaultVolume is the name of the volume that clients mean who name none.
const DefaultVolume = "default"

func (h *Handler) defaultVolume(r *request) (any, error) {
	keeper, err := h.keeper()
	if err != nil {
		return nil, err
	}
	v, err := keeper.GetVolume(r.Context(), r.namespace, DefaultVolume)
	if err != nil {
		return nil, err
	}
	return shownVolume(v), nil
}

// volume finds a volume by its ID.
func (h *Handler) volume(r *request) (backend.Volume, error) {
	id := r.PathValue("id")
	if finder, ok := h.backend.(backend.VolumeFinder); ok {
		return finder.FindVolume(r.Context(), r.namespace, id)
	}
	all, err := h.allVolumes(r)
	if err != nil {
		return backend.Volume{}, err
	}
	for _, v := range all {
		if v.ID == id {
			return v, nil
		}
	}
	return backend.Volume{}, &sandbox.Error{Kind: sandbox.VolumeNotFound, Message: "there is no volume with this id"}
}

func (h *Handler) getVolume(r *request) (any, error) {
	v, err := h.volume(r)
	if err != nil {
		return nil, err
	}
	keeper, err := h.keeper()
	if err == nil {
		v, err = keeper.GetVolume(r.Context(), r.namespace, v.Name) // measured
	}
	if err != nil {
		return nil, err
	}
	return shownVolume(v), nil
}

func (h *Handler) updateVolume(r *request) (any, error) {
	var b cloudapi.UpdateVolume
	if err := r.body(&b); err != nil {
		return nil, err
	}
	v, err := h.volume(r)
	if err != nil {
		return nil, err
	}
	editor, ok := h.backend.(backend.VolumeEditor)
	if !ok {
		return nil, unsupported("changing volumes")
	}
	change := backend.VolumeChange{Labels: b.Labels}
	switch gib, err := b.Capacity(); {
	case err != nil:
		return nil, err
	case b.CapacityMiB != nil:
		change.QuotaMiB = b.CapacityMiB
	case gib != nil:
		mib := *gib * 1024
		change.QuotaMiB = &mib
	}
	now, err := editor.UpdateVolume(r.Context(), r.namespace, v.Name, change)
	h.audited(r, "volume.update", v.Name, err)
	if err != nil {
		return nil, err
	}
	return shownVolume(now), nil
}

func (h *Handler) removeVolume(r *request) (any, error) {
	v, err := h.volume(r)
	if err != nil {
		return nil, err
	}
	keeper, err := h.keeper()
	if err == nil {
		err = keeper.RemoveVolume(r.Context(), r.namespace, v.Name)
		h.audited(r, "volume.remove", v.Name, err)
	}
	if err != nil {
		return nil, err
	}
	return cloudapi.Message{Message: "Volume deleted"}, nil
}

// files opens the files of the volume that a request is about.
func (h *Handler) files(r *request) (volumefs.FS, error) {
	v, err := h.volume(r)
	if err != nil {
		return volumefs.FS{}, err
	}
	if v.Path == "" {
		return volumefs.FS{}, &sandbox.Error{Kind: sandbox.Unsupported, Message: "this server does not have the volume's files"}
	}
	measure := func() (int64, error) {
		keeper, err := h.keeper()
		if err == nil {
			v, err = keeper.GetVolume(r.Context(), r.namespace, v.Name)
		}
		if err == nil {
			err = r.Context().Err()
		}
		return v.Used, err
	}
	return volumefs.FS{Dir: v.Path, Limit: int64(v.QuotaMiB) * mib, Used: measure}, nil
}

// path is the path that a request's header has.
func (r *request) path() (string, error) {
	s := r.Header.Get(cloudapi.FilePathHeader)
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return "", &sandbox.Error{Kind: sandbox.Filesystem, Message: cloudapi.FilePathHeader + " is not base64url"}
	}
	return string(b), nil
}

// file opens the volume and reads the path.
func (h *Handler) file(r *request) (fs volumefs.FS, path string, err error) {
	if fs, err = h.files(r); err == nil {
		path, err = r.path()
	}
	return fs, path, err
}

func shownFile(i volumefs.Info) cloudapi.FileInfo {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	kind := i.Kind()
	if kind != "directory" {
		kind = "file" // clients know no others; Mode says what it is
	}
	return cloudapi.FileInfo{Path: i.Path, Kind: kind, Size: i.Size, Mode: i.Mode, UID: i.UID, GID: i.GID, ReadOnly: i.Mode&0o222 == 0,
		AccessedAt: when(i.Accessed), ModifiedAt: when(i.Modified), CreatedAt: when(i.Created)}
}

func (h *Handler) listFiles(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err != nil {
		return nil, err
	}
	all, err := fs.List(path)
	if err != nil {
		return nil, err
	}
	entries := []cloudapi.FileInfo{}
	for _, i := range all {
		entries = append(entries, shownFile(i))
	}
	return map[string]any{"entries": entries}, nil
}

func (h *Handler) statFile(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err != nil {
		return nil, err
	}
	i, err := fs.Stat(path)
	if err != nil {
		return nil, err
	}
	return map[string]any{"metadata": shownFile(i)}, nil
}

func (h *Handler) fileExists(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err != nil {
		return nil, err
	}
	_, err = fs.Stat(path)
	if err != nil && sandbox.KindOf(err) != sandbox.PathNotFound {
		return nil, err
	}
	return map[string]any{"exists": err == nil}, nil
}

func (h *Handler) readFile(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err != nil {
		return nil, err
	}
	f, i, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := r.w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Content-Length", strconv.FormatInt(i.Size, 10))
	head.Set("X-Content-Type-Options", "nosniff")
	r.w.WriteHeader(http.StatusOK)
	if n, err := io.CopyN(r.w, f, i.Size); n != i.Size && err != nil { // a guest made it shorter
		panic(http.ErrAbortHandler)
	}
	return streamed, nil
}

// done is the answer to a change of a file.
func (h *Handler) done(r *request, what string, err error) (any, error) {
	h.audited(r, "volume.files."+what, "", err)
	if err != nil {
		return nil, err
	}
	return cloudapi.Message{Message: "ok"}, nil
}

func (h *Handler) writeFile(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err == nil {
		err = fs.Write(path, r.Body)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = invalid("the body ended early")
	}
	return h.done(r, "write", err)
}

func (h *Handler) removeFile(r *request) (any, error) {
	fs, path, err := h.file(r)
	if err == nil {
		err = fs.Remove(path, r.Header.Get(cloudapi.RecursiveHeader) == "true")
	}
	return h.done(r, "remove", err)
}

func (h *Handler) makeDir(r *request) (any, error) {
	var b struct{ Path string }
	err := r.body(&b)
	if err == nil {
		var fs volumefs.FS
		if fs, err = h.files(r); err == nil {
			err = fs.Mkdir(b.Path)
		}
	}
	return h.done(r, "mkdir", err)
}

// twoFiles changes two files of one volume.
func (h *Handler) twoFiles(r *request, what string, f func(fs volumefs.FS, from, to string) error) (any, error) {
	var b struct{ From, To string }
	err := r.body(&b)
	if err == nil {
		var fs volumefs.FS
		if fs, err = h.files(r); err == nil {
			err = f(fs, b.From, b.To)
		}
	}
	return h.done(r, what, err)
}

func (h *Handler) copyFile(r *request) (any, error) { return h.twoFiles(r, "copy", volumefs.FS.Copy) }

func (h *Handler) renameFile(r *request) (any, error) {
	return h.twoFiles(r, "rename", volumefs.FS.Rename)
}
