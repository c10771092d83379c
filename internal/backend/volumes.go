package backend

import (
	"context"
	"io"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Volumes is a backend that keeps directories for sandboxes to mount by name. They outlive the sandboxes, and several may mount
// one at the same time. Each namespace has its own.
type Volumes interface {
	// CreateVolume makes a volume. Kinds: VolumeExists, InvalidConfig, IO.
	CreateVolume(ctx context.Context, req VolumeRequest) (Volume, error)
	// GetVolume returns what is known of a volume. Kind: VolumeNotFound.
	GetVolume(ctx context.Context, namespace, name string) (Volume, error)
	// ListVolumes returns the volumes of a namespace, newest first.
	ListVolumes(ctx context.Context, namespace string) ([]Volume, error)
	// RemoveVolume removes a volume and its files. Kinds: VolumeNotFound, VolumeInUse.
	RemoveVolume(ctx context.Context, namespace, name string) error
}

// VolumeFinder is a backend that knows volumes by their IDs.
type VolumeFinder interface {
	// FindVolume returns a volume, whose use is not measured. Kind: VolumeNotFound.
	FindVolume(ctx context.Context, namespace, id string) (Volume, error)
}

// VolumeEditor is a backend whose volumes can be changed.
type VolumeEditor interface {
	// UpdateVolume changes a volume. Sandboxes that run keep the limit that they were started with. Kinds: VolumeNotFound,
	// InvalidConfig, also for a limit below what is in it.
	UpdateVolume(ctx context.Context, namespace, name string, change VolumeChange) (Volume, error)
}

// VolumeFiles is a backend that reads and writes the files of volumes where they are not on this machine. Paths are from the volume's
// root. Kinds of all: VolumeNotFound, PathNotFound, Filesystem.
type VolumeFiles interface {
	// ReadVolume opens a file.
	ReadVolume(ctx context.Context, v Volume, path string) (io.ReadCloser, error)
	// WriteVolume makes a file of what r has; one that is there stays until all was read.
	WriteVolume(ctx context.Context, v Volume, path string, r io.Reader) error
	// MkdirVolume makes a directory and those above it; one that is there is fine.
	MkdirVolume(ctx context.Context, v Volume, path string) error
	// RemoveVolumeFile removes a file or an empty directory; with all, what is below, too.
	RemoveVolumeFile(ctx context.Context, v Volume, path string, all bool) error
	// ExistsVolume reports whether something is there.
	ExistsVolume(ctx context.Context, v Volume, path string) (bool, error)
}

// DefaultVolumer is a backend that has a volume for who names none.
type DefaultVolumer interface {
	// DefaultVolume returns it. Kind: VolumeNotFound.
	DefaultVolume(ctx context.Context, namespace string) (Volume, error)
}

// VolumeRequest says what volume to make.
type VolumeRequest struct {
	Namespace, Name string
	QuotaMiB        int // 0: no limit
	Labels          map[string]string
}

// VolumeChange says what of a volume is to be different; what is nil stays.
type VolumeChange struct {
	QuotaMiB *int              // 0: no limit
	Labels   map[string]string // in place of all there are
}

// Volume is what is known of a volume.
type Volume struct {
	Namespace, Name, ID string
	QuotaMiB            int
	Used                int64 // bytes
	Labels              map[string]string
	CreatedAt           time.Time
	UpdatedAt           time.Time
	Path                string // of its files, where the backend is this machine
	Users               []sandbox.Ref
	Default             bool // it is the backend's own (DefaultVolumer)
}
