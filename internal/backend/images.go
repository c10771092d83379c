package backend

import (
	"context"
	"io"
	"time"
)

// Images is a backend that keeps images. References are what a person writes; each method knows names without a registry
// or a tag. The kinds are those of the methods and, everywhere, InvalidArgument for what is no reference.
type Images interface {
	// PullImage gets an image from its registry; what is there of it is not got again. Kinds: ImageNotFound, ImagePullFailed,
	// Cancelled, IO.
	PullImage(ctx context.Context, ref string, opt PullOptions) (Image, error)
	// ListImages returns the images that are there, newest first.
	ListImages(ctx context.Context) ([]Image, error)
	// InspectImage returns all that is known of an image. Kind: ImageNotFound.
	InspectImage(ctx context.Context, ref string) (ImageDetail, error)
	// RemoveImage removes a reference, and with the last one of an image the image. Kinds: ImageNotFound; ImageInUse,
	// unless force is set.
	RemoveImage(ctx context.Context, ref string, force bool) error
	// PruneImages removes every image that no sandbox uses, and what was left of others.
	PruneImages(ctx context.Context) (ImagePrune, error)
}

// ImageArchives is a backend that reads and writes images as tar archives.
type ImageArchives interface {
	// LoadImages reads a docker-archive or an OCI layout. The first image also gets the reference tag, unless that is "".
	// Kinds: ImagePullFailed for what is no such archive, Cancelled, IO.
	LoadImages(ctx context.Context, r io.Reader, tag string, progress func(PullEvent)) ([]Image, error)
	// SaveImages writes images that are there. Nothing is written when one is missing. Kinds: ImageNotFound, IO.
	SaveImages(ctx context.Context, w io.Writer, refs []string, format ArchiveFormat) error
}

// Registries is a backend that stores what registries know the user by.
type Registries interface {
	// Login asks the registry whether it takes the credentials, and stores them. Of opt, Insecure and CACerts count.
	Login(ctx context.Context, host string, auth RegistryAuth, opt PullOptions) error
	// Logout forgets what Login stored. Kind: InvalidArgument, when there is nothing.
	Logout(ctx context.Context, host string) error
	// Logins returns what is stored and what is configured, by host, without passwords.
	Logins(ctx context.Context) ([]RegistryLogin, error)
}

// DiskUser is a backend that knows what it keeps on a disk.
type DiskUser interface {
	DiskUsage(ctx context.Context) ([]DiskUsage, error)
}

// PullOptions say how to get an image. The zero value gets what is not there.
type PullOptions struct {
	Refresh  bool          // ask the registry what the reference means now, also when the image is there
	Insecure bool          // plain HTTP, or a certificate of anybody
	CACerts  []string      // PEM files with more certificate authorities
	Platform string        // os/architecture[/variant]; "" is this machine's
	Auth     *RegistryAuth // instead of all stored and configured credentials; nil is those

	// Proven has the registry asked for an image that is there for credentials of another pull.
	Proven bool

	// Progress is called with what is being done, from one goroutine at a time; nil is silence.
	Progress func(PullEvent)
}

// PullPhase is a step of a pull. Waiting, resolved, writing and done are of the image, the others of one layer.
type PullPhase string

// The phases of a pull, in the order in which they come. Layers go through theirs independently.
const (
	PullWaiting     PullPhase = "waiting"     // for another process that makes the same image
	PullResolved    PullPhase = "resolved"    // the manifest is known: Digest is its, Layers is set
	PullDownloading PullPhase = "downloading" // Done of Total bytes
	PullDownloaded  PullPhase = "downloaded"  // and verified
	PullCached      PullPhase = "cached"      // it was there
	PullUnpacking   PullPhase = "unpacking"   // Done of Total bytes, as they are packed
	PullUnpacked    PullPhase = "unpacked"    // and verified
	PullWriting     PullPhase = "writing"     // one image of all layers
	PullDone        PullPhase = "done"        // Total is the image's bytes
)

