package local

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var (
	_ backend.Images        = (*Backend)(nil)
	_ backend.ImageArchives = (*Backend)(nil)
	_ backend.Registries    = (*Backend)(nil)
	_ backend.DiskUser      = (*Backend)(nil)
)

// images is the image store with what the user has set for it.
type images struct {
	*image.Store
	home     string
	options  image.Options
	settings config.File
	warn     func(message string, lines ...string)
}

// openImages reads the settings. It is done once, by the first who needs an image of a registry.
func (b *Backend) openImages() (*images, error) {
	s := &images{home: b.cfg.Home, warn: b.cfg.Warn}
	if s.warn == nil {
		s.warn = func(string, ...string) {}
	}
	if b.cfg.Settings != nil {
		var err error
		if s.settings, err = b.cfg.Settings(); err != nil {
			return nil, err
		}
	}
	for _, w := range s.settings.Warnings {
		s.warn(w)
	}
	s.options = imageOptions(s.settings)
	s.options.Users = b.users
	s.Store = image.Open(s.home, s.options)
	return s, nil
}

// imageOptions is what config.json says in the words of the image store.
func imageOptions(f config.File) image.Options {
	o := image.Options{DefaultRegistry: f.Registries.Default, Aliases: f.Images.Aliases, Registries: map[string]image.Registry{}, CACerts: f.Registries.CACerts,
		DropBlobs: !f.Images.KeepBlobs,
		Limits:    image.Limits{Bytes: f.Images.Limits.Unpacked, Entries: f.Images.Limits.Entries, Metadata: f.Images.Limits.Metadata, Ratio: int64(f.Images.Limits.Ratio)}}
	for host, h := range f.Registries.Hosts {
		r := image.Registry{Insecure: h.Insecure, CACerts: h.CACerts}
		if h.Auth != nil {
			if password := os.Getenv(h.Auth.PasswordEnv); password != "" {
				r.Auth = &image.Auth{Username: h.Auth.Username, Password: image.Secret(password)}
			}
		}
		o.Registries[host] = r
	}
	for host, mirrors := range f.Registries.Mirrors {
		r := o.Registries[host]
		r.Mirrors = mirrors
		o.Registries[host] = r
	}
	return o
}

// warnOfAuth warns when the password for ref's registry is configured to be where it is not.
func (s *images) warnOfAuth(ref string) {
	r, err := image.ParseReference(ref, s.settings.Registries.Default)
	if err != nil {
		return
	}
	if a := s.settings.Registries.Hosts[r.Registry].Auth; a != nil && os.Getenv(a.PasswordEnv) == "" {
		s.warn(fmt.Sprintf("the password for %s is not in %s, where config.json has it", r.Registry, a.PasswordEnv), "it is asked as if there were none")
	}
}

// short is how a person writes a stored reference.
func (s *images) short(ref string) string {
	r, err := image.ParseReference(ref, "")
	if err != nil || s.settings.Registries.Default != "" {
		return ref
	}
	return r.Short()
}

// open returns the store unless ref is the image that is built in.
func (b *Backend) imagesFor(op, ref string) (*images, error) {
	if ref == sandbox.HostImage {
		return nil, &sandbox.Error{Op: op, Kind: sandbox.InvalidArgument, Message: `the image "host" is this machine's own programs: it is always there, and its name cannot be pulled, loaded, saved or removed`}
	}
	return b.images()
}

// PullImage gets an image from its registry.
func (b *Backend) PullImage(ctx context.Context, ref string, opt backend.PullOptions) (backend.Image, error) {
	s, err := b.imagesFor("pull", ref)
	if err != nil {
		return backend.Image{}, err
	}
	s.warnOfAuth(ref)
	o := image.PullOptions{Policy: image.IfMissing, Platform: opt.Platform, Insecure: opt.Insecure, CACerts: opt.CACerts}
	if opt.Refresh {
		o.Policy = image.Always
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
	s, err := b.images()
	if err != nil {
		return nil, err
	}
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
	s, err := b.images()
	if err != nil {
		return backend.ImagePrune{}, err
	}
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
	s, err := b.images()
	if err != nil {
		return err
	}
	return s.Save(ctx, w, refs, image.Format(format))
}

// Login asks the registry whether it takes the credentials, and stores them.
func (b *Backend) Login(ctx context.Context, host string, auth backend.RegistryAuth, opt backend.PullOptions) error {
	s, err := b.images()
	if err != nil {
		return err
	}
	return s.Login(ctx, host, image.Auth{Username: auth.Username, Password: image.Secret(auth.Password)}, image.PullOptions{Insecure: opt.Insecure, CACerts: opt.CACerts})
}

// Logout forgets what Login stored.
func (b *Backend) Logout(_ context.Context, host string) error {
	s, err := b.images()
	if err != nil {
		return err
	}
	return s.Logout(host)
}

// Logins returns what is stored and what is configured. What is stored comes first where both are (contract msb-0.6 §1.6).
func (b *Backend) Logins(context.Context) ([]backend.RegistryLogin, error) {
	s, err := b.images()
	if err != nil {
		return nil, err
	}
	stored, err := s.Store.Logins()
	if err != nil {
		return nil, err
	}
	var all []backend.RegistryLogin
	for _, l := range stored {
		all = append(all, backend.RegistryLogin{Host: l.Host, Username: l.Username, Source: "login"})
	}
	for _, host := range slices.Sorted(maps.Keys(s.settings.Registries.Hosts)) {
		if a := s.settings.Registries.Hosts[host].Auth; a != nil {
			all = append(all, backend.RegistryLogin{Host: host, Username: a.Username, Source: "config.json"})
		}
	}
	slices.SortStableFunc(all, func(x, y backend.RegistryLogin) int { return cmp.Compare(x.Host, y.Host) })
	return all, nil
}

// DiskUsage returns what the images take.
func (b *Backend) DiskUsage(context.Context) ([]backend.DiskUsage, error) {
	s, err := b.images()
	if err != nil {
		return nil, err
	}
	u, err := s.Store.DiskUsage()
	if err != nil {
		return nil, err
	}
	usage := func(kind string, u image.Usage) backend.DiskUsage {
		return backend.DiskUsage{Kind: kind, Count: u.Count, Bytes: u.SizeBytes, Reclaimable: u.ReclaimableBytes}
	}
	return []backend.DiskUsage{usage("images", u.Images), usage("layers", u.Blobs), usage("other", u.Other)}, nil
}
