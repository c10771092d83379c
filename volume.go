package microsandbox

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// VolumeConfig is what a volume is to be.
type VolumeConfig struct {
	QuotaMiB uint32 // 0: no limit
	Kind     VolumeKind
	SizeMiB  uint32 // of a disk
	Labels   map[string]string
}

// VolumeOption sets something of a [VolumeConfig].
type VolumeOption func(*VolumeConfig)

// WithVolumeKind says what the volume is kept in. Only directories are supported here.
func WithVolumeKind(kind VolumeKind) VolumeOption { return func(c *VolumeConfig) { c.Kind = kind } }

// WithVolumeSize sets the size of a disk volume.
func WithVolumeSize(mebibytes uint32) VolumeOption {
	return func(c *VolumeConfig) { c.SizeMiB = mebibytes }
}

// WithVolumeQuota sets how much sandboxes may have in the volume.
func WithVolumeQuota(mebibytes uint32) VolumeOption {
	return func(c *VolumeConfig) { c.QuotaMiB = mebibytes }
}

// WithVolumeLabels adds labels to find the volume by.
func WithVolumeLabels(labels map[string]string) VolumeOption {
	return func(c *VolumeConfig) { merge(&c.Labels, labels) }
}

func volumes(what string) (backend.Volumes, error) {
	e, err := open()
	if err != nil {
		return nil, err
	}
	return capable[backend.Volumes](e, "Volume::"+what)
}

// Volume is a directory that outlives sandboxes and that they mount by its name (Mount.Named).
type Volume struct{ v backend.Volume }

// CreateVolume makes a volume. Kinds: ErrVolumeAlreadyExists, ErrInvalidConfig, ErrUnsupportedOperation for a disk.
func CreateVolume(ctx context.Context, name string, opts ...VolumeOption) (*Volume, error) {
	c := VolumeConfig{}
	for _, o := range opts {
		o(&c)
	}
	if c.Kind == VolumeKindDisk || c.SizeMiB > 0 {
		return nil, wrap(&sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "a disk volume is not supported: " + needsVM, Hint: "use a directory and a quota"})
	}
	if c.Kind != "" && c.Kind != VolumeKindDir {
		return nil, wrap(badConfig("volume kind %.100q is not dir or disk", c.Kind))
	}
	b, err := volumes("create")
	if err != nil {
		return nil, wrap(err)
	}
	v, err := b.CreateVolume(ctx, backend.VolumeRequest{Namespace: sandbox.DefaultNamespace, Name: name, QuotaMiB: int(c.QuotaMiB), Labels: maps.Clone(c.Labels)})
	if err != nil {
		return nil, wrap(err)
	}
	return &Volume{v}, nil
}

// Name is the volume's name.
func (v *Volume) Name() string { return v.v.Name }

// Path is the directory of the volume's files.
func (v *Volume) Path() string { return v.v.Path }

// FS is the volume's files.
func (v *Volume) FS() *VolumeFs { return &VolumeFs{v.v} }

// Remove removes the volume and its files. Kind: ErrVolumeInUse.
func (v *Volume) Remove(ctx context.Context) error { return RemoveVolume(ctx, v.v.Name) }

// ListVolumes returns all volumes, newest first.
func ListVolumes(ctx context.Context) ([]*VolumeHandle, error) {
	b, err := volumes("list")
	if err != nil {
		return nil, wrap(err)
	}
	all, err := b.ListVolumes(ctx, sandbox.DefaultNamespace)
	if err != nil {
		return nil, wrap(err)
	}
	out := make([]*VolumeHandle, len(all))
	for i, v := range all {
		out[i] = &VolumeHandle{v}
	}
	return out, nil
}

// GetVolume returns what is known of a volume. Kind: ErrVolumeNotFound.
func GetVolume(ctx context.Context, name string) (*VolumeHandle, error) {
	b, err := volumes("get")
	if err != nil {
		return nil, wrap(err)
	}
	v, err := b.GetVolume(ctx, sandbox.DefaultNamespace, name)
	if err != nil {
		return nil, wrap(err)
	}
	return &VolumeHandle{v}, nil
}

// GetDefaultVolume returns the default volume of a cloud. This machine has none. Kinds: ErrVolumeNotFound, ErrUnsupportedOperation.
func GetDefaultVolume(ctx context.Context) (*VolumeHandle, error) {
	e, err := open()
	if err != nil {
		return nil, wrap(err)
	}
	b, ok := e.manage().(backend.DefaultVolumer)
	if !ok {
		return nil, unsupported("Volume::get_default", "use a cloud backend")
	}
	v, err := b.DefaultVolume(ctx, sandbox.DefaultNamespace)
	if err != nil {
		return nil, wrap(err)
	}
	return &VolumeHandle{v}, nil
}

// RemoveVolume removes a volume and its files. Kinds: ErrVolumeNotFound, ErrVolumeInUse.
func RemoveVolume(ctx context.Context, name string) error {
	b, err := volumes("remove")
	if err == nil {
		err = b.RemoveVolume(ctx, sandbox.DefaultNamespace, name)
	}
	return wrap(err)
}

// VolumeHandle is what is known of a volume.
type VolumeHandle struct{ v backend.Volume }

// Name is the volume's name.
func (h *VolumeHandle) Name() string { return h.v.Name }

// IsDefault reports whether this is the default volume of a cloud.
func (h *VolumeHandle) IsDefault() bool { return h.v.Default }

// Path is the directory of the volume's files.
func (h *VolumeHandle) Path() string { return h.v.Path }

// Kind says what the volume is kept in.
func (h *VolumeHandle) Kind() VolumeKind { return VolumeKindDir }

// QuotaMiB is how much sandboxes may have in it; nil is no limit.
func (h *VolumeHandle) QuotaMiB() *uint32 {
	if h.v.QuotaMiB == 0 {
		return nil
	}
	quota := uint32(h.v.QuotaMiB)
	return &quota
}

// UsedBytes is how much is in it.
func (h *VolumeHandle) UsedBytes() uint64 { return uint64(max(0, h.v.Used)) }

// CapacityBytes is the size of a disk volume, nil for others.
func (h *VolumeHandle) CapacityBytes() *uint64 { return nil }

// DiskFormat is that of a disk volume, nil for others.
func (h *VolumeHandle) DiskFormat() *string { return nil }

// DiskFstype is that of a disk volume, nil for others.
func (h *VolumeHandle) DiskFstype() *string { return nil }

// Labels are the volume's labels.
func (h *VolumeHandle) Labels() map[string]string { return maps.Clone(h.v.Labels) }

// CreatedAt is when the volume was made.
func (h *VolumeHandle) CreatedAt() time.Time { return h.v.CreatedAt }

// FS is the volume's files.
func (h *VolumeHandle) FS() *VolumeFs { return &VolumeFs{h.v} }

// Remove removes the volume and its files. Kind: ErrVolumeInUse.
func (h *VolumeHandle) Remove(ctx context.Context) error { return RemoveVolume(ctx, h.v.Name) }

// ErrPathEscape is the error of a path that leads out of a volume.
var ErrPathEscape = errors.New("microsandbox: path escapes volume root")
