package microsandbox

// RootDiskConfig is the writable layer upon an image. Make it with [RootDisk].
type RootDiskConfig struct {
	kind RootDiskKind

	SizeMiB uint32 // 0 is the default: 4096 of a managed one, half the sandbox's memory of a tmpfs
	Path    string
	Format  string
	Fstype  string
	Clone   FlatClone
}

// Kind says what the disk is. One that no factory made is a managed one.
func (d RootDiskConfig) Kind() RootDiskKind {
	if d.kind == 0 {
		return RootDiskKindManaged
	}
	return d.kind
}

// RootDiskTmpfsOptions are those of RootDisk.Tmpfs.
type RootDiskTmpfsOptions struct {
	SizeMiB uint32
}

// RootDiskImageOptions are those of RootDisk.Disk.
type RootDiskImageOptions struct {
	Format string
	Fstype string
}

// RootDiskFlatOptions are those of RootDisk.Flat.
type RootDiskFlatOptions struct {
	SizeMiB uint32
	Fstype  string
	Clone   FlatClone
}

type rootDiskFactory struct{}

// RootDisk makes [RootDiskConfig]s.
var RootDisk rootDiskFactory

// Managed is kept on this machine, with at most so many MiB.
func (rootDiskFactory) Managed(mebibytes uint32) RootDiskConfig {
	return RootDiskConfig{kind: RootDiskKindManaged, SizeMiB: mebibytes}
}

// Tmpfs is in the sandbox's memory, and gone when it ends.
func (rootDiskFactory) Tmpfs(opts RootDiskTmpfsOptions) RootDiskConfig {
	return RootDiskConfig{kind: RootDiskKindTmpfs, SizeMiB: opts.SizeMiB}
}

// Disk is an image file of this machine. It is not supported here.
func (rootDiskFactory) Disk(path string, opts RootDiskImageOptions) RootDiskConfig {
	return RootDiskConfig{kind: RootDiskKindDiskImage, Path: path, Format: opts.Format, Fstype: opts.Fstype}
}

// Flat is one image with all that the sandbox's image has. It is not supported here.
func (rootDiskFactory) Flat(opts RootDiskFlatOptions) RootDiskConfig {
	return RootDiskConfig{kind: RootDiskKindFlat, SizeMiB: opts.SizeMiB, Fstype: opts.Fstype, Clone: opts.Clone}
}

// MountConfig is one file system below the root. Make it with [Mount].
type MountConfig struct {
	kind MountKind

	Bind      string
	Named     string
	NamedMode string // existing (default), create or ensure-exists
	NamedKind string // dir (default) or disk
	QuotaMiB  uint32 // how much the guest may have there; 0 is no limit
	Tmpfs     bool
	Disk      string
	Format    string
	Fstype    string
	Readonly  bool
	Noexec    bool
	Nosuid    bool
	Nodev     bool
	SizeMiB   uint32 // of a tmpfs or a new disk volume

	StatVirtualization StatVirtualization
	HostPermissions    HostPermissions

	owner *mountOwner
}

type mountOwner struct{ uid, gid uint32 }

// Kind says what is mounted; of a literal, what its fields say.
func (m MountConfig) Kind() MountKind {
	switch {
	case m.kind != 0:
		return m.kind
	case m.Bind != "":
		return MountKindBind
	case m.Named != "":
		return MountKindNamed
	case m.Tmpfs:
		return MountKindTmpfs
	case m.Disk != "":
		return MountKindDisk
	}
	return 0
}

// Owner returns m with another user and group of the guest as the owner of what this machine put there; the default is root.
func (m MountConfig) Owner(uid, gid uint32) MountConfig {
	m.owner = &mountOwner{uid, gid}
	return m
}

// MountOptions are those of Mount.Bind and Mount.Named.
type MountOptions struct {
	Readonly           bool
	Noexec             bool
	Nosuid             bool
	Nodev              bool
	StatVirtualization StatVirtualization
	HostPermissions    HostPermissions
	QuotaMiB           uint32
}

// NamedVolumeOptions say what becomes of a volume that is not there.
type NamedVolumeOptions struct {
	Mode     string // existing (default), create or ensure-exists
	Kind     string // dir (default) or disk
	SizeMiB  uint32 // of a disk
	QuotaMiB uint32 // of a directory
}

// TmpfsOptions are those of Mount.Tmpfs.
type TmpfsOptions struct {
	SizeMiB  uint32
	Readonly bool
	Noexec   bool
	Nosuid   bool
	Nodev    bool
}

