package microsandbox

import (
	"context"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Snapshots are not there yet: every function here returns an error of the kind ErrUnsupportedOperation. The types are what
// programs are written against.

// The scopes of snapshots.
const (
	SnapshotScopeDisk      = "disk"
	SnapshotScopeResumable = "resumable"
)

// SnapshotCreateOptions say what snapshot to make.
type SnapshotCreateOptions struct {
	Name            string
	FromSandbox     string // which has to be stopped
	DestDir         string // default the snapshots of MSB_HOME
	Labels          map[string]string
	Force           bool // replace one of that name
	RecordIntegrity bool
	Resumable       bool
}

// SnapshotSaveOptions say what goes into an archive.
type SnapshotSaveOptions struct {
	WithParents bool
	WithImage   bool
	PlainTar    bool
}

// SnapshotVerifyReport says whether a snapshot is what it was.
type SnapshotVerifyReport struct {
	Digest string
	Path   string
	Upper  SnapshotUpperVerifyStatus
}

// SnapshotUpperVerifyStatus is the part of it about the writable layer.
type SnapshotUpperVerifyStatus struct {
	Kind      string
	Algorithm string
	Digest    string
}

// SnapshotState is what a snapshot holds: File or Checkpoint is set.
type SnapshotState struct {
	Kind       string
	File       *SnapshotFileState
	Checkpoint *SnapshotCheckpointState
}

// SnapshotFileState is a writable layer.
type SnapshotFileState struct {
	Format       string
	Fstype       string
	UpperFile    string
	SizeBytes    uint64
	HasIntegrity bool
	Integrity    SnapshotIntegrity
}

// SnapshotCheckpointState is a running sandbox.
type SnapshotCheckpointState struct {
	CheckpointID   string
	ManifestDigest string
}

// SnapshotIntegrity says what a writable layer is to be.
type SnapshotIntegrity struct {
	Algorithm   string
	Digest      string
	Root        string
	LogicalSize uint64
	LeafSize    uint32
}

func noSnapshots[T any](what string) (T, error) {
	var zero T
	return zero, wrap(&sandbox.Error{Op: what, Kind: sandbox.Unsupported, Message: "Snapshot::" + what + " is not supported by this backend: snapshots come with a later release"})
}

type snapshotFactory struct{}

// Snapshot is what can be done with snapshots.
var Snapshot snapshotFactory

// Create makes a snapshot of a sandbox that was stopped.
func (snapshotFactory) Create(ctx context.Context, opts SnapshotCreateOptions) (*SnapshotArtifact, error) {
	return noSnapshots[*SnapshotArtifact]("create")
}

// Open returns all that is known of a snapshot.
func (snapshotFactory) Open(ctx context.Context, pathOrName string) (*SnapshotArtifact, error) {
	return noSnapshots[*SnapshotArtifact]("open")
}

// Get returns a snapshot's record.
func (snapshotFactory) Get(ctx context.Context, nameOrDigest string) (*SnapshotHandle, error) {
	return noSnapshots[*SnapshotHandle]("get")
}

// List returns the records of all snapshots.
func (snapshotFactory) List(ctx context.Context) ([]*SnapshotHandle, error) {
	return noSnapshots[[]*SnapshotHandle]("list")
}

// ListDir returns the snapshots in a directory.
func (snapshotFactory) ListDir(ctx context.Context, dir string) ([]*SnapshotArtifact, error) {
	return noSnapshots[[]*SnapshotArtifact]("list_dir")
}

// Remove removes a snapshot.
func (snapshotFactory) Remove(ctx context.Context, pathOrName string, force bool) error {
	_, err := noSnapshots[int]("remove")
	return err
}

// Reindex looks again which snapshots there are, and returns how many.
func (snapshotFactory) Reindex(ctx context.Context, dir string) (uint32, error) {
	return noSnapshots[uint32]("reindex")
}

// Save writes a snapshot to an archive.
func (snapshotFactory) Save(ctx context.Context, nameOrPath, outPath string, opts SnapshotSaveOptions) error {
	_, err := noSnapshots[int]("save")
	return err
}

// Load reads a snapshot from an archive.
func (snapshotFactory) Load(ctx context.Context, archive, dest string) (*SnapshotHandle, error) {
	return noSnapshots[*SnapshotHandle]("load")
}

// Snapshot makes a snapshot of the sandbox, which has to be stopped.
func (h *SandboxHandle) Snapshot(ctx context.Context, name string) (*SnapshotArtifact, error) {
	return Snapshot.Create(ctx, SnapshotCreateOptions{Name: name, FromSandbox: h.Name()})
}

// SnapshotArtifact is a snapshot.
type SnapshotArtifact struct {
	path, digest                         string
	sizeBytes                            uint64
	imageRef, imageManifestDigest, scope string
	state                                SnapshotState
	parent, sourceSandbox                *string
	createdAt                            string
	labels                               map[string]string
}

// Path is where the snapshot is.
func (s *SnapshotArtifact) Path() string { return s.path }

// Digest is that of the snapshot's description.
func (s *SnapshotArtifact) Digest() string { return s.digest }

// SizeBytes is how much the snapshot takes.
func (s *SnapshotArtifact) SizeBytes() uint64 { return s.sizeBytes }

// ImageRef is the image that it is a layer upon.
func (s *SnapshotArtifact) ImageRef() string { return s.imageRef }

// ImageManifestDigest is the digest of that image.
func (s *SnapshotArtifact) ImageManifestDigest() string { return s.imageManifestDigest }

// Scope is disk or resumable.
func (s *SnapshotArtifact) Scope() string { return s.scope }

// State is what the snapshot holds.
func (s *SnapshotArtifact) State() SnapshotState { return s.state }

// Format is that of the writable layer, "" where there is none.
func (s *SnapshotArtifact) Format() string {
	if s.state.File == nil {
		return ""
	}
	return s.state.File.Format
}

// Fstype is that of the writable layer, "" where there is none.
func (s *SnapshotArtifact) Fstype() string {
	if s.state.File == nil {
		return ""
	}
	return s.state.File.Fstype
}

// Parent is the digest of the snapshot that it is made of.
func (s *SnapshotArtifact) Parent() *string { return s.parent }

// CreatedAt is when it was made (RFC 3339).
func (s *SnapshotArtifact) CreatedAt() string { return s.createdAt }

// Labels are the snapshot's labels.
func (s *SnapshotArtifact) Labels() map[string]string { return s.labels }

// SourceSandbox is the sandbox that it was made of.
func (s *SnapshotArtifact) SourceSandbox() *string { return s.sourceSandbox }

// Verify checks the snapshot's contents.
func (s *SnapshotArtifact) Verify(ctx context.Context) (*SnapshotVerifyReport, error) {
	return noSnapshots[*SnapshotVerifyReport]("verify")
}

// SnapshotHandle is a snapshot's record.
type SnapshotHandle struct {
	digest, scope, imageRef, stateKind, locality, availability, migrationState, path string
	name, parentDigest, format, fstype, checkpointManifestDigest, migrationErrorCode *string
	sizeBytes                                                                        *uint64
	createdAt                                                                        time.Time
}

// Digest is that of the snapshot's description.
func (h *SnapshotHandle) Digest() string { return h.digest }

// Name is the snapshot's name.
func (h *SnapshotHandle) Name() *string { return h.name }

// ParentDigest is that of the snapshot that it is made of.
func (h *SnapshotHandle) ParentDigest() *string { return h.parentDigest }

// Scope is disk or resumable.
func (h *SnapshotHandle) Scope() string { return h.scope }

// ImageRef is the image that it is a layer upon.
func (h *SnapshotHandle) ImageRef() string { return h.imageRef }

// StateKind is file or checkpoint.
func (h *SnapshotHandle) StateKind() string { return h.stateKind }

// Format is that of the writable layer.
func (h *SnapshotHandle) Format() *string { return h.format }

// Fstype is that of the writable layer.
func (h *SnapshotHandle) Fstype() *string { return h.fstype }

// CheckpointManifestDigest is that of a checkpoint.
func (h *SnapshotHandle) CheckpointManifestDigest() *string { return h.checkpointManifestDigest }

// SizeBytes is how much the snapshot takes.
func (h *SnapshotHandle) SizeBytes() *uint64 { return h.sizeBytes }

// Locality says where the snapshot is.
func (h *SnapshotHandle) Locality() string { return h.locality }

// Availability says whether it can be used.
func (h *SnapshotHandle) Availability() string { return h.availability }

// MigrationState says whether it is being brought up to date.
func (h *SnapshotHandle) MigrationState() string { return h.migrationState }

// MigrationErrorCode says why that failed.
func (h *SnapshotHandle) MigrationErrorCode() *string { return h.migrationErrorCode }

// Path is where the snapshot is.
func (h *SnapshotHandle) Path() string { return h.path }

// CreatedAt is when it was made.
func (h *SnapshotHandle) CreatedAt() time.Time { return h.createdAt }

// Open returns all that is known of the snapshot.
func (h *SnapshotHandle) Open(ctx context.Context) (*SnapshotArtifact, error) {
	return Snapshot.Open(ctx, h.path)
}

// Remove removes the snapshot.
func (h *SnapshotHandle) Remove(ctx context.Context, force bool) error {
	return Snapshot.Remove(ctx, h.path, force)
}
