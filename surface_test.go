package microsandbox_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	ms "github.com/microsandbox-go/microsandbox"
)

// This file is contract msb-0.6, Appendix A and what §2.11 adds to it, as assertions of the compiler: every exported name with
// its signature. What is not as it was does not compile.

type (
	c0      = context.Context
	strs    = []string
	strMap  = map[string]string
	portMap = map[uint16]uint16
)

// Functions.
var (
	_ func(c0, string) (*ms.AgentClient, error)                  = ms.ConnectAgentSandbox
	_ func(c0, string) (*ms.AgentClient, error)                  = ms.ConnectAgentPath
	_ func(string) (string, error)                               = ms.AgentSocketPath
	_ func() (ms.BackendInfo, error)                             = ms.DefaultBackendInfo
	_ func(error, ms.ErrorKind) bool                             = ms.IsKind
	_ func(c0, string, ...ms.SandboxOption) (*ms.Sandbox, error) = ms.CreateSandbox
	_ func(c0, string, ...ms.SandboxOption) (*ms.Sandbox, error) = ms.ConnectOrCreateSandbox
	_ func(c0, string) (*ms.SandboxHandle, error)                = ms.GetSandbox
	_ func(c0, string) (*ms.Sandbox, error)                      = ms.StartSandbox
	_ func(c0, string) (*ms.Sandbox, error)                      = ms.StartSandboxDetached
	_ func(c0) (map[string]*ms.Metrics, error)                   = ms.AllSandboxMetrics
	_ func(c0) (*ms.SandboxPage, error)                          = ms.ListSandboxes
	_ func(c0, ...ms.ListOption) (*ms.SandboxPage, error)        = ms.ListSandboxesWith
	_ func(c0, string) error                                     = ms.RemoveSandbox
	_ func(time.Duration) ms.StopOption                          = ms.WithStopTimeout
	_ func(time.Duration) ms.KillOption                          = ms.WithKillTimeout
	_ func(string) ms.ListOption                                 = ms.WithListCursor
	_ func(uint32) ms.ListOption                                 = ms.WithListLimit
	_ func(strMap) ms.ListOption                                 = ms.WithListLabels
	_ func() ms.RestartOption                                    = ms.WithRestartForce
	_ func(time.Duration) ms.RestartOption                       = ms.WithRestartTimeout
	_ func() ms.RestartOption                                    = ms.WithRestartDetached
	_ func() ms.DestroyOption                                    = ms.WithDestroyForce
	_ func(time.Duration) ms.DestroyOption                       = ms.WithDestroyTimeout
	_ func() ms.ConnectOrStartOption                             = ms.WithConnectOrStartDetached
	_ func() ms.SetupOption                                      = ms.WithSkipDownload
	_ func(c0, ...ms.SetupOption) error                          = ms.EnsureInstalled
	_ func() bool                                                = ms.IsInstalled
	_ func() string                                              = ms.SDKVersion
	_ func() (string, error)                                     = ms.RuntimeVersion
	_ func(c0, string, ...ms.VolumeOption) (*ms.Volume, error)   = ms.CreateVolume
	_ func(c0) ([]*ms.VolumeHandle, error)                       = ms.ListVolumes
	_ func(c0, string) error                                     = ms.RemoveVolume
	_ func(c0, string) (*ms.VolumeHandle, error)                 = ms.GetVolume
	_ func(c0) (*ms.VolumeHandle, error)                         = ms.GetDefaultVolume
	_ error                                                      = ms.ErrPathEscape
)

