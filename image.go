package microsandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// pull gets the image as the registry options say, where there are any; else whoever creates the sandbox gets it.
func (c *SandboxConfig) pull(ctx context.Context, e *engine, spec sandbox.Spec) error {
	if c.RegistryAuth == nil && !c.RegistryInsecure && len(c.RegistryCACerts) == 0 && len(c.RegistryCACertPaths) == 0 {
		return nil
	}
	if spec.Image.OCI == nil || spec.Image.OCI.Reference == sandbox.HostImage || spec.PullPolicy == sandbox.PullNever {
		return nil
	}
	opt := backend.PullOptions{Insecure: c.RegistryInsecure, CACerts: append([]string{}, c.RegistryCACertPaths...), Refresh: spec.PullPolicy == sandbox.PullAlways}
	if a := c.RegistryAuth; a != nil {
		opt.Auth = &backend.RegistryAuth{Username: a.Username, Password: backend.Secret(a.Password)}
	}
	if len(c.RegistryCACerts) > 0 {
		f, err := os.CreateTemp("", "microsandbox-ca-*.pem")
		if err != nil {
			return &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "write the registry's certificate authorities", Err: err}
		}
		defer os.Remove(f.Name())
		for _, pem := range c.RegistryCACerts {
			_, werr := f.Write(append(pem, '\n'))
			err = errors.Join(err, werr)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "write the registry's certificate authorities", Err: err}
		}
		opt.CACerts = append(opt.CACerts, f.Name())
	}
	b, err := capable[backend.Images](e, "Sandbox::create with registry options")
	if err == nil {
		_, err = b.PullImage(ctx, spec.Image.OCI.Reference, opt)
	}
	return err
}

type imageFactory struct{}

// Image is what can be done with the images that are kept on this machine. References are what a person writes.
var Image imageFactory

// ImageArchiveFormat is a form of image archive.
type ImageArchiveFormat string

// The forms of image archives; "" is docker.
const (
	ImageArchiveDocker ImageArchiveFormat = "docker"
	ImageArchiveOCI    ImageArchiveFormat = "oci"
)

func images(what string) (backend.Images, error) {
	e, err := open()
	if err != nil {
		return nil, err
	}
	return capable[backend.Images](e, "Image::"+what)
}

// Get returns an image that is there. Kind: ErrImageNotFound.
func (imageFactory) Get(ctx context.Context, reference string) (*ImageHandle, error) {
	d, err := Image.Inspect(ctx, reference)
	if err != nil {
		return nil, err
	}
	return d.ImageHandle, nil
}

// List returns the images that are there, newest first.
func (imageFactory) List(ctx context.Context) ([]*ImageHandle, error) {
	b, err := images("list")
	if err != nil {
		return nil, wrap(err)
	}
	list, err := b.ListImages(ctx)
	return handlesOf(list), wrap(err)
}

// Inspect returns all that is known of an image. Kind: ErrImageNotFound.
func (imageFactory) Inspect(ctx context.Context, reference string) (*ImageDetail, error) {
	b, err := images("inspect")
	if err != nil {
		return nil, wrap(err)
	}
	d, err := b.InspectImage(ctx, reference)
	if err != nil {
		return nil, wrap(err)
	}
	c := d.Config
	out := &ImageDetail{ImageHandle: &ImageHandle{d.Image}, Config: &ImageConfig{Digest: c.Digest, Env: c.Env, Cmd: c.Cmd, Entrypoint: c.Entrypoint, WorkingDir: c.WorkingDir,
		User: c.User, Labels: c.Labels, StopSignal: c.StopSignal}}
	for i, l := range d.LayerList {
		size, erofs := l.Size, l.ErofsSize
		out.Layers = append(out.Layers, ImageLayer{DiffID: l.DiffID, BlobDigest: l.Digest, MediaType: l.MediaType, CompressedSizeBytes: &size, ErofsSizeBytes: &erofs, Position: int32(i)})
	}
	return out, nil
}

// Remove removes a reference, and with the last one of an image the image. Kinds: ErrImageNotFound; ErrImageInUse, unless
// force is set.
func (imageFactory) Remove(ctx context.Context, reference string, force bool) error {
	b, err := images("remove")
	if err == nil {
		err = b.RemoveImage(ctx, reference, force)
	}
	return wrap(err)
}