// DiskOptions are those of Mount.Disk.
type DiskOptions struct {
	Format   string
	Fstype   string
	Readonly bool
	Noexec   bool
	Nosuid   bool
	Nodev    bool
}

type mountFactory struct{}

// Mount makes [MountConfig]s.
var Mount mountFactory

// Bind mounts a directory or a file of this machine.
func (mountFactory) Bind(hostPath string, opts MountOptions) MountConfig {
	m := opts.config(MountKindBind)
	m.Bind = hostPath
	return m
}

// Named mounts a volume that is there.
func (mountFactory) Named(name string, opts MountOptions) MountConfig {
	m := opts.config(MountKindNamed)
	m.Named = name
	return m
}

// NamedWith mounts a volume and says what becomes of one that is not there.
func (mountFactory) NamedWith(name string, opts MountOptions, volume NamedVolumeOptions) MountConfig {
	m := Mount.Named(name, opts)
	m.NamedMode, m.NamedKind, m.SizeMiB = volume.Mode, volume.Kind, volume.SizeMiB
	if volume.QuotaMiB > 0 {
		m.QuotaMiB = volume.QuotaMiB
	}
	return m
}

// Tmpfs mounts a file system in the sandbox's memory.
func (mountFactory) Tmpfs(opts TmpfsOptions) MountConfig {
	return MountConfig{kind: MountKindTmpfs, Tmpfs: true, SizeMiB: opts.SizeMiB, Readonly: opts.Readonly, Noexec: opts.Noexec, Nosuid: opts.Nosuid, Nodev: opts.Nodev}
}

// Disk mounts a disk image. It is not supported here.
func (mountFactory) Disk(hostPath string, opts DiskOptions) MountConfig {
	return MountConfig{kind: MountKindDisk, Disk: hostPath, Format: opts.Format, Fstype: opts.Fstype,
		Readonly: opts.Readonly, Noexec: opts.Noexec, Nosuid: opts.Nosuid, Nodev: opts.Nodev}
}

func (o MountOptions) config(kind MountKind) MountConfig {
	return MountConfig{kind: kind, Readonly: o.Readonly, Noexec: o.Noexec, Nosuid: o.Nosuid, Nodev: o.Nodev, QuotaMiB: o.QuotaMiB,
		StatVirtualization: o.StatVirtualization, HostPermissions: o.HostPermissions}
}

// PatchConfig is one change of the root file system. Make it with [Patch].
type PatchConfig struct {
	Kind    PatchKind
	Path    string
	Content string
	Mode    *uint32 // permission bits
	Replace bool    // what is there already; else that is ErrPatchFailed
	Src     string  // of this machine
	Dst     string
	Target  string // what a symbolic link says
	Link    string // where it is
}

// PatchOptions are those of most patches.
type PatchOptions struct {
	Mode    *uint32
	Replace bool
}

type patchFactory struct{}

// Patch makes [PatchConfig]s.
var Patch patchFactory

// Text writes a file.
func (patchFactory) Text(path, content string, opts PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindText, Path: path, Content: content, Mode: opts.Mode, Replace: opts.Replace}
}

// Append adds to a file that is there.
func (patchFactory) Append(path, content string) PatchConfig {
	return PatchConfig{Kind: PatchKindAppend, Path: path, Content: content}
}

// Mkdir makes a directory; one that is there is fine.
func (patchFactory) Mkdir(path string, opts PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindMkdir, Path: path, Mode: opts.Mode}
}

// Remove removes a file or a directory with all that is in it.
func (patchFactory) Remove(path string) PatchConfig {
	return PatchConfig{Kind: PatchKindRemove, Path: path}
}

// Symlink makes a symbolic link that says target.
func (patchFactory) Symlink(target, link string, opts PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindSymlink, Target: target, Link: link, Replace: opts.Replace}
}

// CopyFile copies a file of this machine.
func (patchFactory) CopyFile(src, dst string, opts PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindCopyFile, Src: src, Dst: dst, Mode: opts.Mode, Replace: opts.Replace}
}

// CopyDir copies a directory of this machine with all that is in it.
func (patchFactory) CopyDir(src, dst string, opts PatchOptions) PatchConfig {
	return PatchConfig{Kind: PatchKindCopyDir, Src: src, Dst: dst, Replace: opts.Replace}
}
