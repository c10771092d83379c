package local

import (
	"context"
	"io"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var (
	_ backend.Images        = (*Backend)(nil)
	_ backend.ImageArchives = (*Backend)(nil)
	_ backend.DiskUser      = (*Backend)(nil)
)

// imagesFor is images unless ref is the image that is built in.
func (b *Backend) imagesFor(op, ref string) (*images, error) {
	if ref == sandbox.HostImage {
		return nil, &sandbox.Error{Op: op, Kind: sandbox.InvalidArgument, Message: `the image "host" is this machine's own programs: it is always there, and its name cannot be pulled, loaded, saved or removed`}
	}
	return b.images(), nil
}

// PullImage gets an image from its registry.
func (b *Backend) PullImage(ctx context.Context, ref string, opt backend.PullOptions) (backend.Image, error) {
	s, err := b.imagesFor("pull", ref)
	if err != nil {
		return backend.Image{}, err
	}
	o := image.PullOptions{Policy: image.IfMissing, Platform: opt.Platform, Insecure: opt.Insecure, CACerts: opt.CACerts, Proven: opt.Proven}
	if opt.Refresh {
		o.Policy = image.Always
	}
	s.warnOfAuth(ref, o.Policy)
	if opt.Auth != nil {
		o.Auth = &image.Auth{Username: opt.Auth.Username, Password: image.Secret(opt.Auth.Password)}
	}
	if opt.Progress != nil {
		o.Progress = func(p image.Progress) { opt.Progress(pullEvent(p)) }
	}
	store := s.Store
	if opt.Platform != "" {
		options := s.options
		options.Platform = opt.Platform
		store = image.Open(s.home, options)
	}
	if _, err := store.Pull(ctx, ref, o); err != nil {
		return backend.Image{}, err
	}
	d, err := store.Inspect(ref)
	if err != nil {
		return backend.Image{}, err
	}
	return s.image(d.Image), nil
}

// pullEvent is a report of the store in the backend's words; the phases are the same.
func pullEvent(p image.Progress) backend.PullEvent {
	return backend.PullEvent{Phase: backend.PullPhase(p.Phase), Digest: p.Digest, Layer: p.Layer, Layers: p.Layers, Done: p.Done, Total: p.Total}
}

func (s *images) image(i image.Image) backend.Image {
	return backend.Image{Reference: i.Reference, Short: s.short(i.Reference), Digest: i.Digest, OS: i.OS, Architecture: i.Architecture, Layers: i.Layers,
		Size: i.Size, Disk: i.Disk, CreatedAt: i.CreatedAt, UsedAt: i.UsedAt}
}

// ListImages returns the images that are here, newest first.
func (b *Backend) ListImages(context.Context) ([]backend.Image, error) {
	s := b.images()
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(x, y image.Image) int { return y.CreatedAt.Compare(x.CreatedAt) })
	list := make([]backend.Image, 0, len(all))
	for _, i := range all {
		list = append(list, s.image(i))
	}
	return list, nil
}

// InspectImage returns all that is known of an image.
func (b *Backend) InspectImage(_ context.Context, ref string) (backend.ImageDetail, error) {
	s, err := b.imagesFor("inspect", ref)
	if err != nil {
		return backend.ImageDetail{}, err
	}
	i, err := s.Inspect(ref)
	if err != nil {
		return backend.ImageDetail{}, err
	}
	c := i.Config
	d := backend.ImageDetail{Image: s.image(i.Image), XattrFiles: len(i.Xattrs), BlobsKept: i.BlobsKept,
		Config: backend.ImageConfig{Digest: i.ConfigDigest, Env: c.Env, Cmd: c.Cmd, Entrypoint: c.Entrypoint, WorkingDir: c.WorkingDir, User: c.User,
			Labels: c.Labels, StopSignal: i.StopSignal}}
	for _, l := range i.LayerList {
		d.LayerList = append(d.LayerList, backend.ImageLayer{Digest: l.Digest, DiffID: l.DiffID, MediaType: l.MediaType, Size: l.Size, ErofsSize: l.ErofsSize})
	}
	return d, nil
}

// RemoveImage removes a reference, and with the last one of an image the image.
func (b *Backend) RemoveImage(_ context.Context, ref string, force bool) error {
	s, err := b.imagesFor("remove", ref)
	if err != nil {
		return err
	}
	_, err = s.Remove(ref, force)
	return err
}

// PruneImages removes every image that no sandbox uses.
func (b *Backend) PruneImages(context.Context) (backend.ImagePrune, error) {
	s := b.images()
	r, err := s.Prune()
	if err != nil {
		return backend.ImagePrune{}, err
	}
	return backend.ImagePrune{References: len(r.References), Images: len(r.Digests), Layers: r.Layers, Bytes: r.Bytes}, nil
}

// LoadImages reads the images of an archive.
func (b *Backend) LoadImages(ctx context.Context, r io.Reader, tag string, progress func(backend.PullEvent)) ([]backend.Image, error) {
	s, err := b.imagesFor("load", tag)
	if err != nil {
		return nil, err
	}
	o := image.LoadOptions{Tag: tag}
	if progress != nil {
		o.Progress = func(p image.Progress) { progress(pullEvent(p)) }
	}
	all, err := s.Load(ctx, r, o)
	if err != nil {
		return nil, err
	}
	list := make([]backend.Image, 0, len(all))
	for _, i := range all {
		list = append(list, s.image(i))
	}
	return list, nil
}

// SaveImages writes images into one archive.
func (b *Backend) SaveImages(ctx context.Context, w io.Writer, refs []string, format backend.ArchiveFormat) error {
	for _, ref := range refs {
		if _, err := b.imagesFor("save", ref); err != nil {
			return err
		}
	}
	s := b.images()
	return s.Save(ctx, w, refs, image.Format(format))
}

// DiskUsage returns what the images take.
func (b *Backend) DiskUsage(context.Context) ([]backend.DiskUsage, error) {
	s := b.images()
	u, err := s.Store.DiskUsage()
	if err != nil {
		return nil, err
	}
	usage := func(kind string, u image.Usage) backend.DiskUsage {
		return backend.DiskUsage{Kind: kind, Count: u.Count, Bytes: u.SizeBytes, Reclaimable: u.ReclaimableBytes}
	}
	return []backend.DiskUsage{usage("images", u.Images), usage("layers", u.Blobs), usage("other", u.Other)}, nil
}