// Prune removes every image that no sandbox uses.
func (imageFactory) Prune(ctx context.Context) (*ImagePruneReport, error) {
	b, err := images("prune")
	if err != nil {
		return nil, wrap(err)
	}
	p, err := b.PruneImages(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	reclaimed := uint64(p.Bytes)
	return &ImagePruneReport{ImageRefsRemoved: uint32(p.References), ManifestsRemoved: uint32(p.Images), LayersRemoved: uint32(p.Layers), BytesReclaimed: &reclaimed}, nil
}

// Load reads the images of an archive: one of docker save, or an OCI layout in a tar. The first image gets the tags, too.
func (imageFactory) Load(ctx context.Context, inputPath string, tags ...string) ([]*ImageHandle, error) {
	b, err := archives("load")
	if err != nil {
		return nil, wrap(err)
	}
	f, err := os.Open(inputPath)
	if err != nil {
		return nil, wrap(&sandbox.Error{Op: "load", Kind: sandbox.IO, Err: err})
	}
	defer f.Close()
	tag := ""
	if len(tags) > 0 {
		tag = tags[0]
	}
	list, err := b.LoadImages(ctx, f, tag, nil)
	for _, more := range tags[min(1, len(tags)):] {
		if err != nil {
			break
		}
		if _, err = f.Seek(0, io.SeekStart); err == nil { // its layers are here by now
			var again []backend.Image
			again, err = b.LoadImages(ctx, f, more, nil)
			list = append(list, slices.DeleteFunc(again, func(i backend.Image) bool {
				return slices.ContainsFunc(list, func(have backend.Image) bool { return have.Reference == i.Reference })
			})...)
		}
	}
	return handlesOf(list), wrap(err)
}

// Save writes images to an archive, which is there whole or not at all. Kind: ErrImageNotFound.
func (imageFactory) Save(ctx context.Context, references []string, outputPath string, format ImageArchiveFormat) error {
	b, err := archives("save")
	if err != nil {
		return wrap(err)
	}
	if format == "" {
		format = ImageArchiveDocker
	}
	if format != ImageArchiveDocker && format != ImageArchiveOCI {
		return fail(ErrInvalidArgument, fmt.Sprintf("archive format %.100q is not docker or oci", format))
	}
	f, err := os.CreateTemp(filepath.Dir(outputPath), ".microsandbox-save-*")
	if err != nil {
		return wrap(&sandbox.Error{Op: "save", Kind: sandbox.IO, Err: err})
	}
	defer os.Remove(f.Name()) // nothing once it has its name
	err = b.SaveImages(ctx, f, references, backend.ArchiveFormat(format))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), outputPath)
	}
	var known *sandbox.Error
	if err != nil && !errors.As(err, &known) {
		err = &sandbox.Error{Op: "save", Kind: sandbox.IO, Err: err}
	}
	return wrap(err)
}

func archives(what string) (backend.ImageArchives, error) {
	e, err := open()
	if err != nil {
		return nil, err
	}
	return capable[backend.ImageArchives](e, "Image::"+what)
}

// ImageHandle is an image that is there.
type ImageHandle struct{ i backend.Image }

func handlesOf(list []backend.Image) []*ImageHandle {
	out := make([]*ImageHandle, len(list))
	for i, img := range list {
		out[i] = &ImageHandle{img}
	}
	return out
}

// Reference is the whole reference, e.g. docker.io/library/python:3.12.
func (h *ImageHandle) Reference() string { return h.i.Reference }

// ManifestDigest is the digest of the image's manifest.
func (h *ImageHandle) ManifestDigest() string { return h.i.Digest }

// Architecture is that of the image's programs.
func (h *ImageHandle) Architecture() string { return h.i.Architecture }

// OS is that of the image's programs.
func (h *ImageHandle) OS() string { return h.i.OS }

// LayerCount is how many layers the image has.
func (h *ImageHandle) LayerCount() uint { return uint(h.i.Layers) }

// SizeBytes is how much the layers are in a registry; nil is unknown.
func (h *ImageHandle) SizeBytes() *int64 {
	size := h.i.Size
	return &size
}

// CreatedAt is when the image came here.
func (h *ImageHandle) CreatedAt() time.Time { return h.i.CreatedAt }

// LastUsedAt is when a sandbox was last started from it, give or take ten minutes.
func (h *ImageHandle) LastUsedAt() time.Time { return h.i.UsedAt }

// Remove is Image.Remove of this one.
func (h *ImageHandle) Remove(ctx context.Context, force bool) error {
	return Image.Remove(ctx, h.Reference(), force)
}

// Inspect is Image.Inspect of this one.
func (h *ImageHandle) Inspect(ctx context.Context) (*ImageDetail, error) {
	return Image.Inspect(ctx, h.Reference())
}

// ImageDetail is all that is known of an image.
type ImageDetail struct {
	*ImageHandle
	Config *ImageConfig
	Layers []ImageLayer // lowest first
}

// ImageConfig is what an image says about the processes that run in it, in the words of OCI.
type ImageConfig struct {
	Digest     string
	Env        []string
	Cmd        []string
	Entrypoint []string
	WorkingDir string
	User       string
	Labels     map[string]string
	StopSignal string
}

// ImageLayer is one layer of an image.
type ImageLayer struct {
	DiffID              string // of the tar in it
	BlobDigest          string
	MediaType           string
	CompressedSizeBytes *int64
	ErofsSizeBytes      *int64
	Position            int32
}

// ImagePruneReport says what Image.Prune removed. There are no fsmeta and VMDK files here.
type ImagePruneReport struct {
	ImageRefsRemoved uint32
	ManifestsRemoved uint32
	LayersRemoved    uint32
	FsmetaRemoved    uint32
	VMDKRemoved      uint32
	BytesReclaimed   *uint64
}