// Options of sandboxes.
var (
	_ func(string) ms.SandboxOption                    = ms.WithImage
	_ func(ms.RootDiskConfig) ms.SandboxOption         = ms.WithRootDisk
	_ func(uint32) ms.SandboxOption                    = ms.WithOCIUpperSize
	_ func(string, string) ms.SandboxOption            = ms.WithImageDisk
	_ func(string) ms.SandboxOption                    = ms.WithBindRootfs
	_ func(string) ms.SandboxOption                    = ms.WithFromSnapshot
	_ func(uint32) ms.SandboxOption                    = ms.WithMemory
	_ func(uint8) ms.SandboxOption                     = ms.WithCPUs
	_ func(uint32) ms.SandboxOption                    = ms.WithMaxMemory
	_ func(uint8) ms.SandboxOption                     = ms.WithMaxCPUs
	_ func(ms.CPUPlacement) ms.SandboxOption           = ms.WithCPUPlacement
	_ func(string) ms.SandboxOption                    = ms.WithPlacementProfile
	_ func(ms.THPPolicy) ms.SandboxOption              = ms.WithTHP
	_ func(string) ms.SandboxOption                    = ms.WithWorkdir
	_ func(string) ms.SandboxOption                    = ms.WithShell
	_ func(ms.SecurityProfile) ms.SandboxOption        = ms.WithSecurityProfile
	_ func(ms.DeploymentProfile) ms.SandboxOption      = ms.WithDeploymentProfile
	_ func(strMap) ms.SandboxOption                    = ms.WithEnv
	_ func(strMap) ms.SandboxOption                    = ms.WithLabels
	_ func(string, string) ms.SandboxOption            = ms.WithLabel
	_ func(string) ms.SandboxOption                    = ms.WithHostname
	_ func(string) ms.SandboxOption                    = ms.WithUser
	_ func() ms.SandboxOption                          = ms.WithReplace
	_ func(time.Duration) ms.SandboxOption             = ms.WithReplaceWithTimeout
	_ func() ms.SandboxOption                          = ms.WithDetached
	_ func(bool) ms.SandboxOption                      = ms.WithEphemeral
	_ func(...string) ms.SandboxOption                 = ms.WithEntrypoint
	_ func(...string) ms.SandboxOption                 = ms.WithCmd
	_ func(ms.InitConfig) ms.SandboxOption             = ms.WithInit
	_ func(ms.LogLevel) ms.SandboxOption               = ms.WithLogLevel
	_ func() ms.SandboxOption                          = ms.WithQuietLogs
	_ func(strMap) ms.SandboxOption                    = ms.WithScripts
	_ func(ms.PullPolicy) ms.SandboxOption             = ms.WithPullPolicy
	_ func(time.Duration) ms.SandboxOption             = ms.WithMaxDuration
	_ func(time.Duration) ms.SandboxOption             = ms.WithIdleTimeout
	_ func(ms.RegistryAuth) ms.SandboxOption           = ms.WithRegistryAuth
	_ func() ms.SandboxOption                          = ms.WithRegistryInsecure
	_ func([]byte) ms.SandboxOption                    = ms.WithRegistryCACerts
	_ func(string) ms.SandboxOption                    = ms.WithRegistryCACertsPath
	_ func(portMap) ms.SandboxOption                   = ms.WithPorts
	_ func(portMap) ms.SandboxOption                   = ms.WithPortsUDP
	_ func(...ms.PortBinding) ms.SandboxOption         = ms.WithPortBindings
	_ func(...ms.VsockRoute) ms.SandboxOption          = ms.WithVsock
	_ func(*ms.NetworkConfig) ms.SandboxOption         = ms.WithNetwork
	_ func(...ms.SecretEntry) ms.SandboxOption         = ms.WithSecrets
	_ func(...ms.PatchConfig) ms.SandboxOption         = ms.WithPatches
	_ func(map[string]ms.MountConfig) ms.SandboxOption = ms.WithMounts
	_ func(ms.OutboundProxy) ms.SandboxOption          = ms.WithProxy
	_ func() ms.SandboxOption                          = ms.WithNetworkStrict
	_ func(string) ms.ExecOption                       = ms.WithExecCwd
	_ func(time.Duration) ms.ExecOption                = ms.WithExecTimeout
	_ func() ms.ExecOption                             = ms.WithExecStdinPipe
	_ func(bool) ms.ExecOption                         = ms.WithExecTTY
	_ func(string) ms.ExecOption                       = ms.WithExecUser
	_ func(strMap) ms.ExecOption                       = ms.WithExecEnv
	_ func(string) ms.AttachOption                     = ms.WithAttachCwd
	_ func(string) ms.AttachOption                     = ms.WithAttachUser
	_ func(strMap) ms.AttachOption                     = ms.WithAttachEnv
	_ func(string) ms.AttachOption                     = ms.WithAttachDetachKeys
	_ func(ms.VolumeKind) ms.VolumeOption              = ms.WithVolumeKind
	_ func(uint32) ms.VolumeOption                     = ms.WithVolumeSize
	_ func(uint32) ms.VolumeOption                     = ms.WithVolumeQuota
	_ func(strMap) ms.VolumeOption                     = ms.WithVolumeLabels
	_ func(string) ms.SSHClientOption                  = ms.WithSSHUser
	_ func(string) ms.SSHClientOption                  = ms.WithSSHTerm
	_ func(bool) ms.SSHClientOption                    = ms.WithSSHClientSFTP
	_ func(time.Duration) ms.SSHClientOption           = ms.WithSSHClientInactivityTimeout
	_ func(bool) ms.SSHExecOption                      = ms.WithSSHTTY
	_ func(string) ms.SSHAttachOption                  = ms.WithSSHAttachTerm
	_ func(string) ms.SSHAttachOption                  = ms.WithSSHDetachKeys
	_ func(string) ms.SSHServerOption                  = ms.WithSSHHostKeyPath
	_ func(string) ms.SSHServerOption                  = ms.WithSSHAuthorizedKeysPath
	_ func(string) ms.SSHServerOption                  = ms.WithSSHServerUser
	_ func(bool) ms.SSHServerOption                    = ms.WithSSHServerSFTP
	_ func(time.Duration) ms.SSHServerOption           = ms.WithSSHServerInactivityTimeout
)

