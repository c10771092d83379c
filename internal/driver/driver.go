// Package driver is the seam between a sandbox and what confines it. A [Driver] starts an [Instance] from a prepared
// root, mounts, network link, limits and control connection; the instance lives until it ends by itself or is killed,
// and Destroy gives everything back. Destroy may be called at any point, and twice.
//
// To add a driver: 1. a folder below this one, 2. its line in cmd/msb-runner's main, 3. drivertest.Run in its tests.
package driver

import (
	"context"
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
	// CPU returns the CPU time used since the start, in nanoseconds.
	CPU() (uint64, error)
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
	// Shared is set where others may change what is there while the sandbox runs; else names and sizes are remembered.
	Shared bool
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
