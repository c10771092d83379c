package microsandbox

// SandboxStatus says where a sandbox is in its life.
type SandboxStatus string

// The states of a sandbox. Created and starting are its states before it first runs.
const (
	SandboxStatusCreated  SandboxStatus = "created"
	SandboxStatusStarting SandboxStatus = "starting"
	SandboxStatusRunning  SandboxStatus = "running"
	SandboxStatusStopped  SandboxStatus = "stopped"
	SandboxStatusCrashed  SandboxStatus = "crashed"
	SandboxStatusDraining SandboxStatus = "draining"
	SandboxStatusPaused   SandboxStatus = "paused"
)

// FsEntryKind says what a name in a directory is.
type FsEntryKind string

// The kinds of directory entries.
const (
	FsEntryKindFile      FsEntryKind = "file"
	FsEntryKindDirectory FsEntryKind = "directory"
	FsEntryKindSymlink   FsEntryKind = "symlink"
	FsEntryKindOther     FsEntryKind = "other"
)

// PolicyAction says what a network rule does.
type PolicyAction string

// The actions of network rules.
const (
	PolicyActionAllow PolicyAction = "allow"
	PolicyActionDeny  PolicyAction = "deny"
)

// PolicyDirection says which traffic a network rule is about. Any is both.
type PolicyDirection string

// The directions of network rules.
const (
	PolicyDirectionEgress  PolicyDirection = "egress"
	PolicyDirectionIngress PolicyDirection = "ingress"
	PolicyDirectionAny     PolicyDirection = "any"
)

// PolicyProtocol is a protocol that a network rule is about.
type PolicyProtocol string

// The protocols of network rules.
const (
	PolicyProtocolTCP    PolicyProtocol = "tcp"
	PolicyProtocolUDP    PolicyProtocol = "udp"
	PolicyProtocolICMPv4 PolicyProtocol = "icmpv4"
	PolicyProtocolICMPv6 PolicyProtocol = "icmpv6"
)

// NetworkProfile is a group of addresses that a sandbox may reach.
type NetworkProfile string

// The profiles of NetworkPolicy.FromProfiles.
const (
	NetworkProfilePublic  NetworkProfile = "public"
	NetworkProfilePrivate NetworkProfile = "private"
	NetworkProfileHost    NetworkProfile = "host"
)

// PatchKind says what a [PatchConfig] does.
type PatchKind string

// The kinds of patches.
const (
	PatchKindText     PatchKind = "text"
	PatchKindAppend   PatchKind = "append"
	PatchKindMkdir    PatchKind = "mkdir"
	PatchKindRemove   PatchKind = "remove"
	PatchKindSymlink  PatchKind = "symlink"
	PatchKindCopyFile PatchKind = "copy_file"
	PatchKindCopyDir  PatchKind = "copy_dir"
)

// PullPolicy says when an image is got from its registry.
type PullPolicy string

// The pull policies. The default is if-missing.
const (
	PullPolicyDefault   PullPolicy = ""
	PullPolicyAlways    PullPolicy = "always"
	PullPolicyIfMissing PullPolicy = "if-missing"
	PullPolicyNever     PullPolicy = "never"
)

// LogLevel says how much a sandbox's runner logs.
type LogLevel string

// The log levels.
const (
	LogLevelDefault LogLevel = ""
	LogLevelTrace   LogLevel = "trace"
	LogLevelDebug   LogLevel = "debug"
	LogLevelInfo    LogLevel = "info"
	LogLevelWarn    LogLevel = "warn"
	LogLevelError   LogLevel = "error"
)

// StatVirtualization says how owners and modes of mounted files are kept: strict and relaxed beside the host's own, off is
// the host's own. The default is strict.
type StatVirtualization string

// The ways to keep owners and modes.
const (
	StatVirtualizationDefault StatVirtualization = ""
	StatVirtualizationStrict  StatVirtualization = "strict"
	StatVirtualizationRelaxed StatVirtualization = "relaxed"
	StatVirtualizationOff     StatVirtualization = "off"
)

