package agentproto

// Bootstrap is core.bootstrap, the first frame that an agent gets: how the guest is to be (contract msb-0.6 §4.8).
type Bootstrap struct {
	BlockRoot       *BlockRoot
	DirMounts       []DirMount
	FileMounts      []FileMount
	DiskMounts      []DiskMount
	TmpfsMounts     []TmpfsMount
	Hostname        string
	HostAlias       string
	Network         *GuestNetwork
	Rlimits         []Rlimit
	User            string
	DefaultCwd      string
	DefaultEnv      []EnvVar
	SecurityProfile string // default | restricted
	HandoffInit     *HandoffInit
	Files           bool // of ours: a tar follows in x.msb.files frames
	Scripts         bool // of ours: the tar has files below .msb/scripts, which is to be a tmpfs
	KeepProfile     bool // of ours: /etc/profile is not ours to change
}

// Security profiles.
const (
	ProfileDefault    = "default"
	ProfileRestricted = "restricted"
)

func (m *Bootstrap) fields(c *codec) {
	if m.SecurityProfile == "" {
		m.SecurityProfile = ProfileDefault
	}
	optObject(c, "block_root", &m.BlockRoot, skip)
	objects(c, "dir_mounts", &m.DirMounts, dflt)
	objects(c, "file_mounts", &m.FileMounts, dflt)
	objects(c, "disk_mounts", &m.DiskMounts, dflt)
	objects(c, "tmpfs_mounts", &m.TmpfsMounts, dflt)
	c.text("hostname", &m.Hostname, skip)
	c.text("host_alias", &m.HostAlias, skip)
	optObject(c, "network", &m.Network, skip)
	objects(c, "rlimits", &m.Rlimits, dflt)
	c.text("user", &m.User, skip)
	c.text("default_cwd", &m.DefaultCwd, skip)
	objects(c, "default_env", &m.DefaultEnv, dflt)
	c.text("security_profile", &m.SecurityProfile, dflt)
	optObject(c, "handoff_init", &m.HandoffInit, skip)
	c.boolean("x_msb_files", &m.Files, skip)
	c.boolean("x_msb_scripts", &m.Scripts, skip)
	c.boolean("x_msb_keep_profile", &m.KeepProfile, skip)
}

// Kinds of a BlockRoot and of its upper layer. [UpperDirectory] is ours: Device is a directory of the guest.
const (
	RootDiskImage  = "disk-image"
	RootOCI        = "oci-erofs"
	UpperDevice    = "device"
	UpperTmpfs     = "tmpfs"
	UpperDirectory = "directory"
)

// BlockRoot is a root on block devices: kind "disk-image" with Device and FSType, or "oci-erofs" with Lower and Upper.
type BlockRoot struct {
	Kind   string
	Device string
	FSType string
	Lower  string
	Upper  *BlockUpper
}

func (m *BlockRoot) fields(c *codec) {
	c.text("kind", &m.Kind, must)
	c.text("device", &m.Device, skip)
	c.text("fstype", &m.FSType, skip)
	c.text("lower", &m.Lower, skip)
	optObject(c, "upper", &m.Upper, skip)
}

// BlockUpper is the writable layer of a BlockRoot: kind "device" with Device and FSType, "directory" with Device, or "tmpfs",
// in memory and as large as SizeMiB.
type BlockUpper struct {
	Kind    string
	Device  string
	FSType  string
	SizeMiB uint64
}

func (m *BlockUpper) fields(c *codec) {
	c.text("kind", &m.Kind, must)
	c.text("device", &m.Device, skip)
	c.text("fstype", &m.FSType, skip)
	num(c, "size_mib", &m.SizeMiB, skip)
}

// MountFlags are the usual mount options.
type MountFlags struct{ ReadOnly, NoExec, NoSUID, NoDev bool }

func (m *MountFlags) fields(c *codec) {
	c.boolean("readonly", &m.ReadOnly, dflt)
	c.boolean("noexec", &m.NoExec, dflt)
	c.boolean("nosuid", &m.NoSUID, dflt)
	c.boolean("nodev", &m.NoDev, dflt)
}

// DirMount is a shared directory.
type DirMount struct {
	Tag, GuestPath string
	Flags          MountFlags
}

func (m *DirMount) fields(c *codec) {
	c.text("tag", &m.Tag, must)
	c.text("guest_path", &m.GuestPath, must)
	c.object("flags", &m.Flags, dflt)
}

// FileMount is a shared file.
type FileMount struct {
	Tag, Filename, GuestPath string
	Flags                    MountFlags
}

func (m *FileMount) fields(c *codec) {
	c.text("tag", &m.Tag, must)
	c.text("filename", &m.Filename, must)
	c.text("guest_path", &m.GuestPath, must)
	c.object("flags", &m.Flags, dflt)
}

// DiskMount is a block device.
type DiskMount struct {
	ID, GuestPath, FSType string
	Flags                 MountFlags
}

func (m *DiskMount) fields(c *codec) {
	c.text("id", &m.ID, must)
	c.text("guest_path", &m.GuestPath, must)
	c.text("fstype", &m.FSType, skip)
	c.object("flags", &m.Flags, dflt)
}

// TmpfsMount is a file system in the guest's memory. SizeMiB 0 is the kernel's default, Mode nil is 0o1777.
type TmpfsMount struct {
	Path    string
	SizeMiB uint64
	Mode    *uint32
	Flags   MountFlags
}

func (m *TmpfsMount) fields(c *codec) {
	c.text("path", &m.Path, must)
	num(c, "size_mib", &m.SizeMiB, skip)
	optNum(c, "mode", &m.Mode, skip)
	c.object("flags", &m.Flags, dflt)
}

// GuestNetwork is the guest's interface.
type GuestNetwork struct {
	Interface string
	MAC       []byte // 6 octets
	MTU       uint16
	IPv4      *GuestAddress
	IPv6      *GuestAddress
}

func (m *GuestNetwork) fields(c *codec) {
	c.text("interface", &m.Interface, must)
	c.octets("mac", &m.MAC, must)
	num(c, "mtu", &m.MTU, must)
	optObject(c, "ipv4", &m.IPv4, skip)
	optObject(c, "ipv6", &m.IPv6, skip)
}

// GuestAddress is an address with its way out; the octets of IP addresses are 4 or 16.
type GuestAddress struct {
	Address   []byte
	PrefixLen uint8
	Gateway   []byte
	DNS       []byte
}

func (m *GuestAddress) fields(c *codec) {
	c.octets("address", &m.Address, must)
	num(c, "prefix_len", &m.PrefixLen, must)
	c.octets("gateway", &m.Gateway, must)
	c.octets("dns", &m.DNS, skip)
}

// EnvVar is one variable of the environment.
type EnvVar struct{ Key, Value string }

func (m *EnvVar) fields(c *codec) {
	c.text("key", &m.Key, must)
	c.text("value", &m.Value, must)
}

// HandoffInit is a program that becomes PID 1 in the agent's place.
type HandoffInit struct {
	Cmd  string
	Args []string
	Cwd  string
	Env  []EnvVar
}

func (m *HandoffInit) fields(c *codec) {
	c.text("cmd", &m.Cmd, must)
	c.texts("args", &m.Args, dflt)
	c.text("cwd", &m.Cwd, skip)
	objects(c, "env", &m.Env, dflt)
}