// Factories.
var (
	_ func(c0, string) (*ms.ImageHandle, error)                           = ms.Image.Get
	_ func(c0) ([]*ms.ImageHandle, error)                                 = ms.Image.List
	_ func(c0, string) (*ms.ImageDetail, error)                           = ms.Image.Inspect
	_ func(c0, string, bool) error                                        = ms.Image.Remove
	_ func(c0) (*ms.ImagePruneReport, error)                              = ms.Image.Prune
	_ func(c0, string, ...string) ([]*ms.ImageHandle, error)              = ms.Image.Load
	_ func(c0, strs, string, ms.ImageArchiveFormat) error                 = ms.Image.Save
	_ func(c0, ms.SnapshotCreateOptions) (*ms.SnapshotArtifact, error)    = ms.Snapshot.Create
	_ func(c0, string) (*ms.SnapshotArtifact, error)                      = ms.Snapshot.Open
	_ func(c0, string) (*ms.SnapshotHandle, error)                        = ms.Snapshot.Get
	_ func(c0) ([]*ms.SnapshotHandle, error)                              = ms.Snapshot.List
	_ func(c0, string) ([]*ms.SnapshotArtifact, error)                    = ms.Snapshot.ListDir
	_ func(c0, string, bool) error                                        = ms.Snapshot.Remove
	_ func(c0, string) (uint32, error)                                    = ms.Snapshot.Reindex
	_ func(c0, string, string, ms.SnapshotSaveOptions) error              = ms.Snapshot.Save
	_ func(c0, string, string) (*ms.SnapshotHandle, error)                = ms.Snapshot.Load
	_ func(uint32) ms.RootDiskConfig                                      = ms.RootDisk.Managed
	_ func(ms.RootDiskTmpfsOptions) ms.RootDiskConfig                     = ms.RootDisk.Tmpfs
	_ func(string, ms.RootDiskImageOptions) ms.RootDiskConfig             = ms.RootDisk.Disk
	_ func(ms.RootDiskFlatOptions) ms.RootDiskConfig                      = ms.RootDisk.Flat
	_ func() ms.InitConfig                                                = ms.Init.Auto
	_ func(string, ms.InitOptions) ms.InitConfig                          = ms.Init.Cmd
	_ func() ms.PolicyRule                                                = ms.Rule.AllowDNS
	_ func() ms.PolicyRule                                                = ms.Rule.DenyDNS
	_ func() *ms.NetworkConfig                                            = ms.NetworkPolicy.None
	_ func() *ms.NetworkConfig                                            = ms.NetworkPolicy.AllowAll
	_ func(...ms.NetworkProfile) *ms.NetworkConfig                        = ms.NetworkPolicy.FromProfiles
	_ func(...ms.NetworkProfile) (*ms.NetworkConfig, error)               = ms.NetworkPolicy.FromProfilesChecked
	_ func(string, string, ms.SecretEnvOptions) ms.SecretEntry            = ms.Secret.Env
	_ func(string, string, ms.PatchOptions) ms.PatchConfig                = ms.Patch.Text
	_ func(string, string) ms.PatchConfig                                 = ms.Patch.Append
	_ func(string, ms.PatchOptions) ms.PatchConfig                        = ms.Patch.Mkdir
	_ func(string) ms.PatchConfig                                         = ms.Patch.Remove
	_ func(string, string, ms.PatchOptions) ms.PatchConfig                = ms.Patch.Symlink
	_ func(string, string, ms.PatchOptions) ms.PatchConfig                = ms.Patch.CopyFile
	_ func(string, string, ms.PatchOptions) ms.PatchConfig                = ms.Patch.CopyDir
	_ func(string, ms.MountOptions) ms.MountConfig                        = ms.Mount.Bind
	_ func(string, ms.MountOptions) ms.MountConfig                        = ms.Mount.Named
	_ func(string, ms.MountOptions, ms.NamedVolumeOptions) ms.MountConfig = ms.Mount.NamedWith
	_ func(ms.TmpfsOptions) ms.MountConfig                                = ms.Mount.Tmpfs
	_ func(string, ms.DiskOptions) ms.MountConfig                         = ms.Mount.Disk
)

// Methods, as interfaces that their types have.
type lifecycle interface {
	ID() string
	Name() string
	BackendKind() ms.BackendKind
	Stop(c0, ...ms.StopOption) error
	RequestStop(c0) error
	Kill(c0, ...ms.KillOption) error
	RequestKill(c0) error
	RequestDrain(c0) error
	WaitUntilStopped(c0) (*ms.SandboxStopResult, error)
	WaitForStatus(c0, ms.SandboxStatus) (*ms.SandboxHandle, error)
	Restart(c0, ...ms.RestartOption) (*ms.Sandbox, error)
	Destroy(c0, ...ms.DestroyOption) error
	Metrics(c0) (*ms.Metrics, error)
	Ping(c0) (*ms.SandboxPingResult, error)
	Touch(c0) (*ms.SandboxTouchResult, error)
	Logs(c0, ms.LogOptions) ([]ms.LogEntry, error)
	LogStream(c0, ms.LogStreamOptions) (*ms.LogStreamHandle, error)
	Modify(c0, ms.ModifyOptions) (*ms.SandboxModificationPlan, error)
}

