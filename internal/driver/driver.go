// Package driver is the seam between a sandbox and what confines it. A [Driver] starts an [Instance] from a prepared
// root, mounts, network link, limits and control connection; the instance lives until it ends by itself or is killed,
// and Destroy gives everything back. Destroy may be called at any point, and twice.
//
// To add a driver: 1. a folder below this one, 2. its line in cmd/msb-runner's main, 3. drivertest.Run in its tests.
package driver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
)

// Driver starts sandboxes of one kind.
type Driver interface {
	// Name is the word for --format json and msb doctor: "gvisor".
	Name() string
	// Start boots a sandbox and starts the agent in it as PID 1. It takes ownership of cfg.Control and cfg.Link. ctx
	// bounds the start, not the sandbox.
	Start(ctx context.Context, cfg Config) (Instance, error)
}

// Restorer is a driver that can start a sandbox from a checkpoint.
type Restorer interface {
	// Restore starts a sandbox from the checkpoint in dir. cfg must describe the same root and mounts as the original;
	// its control connection and network link are new.
	Restore(ctx context.Context, cfg Config, dir string) (Instance, error)
}

// Instance is one running sandbox.
type Instance interface {
	// PID is the host process whose life is the sandbox's.
	PID() int
	// Wait blocks until the sandbox has ended. It may be called once.
	Wait() Exit
	// Kill ends the sandbox at once. It does not wait and may be called at any time.
	Kill()
	// Destroy kills, waits and gives back all the driver took from the host.
	Destroy() error
}

// Checkpointer is an instance whose state can be saved while it runs.
type Checkpointer interface {
	// Checkpoint writes memory and kernel state into the existing, empty directory dir, and lets the sandbox run on.
	Checkpoint(ctx context.Context, dir string) error
}

// Meter is an instance that can tell what it uses without waking the guest.
type Meter interface {
	// Memory returns the bytes of host memory held for the sandbox: guest memory, its kernel, its helpers.
	Memory() (uint64, error)
}

// Disks is an instance that counts what its disk and its binds with a [Files] hold.
type Disks interface {
	// Disks lists the disk, if there is one, and the binds in the order of Config.Binds. It asks nobody: it is a look at
	// memory.
	Disks() []DiskUsage
}

// DiskUsage is what a mount holds: the sum of the sizes of its files, whatever they take on the host, and their number.
type DiskUsage struct {
	Target      string // in the guest; [DiskTarget] is the sandbox's disk
	Bytes       uint64
	Inodes      uint64
	LimitBytes  uint64 // 0 is none
	LimitInodes uint64
	// Read and Written are the bytes that the guest moved. What its kernel had in memory was not read again.
	Read, Written uint64
}

// ErrDiskInUse is a disk that another sandbox has.
var ErrDiskInUse = errors.New("another sandbox is using the disk")

// Gauge is an instance that can tell all that it uses, at the price of a few system calls and without waking the guest.
type Gauge interface {
	// Usage is for one caller at a time.
	Usage() (Usage, error)
}

// Usage is what a sandbox uses.
type Usage struct {
	CPU           uint64 // ns since the start, of the guest and its kernel
	Guest         uint64 // bytes of memory that the guest holds, files in memory included
	Resident      uint64 // bytes of host memory held for the sandbox, as Meter says
	Read, Written uint64 // bytes that the host's disks moved for its kernel; of files that are served to it, see Disks
}

// Processes is an instance that can list the host processes it consists of, for placing them in cgroups.
type Processes interface {
	PIDs() []int
}

// Exit says how the sandbox's host process ended.
type Exit struct {
	Code   int // of the agent, when it ended by itself
	Signal int // that killed the sentry; 0 if none
	// Cause says what went wrong where the driver itself ended the sandbox; "" elsewhere.
	Cause string
}

// Config is all that a driver needs. Paths are on the host.
type Config struct {
	ID        string // names the sandbox in process titles; letters and digits
	RootImage string // EROFS file
	Disk      *Disk  // nil: what the guest writes is in memory
	Binds     []Bind
	Tmpfs     []Tmpfs
	Agent     string // EROFS file, mounted read-only at /.msb; holds "agent"
	AgentArgs []string
	Hostname  string

	Control *os.File // guest end of the control connection: FD 3 of the agent
	Link    *Link    // nil: the sandbox has only a loopback interface

	CPUs        int
	MemoryBytes uint64 // what the guest sees
	Log         *slog.Logger
	DebugDir    string // where the driver may write logs of its own; "" is none
}

// Bind mounts a host path in the guest.
type Bind struct {
	Source, Target string
	ReadOnly       bool
	NoExec         bool
	NoSUID         bool
	NoDev          bool
	// Shared is set where others may change what is there while the sandbox runs; else names and sizes are remembered. It is
	// ignored for a bind with a limit.
	Shared bool
	// Files says how the guest sees owners and modes, and how much there may be. With nil it sees what the host has.
	Files *Files
}

// Disk is the writable layer of a sandbox's root, kept in a directory of the host. The driver only shows it to the agent,
// at [DiskTarget]; core.bootstrap tells the agent to make it the upper layer of the root.
type Disk struct {
	Source     string // an empty directory, or one that was a disk before
	LimitBytes uint64 // 0 is none
	// LimitInodes bounds the number of files and directories; 0 is none.
	LimitInodes uint64
}

// DiskTarget is where the guest's agent finds the disk.
const DiskTarget = "/dev/.msb/upper"

// Files says how the files of a bind are to the guest (contract msb-0.6 §1.4).
type Files struct {
	// Stat is where owners and modes are kept: "strict" in an extended attribute of the host's file, or it fails; "relaxed"
	// there if it can be, else nowhere; "off" in the host's file itself.
	Stat string
	// Mirror makes host permissions follow the guest's ("host-perms=mirror"); else what the guest makes is 0600 or 0700.
	Mirror      bool
	UID, GID    uint32 // in the guest, of what has no attribute
	LimitBytes  uint64 // 0 is none
	LimitInodes uint64
}

// Tmpfs is an in-memory file system in the guest.
type Tmpfs struct {
	Target    string
	SizeBytes uint64 // 0: half the memory
	Mode      uint32 // 0: 1777
	ReadOnly  bool
	NoExec    bool
	NoSUID    bool
	NoDev     bool
}

// Link is the sandbox's end of its network: a SEQPACKET socket that carries Ethernet frames, each behind a 10-byte
// virtio-net header, up to 64 KiB when segmentation is left to the peer.
type Link struct {
	File       *os.File
	MTU        uint32
	MAC        net.HardwareAddr
	GatewayMAC net.HardwareAddr
	IPv4       netip.Prefix
	Gateway4   netip.Addr
	IPv6       netip.Prefix
	Gateway6   netip.Addr
}
