package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
)

// agentDir is where the agent's image is mounted in the guest.
const agentDir = "/.msb"

// controlFD is the guest's end of the control connection in the agent.
const controlFD = 3

// guestCaps are the capabilities of the guest's root. They hold inside gVisor's kernel only; the host process that runs
// it has none of them.
var guestCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN",
	"CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_SYS_TTY_CONFIG",
}

// minCPUs is the fewest CPUs that a guest sees. With one, gVisor switches to and from the guest without its fast path,
// which costs a third of a start and more of every system call; how much CPU time the guest gets is limited elsewhere.
const minCPUs = 2

// servedMounts lists the mounts that our own file server serves: the disk, and binds that say how. Those are found here, at paths that
// lead through no link, so that what somebody puts there until they are mounted is not served.
func servedMounts(cfg driver.Config) ([]gofer.Mount, error) {
	var served []gofer.Mount
	if d := cfg.Disk; d != nil {
		served = append(served, gofer.Mount{Target: driver.DiskTarget, Stat: gofer.Store, Bytes: d.LimitBytes, Inodes: d.LimitInodes})
	}
	for _, b := range cfg.Binds {
		if f := b.Files; f != nil {
			id, err := identify(b.Source)
			if err != nil {
				return nil, fmt.Errorf("mount %s: %w", b.Source, err)
			}
			served = append(served, gofer.Mount{Target: b.Target, Stat: gofer.Stat(f.Stat), Mirror: f.Mirror, UID: f.UID, GID: f.GID, Shared: shared(b),
				Bytes: f.LimitBytes, Inodes: f.LimitInodes, Source: id})
		}
	}
	return served, nil
}

// shared reports whether a bind is looked at anew each time. gVisor's kernel maps what is shared through file descriptors of
// the host only, and with one of those it writes past any limit.
func shared(b driver.Bind) bool {
	return b.Shared && (b.Files == nil || b.Files.LimitBytes == 0 && b.Files.LimitInodes == 0)
}

// ociSpec describes the sandbox in the words of the OCI runtime specification, which gVisor takes. emptyDir is an
// existing empty directory: with an EROFS root gVisor ignores what is there. served is what our own file server serves.
func ociSpec(cfg driver.Config, emptyDir string, served []gofer.Mount) (*specs.Spec, error) {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "size=64m"}},
		{Destination: agentDir, Type: "erofs", Source: cfg.Agent, Options: []string{"ro"}},
	}
	for _, t := range cfg.Tmpfs {
		mounts = append(mounts, tmpfsMount(t, cfg.MemoryBytes))
	}
	if cfg.Disk != nil {
		mounts = append(mounts, specs.Mount{Destination: driver.DiskTarget, Type: "bind", Source: cfg.Disk.Source, Options: []string{"bind"}})
	}
	for _, b := range cfg.Binds {
		opts := append([]string{"bind"}, flags(b.ReadOnly, b.NoExec, b.NoSUID, b.NoDev)...)
		mounts = append(mounts, specs.Mount{Destination: b.Target, Type: "bind", Source: b.Source, Options: opts})
	}
	annotations := map[string]string{
		"dev.gvisor.spec.rootfs.source":  cfg.RootImage,
		"dev.gvisor.spec.rootfs.type":    "erofs",
		"dev.gvisor.spec.rootfs.overlay": "memory",
		memoryAnnotation:                 strconv.FormatUint(cfg.MemoryBytes, 10),
	}
	for n, b := range cfg.Binds {
		if shared(b) {
			// Mounts are exclusive by our configuration (see config.go); this hint excepts one, named by its source.
			hint := fmt.Sprintf("dev.gvisor.spec.mount.bind%d.", n)
			annotations[hint+"source"], annotations[hint+"type"], annotations[hint+"share"] = b.Source, "bind", "shared"
		}
	}
	if cfg.CPUs > 0 {
		annotations[cpusAnnotation] = strconv.Itoa(min(max(cfg.CPUs, minCPUs), runtime.NumCPU()))
	}
	if err := gofer.Annotate(annotations, served); err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: emptyDir},
		Process: &specs.Process{
			Args:         append([]string{filepath.Join(agentDir, "agent")}, cfg.AgentArgs...),
			Cwd:          "/",
			Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: guestCaps, Effective: guestCaps, Permitted: guestCaps, Inheritable: nil},
		},
		Hostname:    cfg.Hostname,
		Mounts:      mounts,
		Annotations: annotations,
		Linux:       &specs.Linux{},
	}, nil
}

func tmpfsMount(t driver.Tmpfs, memory uint64) specs.Mount {
	size := t.SizeBytes
	if size == 0 {
		size = memory / 2
	}
	mode := t.Mode
	if mode == 0 {
		mode = 0o1777
	}
	opts := []string{fmt.Sprintf("size=%d", size), fmt.Sprintf("mode=%o", mode)}
	opts = append(opts, flags(t.ReadOnly, t.NoExec, t.NoSUID, t.NoDev)...)
	return specs.Mount{Destination: t.Target, Type: "tmpfs", Source: "tmpfs", Options: opts}
}

// flags names mount flags as the OCI specification does.
func flags(ro, noexec, nosuid, nodev bool) []string {
	var names []string
	for _, f := range []struct {
		on   bool
		name string
	}{{ro, "ro"}, {noexec, "noexec"}, {nosuid, "nosuid"}, {nodev, "nodev"}} {
		if f.on {
			names = append(names, f.name)
		}
	}
	return names
}

// writeBundle writes the spec where gVisor's children read it: they take config.json from disk, not from memory.
func writeBundle(dir string, spec *specs.Spec) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode the sandbox's OCI spec: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return fmt.Errorf("write the sandbox's OCI spec: %w", err)
	}
	return nil
}

// identify is the device and inode of a path that leads through no symbolic link.
func identify(path string) (*[2]uint64, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	return &[2]uint64{st.Dev, st.Ino}, nil
}