// HostPermissions says which modes files that the guest makes get on the host. The default is private.
type HostPermissions string

// The permissions on the host.
const (
	HostPermissionsDefault HostPermissions = ""
	HostPermissionsPrivate HostPermissions = "private"
	HostPermissionsMirror  HostPermissions = "mirror"
)

// ViolationAction says what happens when a secret's placeholder is sent to a host that may not see the secret. The default is
// block-and-log.
type ViolationAction string

// The violation actions.
const (
	ViolationActionDefault           ViolationAction = ""
	ViolationActionBlock             ViolationAction = "block"
	ViolationActionBlockAndLog       ViolationAction = "block-and-log"
	ViolationActionBlockAndTerminate ViolationAction = "block-and-terminate"
)

// CPUPlacement says which of this machine's CPUs a sandbox gets. The default is inherit.
type CPUPlacement string

// The CPU placements.
const (
	CPUPlacementInherit CPUPlacement = "inherit"
	CPUPlacementAuto    CPUPlacement = "auto"
	CPUPlacementSpread  CPUPlacement = "spread"
	CPUPlacementCompact CPUPlacement = "compact"
)

// SecurityProfile says what processes of the guest may become.
type SecurityProfile string

// The security profiles. Restricted takes new privileges away.
const (
	SecurityProfileDefault    SecurityProfile = "default"
	SecurityProfileRestricted SecurityProfile = "restricted"
)

// DeploymentProfile says whether a machine's sandboxes belong to several tenants.
type DeploymentProfile string

// The deployment profiles. Multi-tenant takes away what lets a sandbox reach this machine.
const (
	DeploymentProfileSingleTenant DeploymentProfile = "single-tenant"
	DeploymentProfileMultiTenant  DeploymentProfile = "multi-tenant"
)

// THPPolicy says how a guest's kernel uses huge pages.
type THPPolicy string

// The policies of huge pages. Only madvise, the default, is supported: the kernel here has none of its own.
const (
	THPAlways  THPPolicy = "always"
	THPMadvise THPPolicy = "madvise"
	THPNever   THPPolicy = "never"
)

// RootDiskKind says what a sandbox's writable layer is.
type RootDiskKind uint8

// The kinds of root disks: kept on this machine, in the sandbox's memory, an image file, one flat image.
const (
	RootDiskKindManaged RootDiskKind = iota + 1
	RootDiskKindTmpfs
	RootDiskKindDiskImage
	RootDiskKindFlat
)

// FlatClone says how a flat root disk is made of its image.
type FlatClone string

// The ways to make a flat root disk.
const (
	FlatCloneAuto    FlatClone = "auto"
	FlatCloneCopy    FlatClone = "copy"
	FlatCloneReflink FlatClone = "reflink"
)

// PortProtocol is the protocol of a published port. The default is TCP.
type PortProtocol string

// The protocols of published ports.
const (
	PortProtocolTCP PortProtocol = "tcp"
	PortProtocolUDP PortProtocol = "udp"
)

// VsockSocketType is the type of a vsock route.
type VsockSocketType string

// The types of vsock routes.
const (
	VsockSocketTypeStream VsockSocketType = "stream"
	VsockSocketTypeDgram  VsockSocketType = "dgram"
)

// MountKind says what a [MountConfig] mounts.
type MountKind uint8

// The kinds of mounts: a directory or file of this machine, a volume, a file system in memory, a disk image.
const (
	MountKindBind MountKind = iota + 1
	MountKindNamed
	MountKindTmpfs
	MountKindDisk
)

// VolumeKind says what a volume is kept in.
type VolumeKind string

// The kinds of volumes.
const (
	VolumeKindDir  VolumeKind = "dir"
	VolumeKindDisk VolumeKind = "disk"
)