var (
	_ interface {
		lifecycle
		Close() error
		Detach(c0) error
		OwnsLifecycle() (bool, error)
		OwnsLifecycleOrFalse() bool
		Attach(c0, string, ...string) (int, error)
		AttachDefault(c0, ...ms.AttachOption) (int, error)
		AttachWith(c0, string, []string, ...ms.AttachOption) (int, error)
		AttachShell(c0, ...ms.AttachOption) (int, error)
		FS() *ms.SandboxFSOps
		SSH() *ms.SandboxSSHOps
		MetricsStream(c0, time.Duration) (*ms.MetricsStreamHandle, error)
		ExecDefault(c0, ...ms.ExecOption) (*ms.ExecOutput, error)
		Exec(c0, string, []string, ...ms.ExecOption) (*ms.ExecOutput, error)
		Shell(c0, string, ...ms.ExecOption) (*ms.ExecOutput, error)
		ExecStream(c0, string, []string, ...ms.ExecOption) (*ms.ExecHandle, error)
		ExecDefaultStream(c0, ...ms.ExecOption) (*ms.ExecHandle, error)
		ShellStream(c0, string, ...ms.ExecOption) (*ms.ExecHandle, error)
		CommandContext(c0, string, ...string) *ms.Cmd
		DialContext(c0, string, string) (net.Conn, error)
	} = (*ms.Sandbox)(nil)
	_ interface {
		lifecycle
		Status() ms.SandboxStatus
		ConfigJSON() string
		Config() (*ms.SandboxConfig, error)
		Refresh(c0) (*ms.SandboxHandle, error)
		CreatedAt() time.Time
		UpdatedAt() time.Time
		Connect(c0) (*ms.Sandbox, error)
		ConnectOrStart(c0, ...ms.ConnectOrStartOption) (*ms.Sandbox, error)
		Start(c0) (*ms.Sandbox, error)
		StartDetached(c0) (*ms.Sandbox, error)
		Remove(c0) error
		Snapshot(c0, string) (*ms.SnapshotArtifact, error)
	} = (*ms.SandboxHandle)(nil)
	_ interface {
		Request(c0, uint8, []byte) (*ms.RawFrame, error)
		Stream(c0, uint8, []byte) (*ms.AgentStream, error)
		Send(c0, uint32, uint8, []byte) error
		ReadyBytes() ([]byte, error)
		Close() error
		CloseCtx(c0) error
	} = (*ms.AgentClient)(nil)
	_ interface {
		Next(c0) (*ms.RawFrame, error)
		ID() uint32
		Close(c0) error
	} = (*ms.AgentStream)(nil)
	_ interface {
		Error() string
		Unwrap() error
	} = (*ms.Error)(nil)
	_ interface{ String() string } = ms.ErrorKind(0)
	_ interface {
		Stdout() string
		StdoutBytes() []byte
		Stderr() string
		StderrBytes() []byte
		ExitCode() int
		Success() bool
	} = (*ms.ExecOutput)(nil)
	_ interface {
		ID() (string, error)
		TakeStdin() *ms.ExecSink
		Recv(c0) (*ms.ExecEvent, error)
		Collect(c0) (*ms.ExecOutput, error)
		Wait(c0) (int, error)
		Kill(c0) error
		Signal(c0, int) error
		Resize(c0, uint16, uint16) error
		Close() error
	} = (*ms.ExecHandle)(nil)
	_ io.WriteCloser = (*ms.ExecSink)(nil)
	_ interface {
		Read(c0, string) ([]byte, error)
		ReadString(c0, string) (string, error)
		Write(c0, string, []byte) error
		WriteString(c0, string, string) error
		List(c0, string) ([]ms.FsEntry, error)
		Stat(c0, string) (*ms.FsStat, error)
		CopyFromHost(c0, string, string) error
		CopyToHost(c0, string, string) error
		Mkdir(c0, string) error
		Remove(c0, string) error
		RemoveDir(c0, string) error
		Copy(c0, string, string) error
		Rename(c0, string, string) error
		Exists(c0, string) (bool, error)
		ReadStream(c0, string) (*ms.FsReadStream, error)
		WriteStream(c0, string) (*ms.FsWriteStream, error)
	} = (*ms.SandboxFSOps)(nil)
	_ interface {
		io.WriterTo
		Recv(c0) ([]byte, error)
		CopyTo(c0, io.Writer) (int64, error)
		Close() error
	} = (*ms.FsReadStream)(nil)
	_ interface {
		io.Writer
		WriteCtx(c0, []byte) error
		Close(c0) error
	} = (*ms.FsWriteStream)(nil)
	_ interface {
		Reference() string
		ManifestDigest() string
		Architecture() string
		OS() string
		LayerCount() uint
		SizeBytes() *int64
		CreatedAt() time.Time
		LastUsedAt() time.Time
		Remove(c0, bool) error
		Inspect(c0) (*ms.ImageDetail, error)
	} = (*ms.ImageHandle)(nil)
	_ interface{ Text() string } = ms.LogEntry{}
	_ interface {
		Recv(c0) (*ms.LogEntry, error)
		Close() error
	} = (*ms.LogStreamHandle)(nil)
	_ interface {
		Recv(c0) (*ms.Metrics, error)
		Close() error
	} = (*ms.MetricsStreamHandle)(nil)
	_ json.Unmarshaler                    = (*ms.SandboxConfig)(nil)
	_ interface{ Kind() ms.RootDiskKind } = ms.RootDiskConfig{}
	_ interface{ Kind() ms.MountKind }    = ms.MountConfig{}
	_ interface{ Success() bool }         = ms.SSHOutput{}
	_ interface {
		Path() string
		Digest() string
		SizeBytes() uint64
		ImageRef() string
		ImageManifestDigest() string
		Scope() string
		State() ms.SnapshotState
		Format() string
		Fstype() string
		Parent() *string
		CreatedAt() string
		Labels() map[string]string
		SourceSandbox() *string
		Verify(c0) (*ms.SnapshotVerifyReport, error)
	} = (*ms.SnapshotArtifact)(nil)
	_ interface {
		Digest() string
		Name() *string
		ParentDigest() *string
		Scope() string
		ImageRef() string
		StateKind() string
		Format() *string
		Fstype() *string
		CheckpointManifestDigest() *string
		SizeBytes() *uint64
		Locality() string
		Availability() string
		MigrationState() string
		MigrationErrorCode() *string
		Path() string
		CreatedAt() time.Time
		Open(c0) (*ms.SnapshotArtifact, error)
		Remove(c0, bool) error
	} = (*ms.SnapshotHandle)(nil)
	_ interface {
		OpenClient(c0, ...ms.SSHClientOption) (*ms.SSHClient, error)
		PrepareServer(c0, ...ms.SSHServerOption) (*ms.SSHServer, error)
	} = (*ms.SandboxSSHOps)(nil)
	_ interface {
		Exec(c0, string, ...ms.SSHExecOption) (*ms.SSHOutput, error)
		Attach(c0, ...ms.SSHAttachOption) (int, error)
		SFTP(c0) (*ms.SFTPClient, error)
		Close(c0) error
	} = (*ms.SSHClient)(nil)
	_ interface {
		Read(c0, string) ([]byte, error)
		Write(c0, string, []byte) error
		Mkdir(c0, string) error
		RemoveFile(c0, string) error
		RemoveDir(c0, string) error
		Rename(c0, string, string) error
		RealPath(c0, string) (string, error)
		ReadLink(c0, string) (string, error)
		Symlink(c0, string, string) error
		Close(c0) error
	} = (*ms.SFTPClient)(nil)
	_ interface {
		Close(c0) error
		ServeConnection(c0) error
	} = (*ms.SSHServer)(nil)
	_ interface {
		Name() string
		Path() string
		FS() *ms.VolumeFs
		Remove(c0) error
	} = (*ms.Volume)(nil)
	_ interface {
		Name() string
		IsDefault() bool
		Path() string
		Kind() ms.VolumeKind
		QuotaMiB() *uint32
		UsedBytes() uint64
		CapacityBytes() *uint64
		DiskFormat() *string
		DiskFstype() *string
		Labels() map[string]string
		CreatedAt() time.Time
		FS() *ms.VolumeFs
		Remove(c0) error
	} = (*ms.VolumeHandle)(nil)
	_ interface {
		Root() string
		Read(c0, string) ([]byte, error)
		ReadString(c0, string) (string, error)
		Write(c0, string, []byte) error
		WriteString(c0, string, string) error
		Mkdir(c0, string) error
		Remove(c0, string) error
		RemoveAll(c0, string) error
		Exists(c0, string) (bool, error)
	} = (*ms.VolumeFs)(nil)
)

