package backend

import (
	"context"
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

// VolumeRequest says what volume to make.
type VolumeRequest struct {
	Namespace, Name string
	QuotaMiB        int // 0: no limit
	Labels          map[string]string
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
}
