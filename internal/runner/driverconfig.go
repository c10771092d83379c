package runner

import (
	"os"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (s *supervisor) driverConfig(id string, control *os.File, link *driver.Link) driver.Config {
	spec := s.cfg.Info.Spec
	cfg := driver.Config{
		ID: id, RootImage: s.cfg.Root.Image, Agent: s.cfg.Agent, Hostname: spec.Runtime.Hostname, Control: control, Link: link,
		CPUs: spec.Resources.MaxCPUs, MemoryBytes: uint64(spec.Resources.MaxMemoryMiB) << 20, Log: s.log,
	}
	if d := s.cfg.Root.Disk; d != nil && d.Source != "" {
		limit := uint64(d.SizeMiB) << 20
		cfg.Disk = &driver.Disk{Source: d.Source, LimitBytes: limit, LimitInodes: max(limit/bytesPerInode, leastInodes)}
	}
	for _, b := range s.cfg.Root.Binds {
		cfg.Binds = append(cfg.Binds, driver.Bind{Source: b.Source, Target: b.Target, ReadOnly: true,
			// To an ordinary user all files of the image host are nobody's; a set-user-ID program would make one of root.
			NoSUID: s.cfg.UserNS})
	}
	for _, m := range s.cfg.Mounts {
		cfg.Binds = append(cfg.Binds, bindOf(m))
	}
	for _, m := range spec.Mounts {
		if m.Type == sandbox.MountTmpfs {
			cfg.Tmpfs = append(cfg.Tmpfs, driver.Tmpfs{Target: m.Guest, SizeBytes: uint64(m.SizeMiB) << 20, ReadOnly: m.Options.ReadOnly,
				NoExec: m.Options.NoExec, NoSUID: m.Options.NoSUID, NoDev: m.Options.NoDev})
		}
	}
	if spec.Runtime.LogLevel == "trace" {
		cfg.DebugDir = filepath.Join(s.cfg.RunDir, "gvisor")
		_ = os.Mkdir(cfg.DebugDir, 0o700)
	}
	return cfg
}

// bindOf is a mount in the driver's words.
func bindOf(m launch.Mount) driver.Bind {
	b := driver.Bind{Source: m.Source, Target: m.Target, ReadOnly: m.Options.ReadOnly, NoExec: m.Options.NoExec, NoSUID: m.Options.NoSUID,
		NoDev: m.Options.NoDev, Shared: true}
	limit := uint64(m.QuotaMiB) << 20
	b.Files = &driver.Files{Stat: m.Stat, Mirror: m.Mirror, UID: m.Owner.UID, GID: m.Owner.GID, LimitBytes: limit}
	if limit > 0 {
		b.Files.LimitInodes = max(limit/bytesPerInode, leastInodes)
	}
	return b
}

// bytesPerInode is how much of a disk there is for each file that it may hold, as of ext4; leastInodes is for small ones.
const (
	bytesPerInode = 16 << 10
	leastInodes   = 16 << 10
)