// Fields. A conversion to a type without names holds if the names, their types and their order are right; types that have
// fields of their own besides are set field by field.
type u8 = uint8

var (
	_ = struct {
		ID    uint32
		Flags u8
		Body  []byte
	}(ms.RawFrame{})
	_ = struct {
		Kind    ms.ErrorKind
		Message string
		Cause   error
	}(ms.Error{})
	_ = struct {
		Kind     ms.ExecEventKind
		PID      uint32
		Data     []byte
		ExitCode int
		Failure  *ms.ExecFailure
	}(ms.ExecEvent{})
	_ = struct {
		Path string
		Kind ms.FsEntryKind
		Size int64
		Mode uint32
	}(ms.FsEntry{})
	_ = struct {
		Path    string
		Size    int64
		Mode    uint32
		ModTime time.Time
		IsDir   bool
	}(ms.FsStat{})
	_ = struct {
		Digest               string
		Env, Cmd, Entrypoint []string
		WorkingDir, User     string
		Labels               map[string]string
		StopSignal           string
	}(ms.ImageConfig{})
	_ = struct {
		DiffID, BlobDigest, MediaType       string
		CompressedSizeBytes, ErofsSizeBytes *int64
		Position                            int32
	}(ms.ImageLayer{})
	_ = struct {
		ImageRefsRemoved, ManifestsRemoved, LayersRemoved, FsmetaRemoved, VMDKRemoved uint32
		BytesReclaimed                                                                *uint64
	}(ms.ImagePruneReport{})
	_ = ms.ImageDetail{ImageHandle: (*ms.ImageHandle)(nil), Config: (*ms.ImageConfig)(nil), Layers: []ms.ImageLayer(nil)}
	_ = struct {
		Tail         uint64
		Since, Until time.Time
		Sources      []ms.LogSource
	}(ms.LogOptions{})
	_ = struct {
		Source    ms.LogSource
		SessionID *uint64
		Timestamp time.Time
		Data      []byte
		Cursor    string
	}(ms.LogEntry{})
	_ = struct {
		Sources    []ms.LogSource
		Since      time.Time
		FromCursor string
		Until      time.Time
		Follow     bool
	}(ms.LogStreamOptions{})
	_ = struct {
		CPUs, MaxCPUs                            u8
		MemoryMiB, MaxMemoryMiB, RootDiskSizeMiB uint32
		Env                                      map[string]string
		EnvRemove                                []string
		Labels                                   map[string]string
		LabelsRemove                             []string
		Workdir                                  string
		Secrets                                  map[string]ms.SecretModifySpec
		SecretsRemove                            []string
		Policy                                   ms.ModificationPolicy
		DryRun                                   bool
	}(ms.ModifyOptions{})
	_ = struct {
		Env, Value, Store, Placeholder string
		AllowedHosts                   []string
	}(ms.SecretModifySpec{})
	_ = ms.SandboxModificationPlan{Sandbox: "", Status: "", Applied: false, Policy: ms.ModificationPolicy(""), Changes: []ms.PlannedChange(nil), Conflicts: []ms.ModificationConflict(nil),
		Warnings: []ms.ModificationWarning(nil), ResizeStatus: []ms.ResourceResizeStatus(nil)}
	_ = ms.PlannedChange{Kind: "", Field: "", Name: "", Change: "", Before: (*string)(nil), After: (*string)(nil), BeforeRef: (*string)(nil), AfterRef: (*string)(nil), Disposition: "",
		AllowHosts: []string(nil), Reason: (*string)(nil)}
	_ = ms.ModificationConflict{Field: "", Message: ""}
	_ = ms.ModificationWarning{Field: "", Message: ""}
	_ = ms.ResourceResizeStatus{Resource: "", Requested: "", Actual: "", Enforced: "", State: ""}
	_ = ms.BackendInfo{Kind: ms.BackendLocal, APIURL: "", Source: "", Profile: ""}
	_ = ms.SandboxConfig{Name: "", Image: "", ImageFstype: "", ImageBind: "", RootDisk: (*ms.RootDiskConfig)(nil), OCIUpperSizeMiB: uint32(0), Snapshot: "", MemoryMiB: uint32(0), CPUs: u8(0),
		MaxMemoryMiB: uint32(0), MaxCPUs: u8(0), CPUPlacement: ms.CPUPlacementAuto, PlacementProfile: "", THP: ms.THPNever, Workdir: "", Shell: "", SecurityProfile: ms.SecurityProfileDefault,
		DeploymentProfile: ms.DeploymentProfileMultiTenant, Hostname: "", User: "", Replace: false, ReplaceWithTimeout: (*time.Duration)(nil), Env: strMap(nil), Labels: strMap(nil), Detached: false,
		Ephemeral: false, Entrypoint: strs(nil), Cmd: strs(nil), Init: (*ms.InitConfig)(nil), LogLevel: ms.LogLevelTrace, QuietLogs: false, Scripts: strMap(nil), PullPolicy: ms.PullPolicyAlways,
		MaxDuration: time.Duration(0), IdleTimeout: time.Duration(0), RegistryAuth: (*ms.RegistryAuth)(nil), RegistryInsecure: false, RegistryCACerts: [][]byte(nil), RegistryCACertPaths: strs(nil),
		Ports: portMap(nil), PortsUDP: portMap(nil), PortBindings: []ms.PortBinding(nil), Vsock: []ms.VsockRoute(nil), Network: (*ms.NetworkConfig)(nil), Secrets: []ms.SecretEntry(nil),
		Patches: []ms.PatchConfig(nil), Volumes: map[string]ms.MountConfig(nil)}
	_ = ms.RootDiskConfig{SizeMiB: uint32(0), Path: "", Format: "", Fstype: "", Clone: ms.FlatCloneAuto}
	_ = struct{ SizeMiB uint32 }(ms.RootDiskTmpfsOptions{})
	_ = struct{ Format, Fstype string }(ms.RootDiskImageOptions{})
	_ = struct {
		SizeMiB uint32
		Fstype  string
		Clone   ms.FlatClone
	}(ms.RootDiskFlatOptions{})
	_ = struct {
		Bind                string
		HostPort, GuestPort uint16
		Protocol            ms.PortProtocol
	}(ms.PortBinding{})
	_ = struct {
		HostSocket string
		Port       uint32
		SocketType ms.VsockSocketType
	}(ms.VsockRoute{})
	_ = struct {
		Cmd  string
		Args []string
		Env  map[string]string
	}(ms.InitConfig{})
	_ = struct {
		Args []string
		Env  map[string]string
	}(ms.InitOptions{})
	_ = struct{ Username, Password string }(ms.RegistryAuth{})
	_ = ms.NetworkConfig{Rules: []ms.PolicyRule(nil), DefaultEgress: ms.PolicyActionDeny, DefaultIngress: ms.PolicyActionAllow, DenyDomains: strs(nil), DenyDomainSuffixes: strs(nil),
		DNS: (*ms.DNSConfig)(nil), DNSRebindProtection: (*bool)(nil), TLS: (*ms.TLSConfig)(nil), Ports: portMap(nil), PortBindings: []ms.PortBinding(nil), IPv4Pool: "", IPv6Pool: "",
		MaxConnections: (*uint)(nil), RateLimiter: (*ms.NetworkRateLimiterConfig)(nil), OnSecretViolation: ms.ViolationActionBlock, TrustHostCAs: (*bool)(nil)}
	_ = struct {
		RebindProtection *bool
		Nameservers      []string
		QueryTimeoutMs   *uint64
	}(ms.DNSConfig{})
	_ = struct{ Bandwidth, Ops *ms.TokenBucketConfig }(ms.RateLimiterConfig{})
	_ = struct{ Egress, Ingress *ms.RateLimiterConfig }(ms.NetworkRateLimiterConfig{})
	_ = struct {
		Size         uint64
		RefillTime   time.Duration
		OneTimeBurst uint64
	}(ms.TokenBucketConfig{})
	_ = struct {
		Action      ms.PolicyAction
		Direction   ms.PolicyDirection
		Destination string
		Protocol    ms.PolicyProtocol
		Protocols   []ms.PolicyProtocol
		Port        string
		Ports       []string
	}(ms.PolicyRule{})
	_ = struct{ Pattern, Path string }(ms.ScopedUpstreamCACert{})
	_ = struct {
		Pattern string
		Verify  bool
	}(ms.ScopedVerifyUpstream{})
	_ = struct {
		Bypass                []string
		VerifyUpstream        *bool
		InterceptedPorts      []uint16
		BlockQUIC             *bool
		CACert, CAKey         string
		UpstreamCACerts       []string
		ScopedUpstreamCACerts []ms.ScopedUpstreamCACert
		ScopedVerifyUpstream  []ms.ScopedVerifyUpstream
	}(ms.TLSConfig{})
	_ = struct {
		EnvVar, Value                 string
		AllowHosts, AllowHostPatterns []string
		Placeholder                   string
		RequireTLS                    *bool
		OnViolation                   ms.ViolationAction
	}(ms.SecretEntry{})
	_ = struct {
		AllowHosts, AllowHostPatterns []string
		Placeholder                   string
		RequireTLS                    *bool
		OnViolation                   ms.ViolationAction
	}(ms.SecretEnvOptions{})
	_ = struct {
		Kind          ms.PatchKind
		Path, Content string
		Mode          *uint32
		Replace       bool
		Src, Dst      string
		Target, Link  string
	}(ms.PatchConfig{})
	_ = struct {
		Mode    *uint32
		Replace bool
	}(ms.PatchOptions{})
	_ = struct {
		Cwd            string
		Timeout        time.Duration
		StdinPipe, TTY bool
		User           string
		Env            map[string]string
	}(ms.ExecConfig{})
	_ = struct {
		Cwd, User  string
		Env        map[string]string
		DetachKeys string
	}(ms.AttachConfig{})
	_ = ms.MountConfig{Bind: "", Named: "", NamedMode: "", NamedKind: "", QuotaMiB: uint32(0), Tmpfs: false, Disk: "", Format: "", Fstype: "", Readonly: false, Noexec: false, Nosuid: false,
		Nodev: false, SizeMiB: uint32(0), StatVirtualization: ms.StatVirtualizationOff, HostPermissions: ms.HostPermissionsMirror}
	_ = struct {
		Readonly, Noexec, Nosuid, Nodev bool
		StatVirtualization              ms.StatVirtualization
		HostPermissions                 ms.HostPermissions
		QuotaMiB                        uint32
	}(ms.MountOptions{})
	_ = struct {
		Mode, Kind        string
		SizeMiB, QuotaMiB uint32
	}(ms.NamedVolumeOptions{})
	_ = struct {
		SizeMiB                         uint32
		Readonly, Noexec, Nosuid, Nodev bool
	}(ms.TmpfsOptions{})
	_ = struct {
		Format, Fstype                  string
		Readonly, Noexec, Nosuid, Nodev bool
	}(ms.DiskOptions{})
	_ = struct {
		QuotaMiB uint32
		Kind     ms.VolumeKind
		SizeMiB  uint32
		Labels   map[string]string
	}(ms.VolumeConfig{})
	_ = struct {
		Sandboxes  []*ms.SandboxHandle
		NextCursor *string
	}(ms.SandboxPage{})
	_ = struct {
		Name             string
		Status           ms.SandboxStatus
		ExitCode, Signal *int
		ObservedAt       time.Time
		Source           *string
	}(ms.SandboxStopResult{})
	_ = struct {
		Name    string
		Latency time.Duration
	}(ms.SandboxPingResult{})
	_ = struct {
		Name        string
		ActivitySeq uint64
	}(ms.SandboxTouchResult{})
	_ = struct {
		CPUPercent                                              float64
		VCPUTimeNs, MemoryBytes                                 uint64
		MemoryAvailableBytes, MemoryHostResidentBytes           *uint64
		MemoryLimitBytes                                        uint64
		DiskReadBytes, DiskWriteBytes, NetRxBytes, NetTxBytes   uint64
		UpperUsedBytes, UpperFreeBytes, UpperHostAllocatedBytes *uint64
		Uptime                                                  time.Duration
	}(ms.Metrics{})
	_ = struct {
		Name, FromSandbox, DestDir        string
		Labels                            map[string]string
		Force, RecordIntegrity, Resumable bool
	}(ms.SnapshotCreateOptions{})
	_ = struct{ WithParents, WithImage, PlainTar bool }(ms.SnapshotSaveOptions{})
	_ = struct {
		Digest, Path string
		Upper        ms.SnapshotUpperVerifyStatus
	}(ms.SnapshotVerifyReport{})
	_ = struct{ Kind, Algorithm, Digest string }(ms.SnapshotUpperVerifyStatus{})
	_ = struct {
		Kind       string
		File       *ms.SnapshotFileState
		Checkpoint *ms.SnapshotCheckpointState
	}(ms.SnapshotState{})
	_ = struct {
		Format, Fstype, UpperFile string
		SizeBytes                 uint64
		HasIntegrity              bool
		Integrity                 ms.SnapshotIntegrity
	}(ms.SnapshotFileState{})
	_ = struct{ CheckpointID, ManifestDigest string }(ms.SnapshotCheckpointState{})
	_ = struct {
		Algorithm, Digest, Root string
		LogicalSize             uint64
		LeafSize                uint32
	}(ms.SnapshotIntegrity{})
	_ = struct {
		Status         int
		Stdout, Stderr []byte
	}(ms.SSHOutput{})
)