// PullEvent is a step of a pull, a load, or of a root being made.
type PullEvent struct {
	Phase  PullPhase `json:"phase"`
	Digest string    `json:"digest,omitempty"` // of the layer's blob; of the manifest in PullResolved and PullDone
	Layer  int       `json:"layer"`            // counted from 0
	Layers int       `json:"layers"`           // how many there are
	Done   int64     `json:"done"`             // bytes
	Total  int64     `json:"total"`            // bytes; 0 is unknown
}

// Image is an image that is there.
type Image struct {
	Reference    string    `json:"reference"` // whole: registry/repository:tag or @digest
	Short        string    `json:"short"`     // as a person writes it
	Digest       string    `json:"digest"`    // of the manifest
	OS           string    `json:"os"`
	Architecture string    `json:"architecture"`
	Layers       int       `json:"layer_count"`
	Size         int64     `json:"size_bytes"`   // of its layers as the registry has them
	Disk         int64     `json:"disk_bytes"`   // that it takes on the disk, without its packed layers
	CreatedAt    time.Time `json:"created_at"`   // when it came here
	UsedAt       time.Time `json:"last_used_at"` // give or take ten minutes
}

// ImageDetail is all that is known of an image.
type ImageDetail struct {
	Image
	Config    ImageConfig  `json:"config"`
	LayerList []ImageLayer `json:"layers"`
	// XattrFiles counts the files with extended attributes, mostly capabilities. They are kept for SaveImages; a sandbox
	// does not see them.
	XattrFiles int  `json:"files_with_xattrs"`
	BlobsKept  bool `json:"blobs_kept"` // its layers are there as they came; otherwise SaveImages makes one of them all
}

// ImageConfig is what an image says about the processes that run in it, in the words of OCI.
type ImageConfig struct {
	Digest     string            `json:"digest"`
	Env        []string          `json:"env"`
	Cmd        []string          `json:"cmd"`
	Entrypoint []string          `json:"entrypoint"`
	WorkingDir string            `json:"working_dir"`
	User       string            `json:"user"`
	Labels     map[string]string `json:"labels"`
	StopSignal string            `json:"stop_signal"`
}

// ImageLayer is one layer of an image, lowest first.
type ImageLayer struct {
	Digest    string `json:"blob_digest"` // of the blob
	DiffID    string `json:"diff_id"`     // of the tar in it
	MediaType string `json:"media_type"`
	Size      int64  `json:"compressed_size_bytes"` // of the blob
	ErofsSize int64  `json:"erofs_size_bytes"`      // of those of its files' data that show in the image
}

// ImagePrune says what was removed.
type ImagePrune struct {
	References int   `json:"references"`
	Images     int   `json:"images"`
	Layers     int   `json:"layers"` // packed ones
	Bytes      int64 `json:"bytes"`
}

// ArchiveFormat is a form of image archive (contract msb-0.6 §1.2).
type ArchiveFormat string

// The forms of image archives.
const (
	ArchiveDocker ArchiveFormat = "docker"
	ArchiveOCI    ArchiveFormat = "oci"
)

// RegistryAuth is what a registry knows a user by. It does not print its password.
type RegistryAuth struct {
	Username string
	Password Secret
}

// Secret is a string that is not printed.
type Secret string

// String hides it.
func (Secret) String() string { return "[secret]" }

// GoString hides it.
func (Secret) GoString() string { return "[secret]" }

// MarshalJSON hides it.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"[secret]"`), nil }

// RegistryLogin is a registry that there are credentials for, and where they are from: "login" or "config.json".
type RegistryLogin struct{ Host, Username, Source string }

// DiskUsage is what one kind of thing takes.
type DiskUsage struct {
	Kind        string // "images", "layers", …
	Count       int    // of files
	Bytes       int64  // all together
	Reclaimable int64  // of them, those that pruning would free
}
