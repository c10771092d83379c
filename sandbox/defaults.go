package sandbox

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
)

// The defaults of a [Spec] (contract msb-0.6 §2.1).
const (
	DefaultCPUs              = 1
	DefaultMemoryMiB         = 512
	DefaultShell             = "/bin/sh"
	DefaultRootDiskMiB       = 4096
	DefaultMetricsIntervalMS = 1000
	// MaxTmpMiB bounds the automatic tmpfs at /tmp.
	MaxTmpMiB = 512
)

// Words that fields of a [Spec] are made of.
const (
	RootDiskManaged = "managed" // kept on the host
	RootDiskTmpfs   = "tmpfs"   // in the sandbox's memory

	PullIfMissing = "IfMissing"
	PullAlways    = "Always"
	PullNever     = "Never"

	ProfileDefault    = "default"
	ProfileRestricted = "restricted"

	SingleTenant = "single_tenant"
	MultiTenant  = "multi_tenant"

	PlaceInherit = "inherit" // wherever the host's scheduler has them
	PlaceAuto    = "auto"    // compact if they fit into one package, else spread
	PlaceSpread  = "spread"  // on as many packages and cores as there are
	PlaceCompact = "compact" // next to each other
)

// WithDefaults returns s with every default filled in, guest paths cleaned and mounts in the order they are made:
// parents first. s itself and what it points to is not changed.
func (s Spec) WithDefaults() Spec {
	disk := s.Image.Disk()
	if disk.Kind == "" {
		disk.Kind = RootDiskManaged
		if s.Lifecycle.Ephemeral {
			disk.Kind = RootDiskTmpfs
		}
	}
	if disk.Kind == RootDiskManaged {
		disk.SizeMiB = cmp.Or(disk.SizeMiB, DefaultRootDiskMiB)
	}
	s.Image = s.Image.WithDisk(disk)

	r := &s.Resources
	r.CPUs = cmp.Or(r.CPUs, DefaultCPUs)
	r.MemoryMiB = cmp.Or(r.MemoryMiB, DefaultMemoryMiB)
	r.MaxCPUs = cmp.Or(r.MaxCPUs, r.CPUs)
	r.MaxMemoryMiB = cmp.Or(r.MaxMemoryMiB, r.MemoryMiB)
	if r.CPUPlacement == PlaceInherit {
		r.CPUPlacement = "" // as it is recorded
	}

	s.Runtime.Shell = cmp.Or(s.Runtime.Shell, DefaultShell)
	s.Runtime.Hostname = cmp.Or(s.Runtime.Hostname, s.Name.Hostname())
	s.Runtime.MetricsIntervalMS = cmp.Or(s.Runtime.MetricsIntervalMS, DefaultMetricsIntervalMS)
	s.Runtime.Scripts = orEmpty(s.Runtime.Scripts)

	s.Env = append([]EnvVar{}, s.Env...)
	s.Labels = orEmpty(s.Labels)
	s.Rlimits = append([]Rlimit{}, s.Rlimits...)
	s.Mounts = withTmp(s.Mounts, r.MemoryMiB)
	if s.Patches == nil {
		s.Patches = []Patch{}
	}

	// A network that is off says so with a policy (contract msb-0.6 §2.12): one that says nothing is on.
	if s.Network.Policy == nil {
		s.Network.Enabled = true
	}
	s.Network.Ports = append([]Port{}, s.Network.Ports...)
	for i := range s.Network.Ports {
		s.Network.Ports[i].Protocol = cmp.Or(s.Network.Ports[i].Protocol, PortTCP)
	}
	s.Network = s.Network.withSecrets()
	s.PullPolicy = cmp.Or(s.PullPolicy, PullIfMissing)
	s.SecurityProfile = cmp.Or(s.SecurityProfile, ProfileDefault)
	s.DeploymentProfile = cmp.Or(s.DeploymentProfile, SingleTenant)
	return s.withFloors()
}

// withTmp returns mounts with clean paths, parents first, and with the automatic tmpfs unless something is at /tmp.
func withTmp(mounts []Mount, memoryMiB int) []Mount {
	all := append([]Mount{}, mounts...)
	for i := range all {
		if strings.HasPrefix(all[i].Guest, "/") && !hasDotDot(all[i].Guest) { // others are for Validate to refuse
			all[i].Guest = path.Clean(all[i].Guest)
		}
	}
	if !slices.ContainsFunc(all, func(m Mount) bool { return m.Guest == "/tmp" }) {
		all = append(all, Mount{Type: MountTmpfs, Guest: "/tmp", SizeMiB: min(max(memoryMiB/4, 1), MaxTmpMiB)})
	}
	slices.SortStableFunc(all, func(a, b Mount) int {
		return cmp.Or(cmp.Compare(strings.Count(a.Guest, "/"), strings.Count(b.Guest, "/")), cmp.Compare(a.Guest, b.Guest))
	})
	return all
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}