// Constants, by their values.
func TestConstants(t *testing.T) {
	for want, have := range map[string][]any{
		"running": {ms.SandboxStatusRunning}, "stopped": {ms.SandboxStatusStopped}, "crashed": {ms.SandboxStatusCrashed}, "draining": {ms.SandboxStatusDraining}, "paused": {ms.SandboxStatusPaused},
		"file": {ms.FsEntryKindFile}, "directory": {ms.FsEntryKindDirectory}, "symlink": {ms.FsEntryKindSymlink, ms.PatchKindSymlink}, "other": {ms.FsEntryKindOther},
		"allow": {ms.PolicyActionAllow}, "deny": {ms.PolicyActionDeny}, "egress": {ms.PolicyDirectionEgress}, "ingress": {ms.PolicyDirectionIngress}, "any": {ms.PolicyDirectionAny},
		"tcp": {ms.PolicyProtocolTCP, ms.PortProtocolTCP}, "udp": {ms.PolicyProtocolUDP, ms.PortProtocolUDP}, "icmpv4": {ms.PolicyProtocolICMPv4}, "icmpv6": {ms.PolicyProtocolICMPv6},
		"public": {ms.NetworkProfilePublic}, "private": {ms.NetworkProfilePrivate, ms.HostPermissionsPrivate}, "host": {ms.NetworkProfileHost},
		"text": {ms.PatchKindText}, "append": {ms.PatchKindAppend}, "mkdir": {ms.PatchKindMkdir}, "remove": {ms.PatchKindRemove}, "copy_file": {ms.PatchKindCopyFile}, "copy_dir": {ms.PatchKindCopyDir},
		"":       {ms.PullPolicyDefault, ms.LogLevelDefault, ms.StatVirtualizationDefault, ms.HostPermissionsDefault, ms.ViolationActionDefault},
		"always": {ms.PullPolicyAlways, ms.THPAlways}, "if-missing": {ms.PullPolicyIfMissing}, "never": {ms.PullPolicyNever, ms.THPNever}, "madvise": {ms.THPMadvise},
		"trace": {ms.LogLevelTrace}, "debug": {ms.LogLevelDebug}, "info": {ms.LogLevelInfo}, "warn": {ms.LogLevelWarn}, "error": {ms.LogLevelError},
		"strict": {ms.StatVirtualizationStrict}, "relaxed": {ms.StatVirtualizationRelaxed}, "off": {ms.StatVirtualizationOff}, "mirror": {ms.HostPermissionsMirror},
		"block": {ms.ViolationActionBlock}, "block-and-log": {ms.ViolationActionBlockAndLog}, "block-and-terminate": {ms.ViolationActionBlockAndTerminate},
		"inherit": {ms.CPUPlacementInherit}, "auto": {ms.CPUPlacementAuto, ms.FlatCloneAuto}, "spread": {ms.CPUPlacementSpread}, "compact": {ms.CPUPlacementCompact},
		"default": {ms.SecurityProfileDefault}, "restricted": {ms.SecurityProfileRestricted}, "single-tenant": {ms.DeploymentProfileSingleTenant}, "multi-tenant": {ms.DeploymentProfileMultiTenant},
		"copy": {ms.FlatCloneCopy}, "reflink": {ms.FlatCloneReflink}, "stream": {ms.VsockSocketTypeStream}, "dgram": {ms.VsockSocketTypeDgram}, "dir": {ms.VolumeKindDir},
		"disk": {ms.VolumeKindDisk, ms.SnapshotScopeDisk}, "resumable": {ms.SnapshotScopeResumable}, "docker": {ms.ImageArchiveDocker}, "oci": {ms.ImageArchiveOCI},
		"stdout": {ms.LogSourceStdout, ms.ExecEventStdout}, "stderr": {ms.LogSourceStderr, ms.ExecEventStderr}, "output": {ms.LogSourceOutput}, "system": {ms.LogSourceSystem},
		"no_restart": {ms.ModificationPolicyNoRestart}, "next_start": {ms.ModificationPolicyNextStart}, "restart": {ms.ModificationPolicyRestart},
		"local": {ms.BackendLocal}, "cloud": {ms.BackendCloud}, "unknown": {ms.BackendUnknown},
		"started": {ms.ExecEventStarted}, "exited": {ms.ExecEventExited}, "failed": {ms.ExecEventFailed}, "stdin_error": {ms.ExecEventStdinError}, "done": {ms.ExecEventDone},
	} {
		for _, h := range have {
			if got := reflect.ValueOf(h).String(); got != want {
				t.Errorf("%T is %q, want %q", h, got, want)
			}
		}
	}
	for i, have := range [][]int{
		{int(ms.RootDiskKindManaged), int(ms.RootDiskKindTmpfs), int(ms.RootDiskKindDiskImage), int(ms.RootDiskKindFlat)},
		{int(ms.MountKindBind), int(ms.MountKindNamed), int(ms.MountKindTmpfs), int(ms.MountKindDisk)},
		{int(ms.FLAG_TERMINAL), int(ms.FLAG_SESSION_START), 3, int(ms.FLAG_SHUTDOWN)},
		{int(ms.FlagTerminal), int(ms.FlagSessionStart), 3, int(ms.FlagShutdown)},
	} {
		if !reflect.DeepEqual(have, []int{1, 2, 3, 4}) {
			t.Errorf("numbers %d are %v", i, have)
		}
	}
}

// The kinds of errors, by their names (contract msb-0.6 §2.10).
func TestErrorKinds(t *testing.T) {
	for name, kind := range map[string]ms.ErrorKind{
		"SandboxNotFound": ms.ErrSandboxNotFound, "SandboxNotRunning": ms.ErrSandboxNotRunning, "SandboxAlreadyExists": ms.ErrSandboxAlreadyExists, "SandboxStillRunning": ms.ErrSandboxStillRunning,
		"VolumeNotFound": ms.ErrVolumeNotFound, "VolumeAlreadyExists": ms.ErrVolumeAlreadyExists, "ExecTimeout": ms.ErrExecTimeout, "ExecFailed": ms.ErrExecFailed, "Filesystem": ms.ErrFilesystem,
		"PathNotFound": ms.ErrPathNotFound, "ImageNotFound": ms.ErrImageNotFound, "ImageInUse": ms.ErrImageInUse, "ImagePullFailed": ms.ErrImagePullFailed, "SnapshotNotFound": ms.ErrSnapshotNotFound,
		"SnapshotAlreadyExists": ms.ErrSnapshotAlreadyExists, "SnapshotSandboxRunning": ms.ErrSnapshotSandboxRunning, "SnapshotImageMissing": ms.ErrSnapshotImageMissing,
		"SnapshotIntegrity": ms.ErrSnapshotIntegrity, "SnapshotMigration": ms.ErrSnapshotMigration, "PatchFailed": ms.ErrPatchFailed, "NetworkPolicy": ms.ErrNetworkPolicy,
		"SecretViolation": ms.ErrSecretViolation, "TLS": ms.ErrTLS, "IO": ms.ErrIO, "InvalidConfig": ms.ErrInvalidConfig, "InvalidArgument": ms.ErrInvalidArgument, "InvalidHandle": ms.ErrInvalidHandle,
		"BufferTooSmall": ms.ErrBufferTooSmall, "Cancelled": ms.ErrCancelled, "LibraryNotLoaded": ms.ErrLibraryNotLoaded, "MetricsDisabled": ms.ErrMetricsDisabled,
		"MetricsUnavailable": ms.ErrMetricsUnavailable, "UnsupportedOperation": ms.ErrUnsupportedOperation, "Internal": ms.ErrInternal, "NoDefaultCommand": ms.ErrNoDefaultCommand,
		"Unknown": ms.ErrUnknown, "SandboxReplaced": ms.ErrSandboxReplaced,
	} {
		if kind.String() != name {
			t.Errorf("kind %d is %q, want %q", kind, kind, name)
		}
	}
	if ms.ErrorKind(-1).String() != "Unknown" || ms.ErrorKind(1000).String() != "Unknown" {
		t.Error("a kind that is none is not Unknown")
	}
	cause := io.ErrUnexpectedEOF
	for want, e := range map[string]*ms.Error{"a": {Message: "a"}, "a: unexpected EOF": {Message: "a", Cause: cause}, "unexpected EOF": {Cause: cause}, "Filesystem": {Kind: ms.ErrFilesystem}} {
		if e.Error() != want {
			t.Errorf("error %q, want %q", e.Error(), want)
		}
	}
	if ms.IsKind(nil, ms.ErrUnknown) || ms.IsKind(cause, ms.ErrUnknown) || !ms.IsKind(&ms.Error{Kind: ms.ErrTLS}, ms.ErrTLS) {
		t.Error("IsKind")
	}
}
