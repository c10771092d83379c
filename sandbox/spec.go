package sandbox

import (
	"cmp"
	"slices"
	"time"
)

// Spec is what was asked for: everything a driver and the guest need to know to start a sandbox. Zero values stand for
// the defaults of contract msb-0.6 §2.1; [Spec.WithDefaults] fills them in. Its JSON is the stored form of §2.12.
//
// To add a field: 1. here with its JSON name, 2. its default in WithDefaults, 3. its rule in Validate, 4. the flag in
// internal/cli/sandboxflags.go.
type Spec struct {
	Name              Name              `json:"name"`
	Image             Image             `json:"image"`
	Resources         Resources         `json:"resources"`
	Runtime           RuntimeOptions    `json:"runtime"`
	Env               []EnvVar          `json:"env"`
	Labels            map[string]string `json:"labels"`
	Rlimits           []Rlimit          `json:"rlimits"`
	Mounts            []Mount           `json:"mounts"`
	Patches           []Patch           `json:"patches"`
	Network           Network           `json:"network"`
	Init              *Init             `json:"init"`
	PullPolicy        string            `json:"pull_policy"`        // IfMissing | Always | Never
	SecurityProfile   string            `json:"security_profile"`   // default | restricted
	DeploymentProfile string            `json:"deployment_profile"` // single_tenant | multi_tenant
	Lifecycle         Lifecycle         `json:"lifecycle"`
	ManifestDigest    string            `json:"manifest_digest,omitempty"` // of the image that it runs; the backend's to say
}

// Image says where the root file system comes from. Exactly one field is set.
type Image struct {
	OCI  *OCIImage  `json:"Oci,omitempty"`
	Bind *BindImage `json:"Bind,omitempty"`
}

// String is what a person calls it.
func (i Image) String() string {
	switch {
	case i.OCI != nil:
		return i.OCI.Reference
	case i.Bind != nil:
		return i.Bind.Path
	}
	return ""
}

// HostImage is the reference of the built-in image made of this machine's own /usr.
const HostImage = "host"

// OCIImage is an image by reference; the reference "host" is built in.
type OCIImage struct {
	Reference string   `json:"reference"`
	RootDisk  RootDisk `json:"root_disk"`
}

// BindImage is a directory of the backend's machine, or a tar of one: the sandbox sees it as it was at the start.
type BindImage struct {
	Path     string   `json:"path"` // absolute
	RootDisk RootDisk `json:"root_disk"`
}

// Disk is the writable layer upon the image; the zero RootDisk for an image of no kind.
func (i Image) Disk() RootDisk {
	switch {
	case i.OCI != nil:
		return i.OCI.RootDisk
	case i.Bind != nil:
		return i.Bind.RootDisk
	}
	return RootDisk{}
}

// WithDisk returns the image with another writable layer.
func (i Image) WithDisk(d RootDisk) Image {
	if i.OCI != nil {
		oci := *i.OCI
		oci.RootDisk, i.OCI = d, &oci
	}
	if i.Bind != nil {
		bind := *i.Bind
		bind.RootDisk, i.Bind = d, &bind
	}
	return i
}

// RootDisk is the writable layer: kind "managed" (kept on the host) or "tmpfs" (in the sandbox's memory).
type RootDisk struct {
	Kind    string `json:"kind"`
	SizeMiB int    `json:"size_mib,omitempty"`
}

// Resources are enforced outside the guest.
type Resources struct {
	CPUs         int `json:"cpus"`           // default 1
	MemoryMiB    int `json:"memory_mib"`     // default 512
	MaxCPUs      int `json:"max_cpus"`       // default CPUs
	MaxMemoryMiB int `json:"max_memory_mib"` // default MemoryMiB
	// CPUPlacement says which of the host's CPUs they are: inherit (default), auto, spread or compact.
	CPUPlacement string `json:"cpu_placement,omitempty"`
}

// RuntimeOptions say how commands run in the guest.
type RuntimeOptions struct {
	Workdir           string            `json:"workdir,omitempty"`
	Shell             string            `json:"shell"` // default /bin/sh
	Scripts           map[string]string `json:"scripts"`
	Entrypoint        []string          `json:"entrypoint"`
	Cmd               []string          `json:"cmd"`
	Hostname          string            `json:"hostname,omitempty"` // default Name.Hostname()
	User              string            `json:"user,omitempty"`     // NAME|UID[:GROUP|GID]
	LogLevel          string            `json:"log_level,omitempty"`
	MetricsIntervalMS int               `json:"metrics_sample_interval_ms"` // default 1000
	DisableMetrics    bool              `json:"disable_metrics_sample"`
}

// Init is a program that is to be the guest's PID 1 in the place of ours.
type Init struct {
	Cmd  string   `json:"cmd"` // absolute, or InitAuto
	Args []string `json:"args"`
	Env  []EnvVar `json:"env"` // over that of the sandbox
}

// InitAuto is the init that an image has: what its entrypoint begins with, if that is one of KnownInits, or what is where
// distributions have theirs.
const InitAuto = "auto"

// KnownInits are the programs that an entrypoint may begin with.
var KnownInits = [...]string{"/init", "/sbin/init", "/usr/sbin/init", "/bin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}

// Entrypoint is what comes before a command: the image's or the spec's own, unless that is what PID 1 runs.
func (s Spec) Entrypoint() []string {
	if s.Init != nil && s.Init.Cmd == InitAuto && IsInit(s.Runtime.Entrypoint) {
		return nil
	}
	return s.Runtime.Entrypoint
}

// Command is what the sandbox runs by itself, or would: nothing, if neither it nor its image says.
func (s Spec) Command() []string {
	return append(append([]string{}, s.Entrypoint()...), s.Runtime.Cmd...)
}

// Shell is the shell of interactive sessions and scripts.
func (s Spec) Shell() string { return cmp.Or(s.Runtime.Shell, DefaultShell) }

// HasLabels reports whether the sandbox has all of these labels.
func (s Spec) HasLabels(want map[string]string) bool {
	for k, v := range want {
		if have, ok := s.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// WholeSeconds is a bound of [Lifecycle], rounded up; nil is no limit.
func WholeSeconds(d time.Duration) *int {
	if d <= 0 {
		return nil
	}
	n := int(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return &n
}

// IsInit reports whether an entrypoint begins with one of KnownInits.
func IsInit(entrypoint []string) bool {
	return len(entrypoint) > 0 && slices.Contains(KnownInits[:], entrypoint[0])
}

// EnvVar is one variable of the guest's environment.
type EnvVar struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Rlimit is a POSIX resource limit of guest processes; soft ≤ hard. Resource is the name of contract msb-0.6 §1.4.
type Rlimit struct {
	Resource string `json:"resource"`
	Soft     uint64 `json:"soft"`
	Hard     uint64 `json:"hard"`
}

// Mount types.
const (
	MountTmpfs = "Tmpfs"
	MountBind  = "Bind"
	MountNamed = "Named"
)

// Mount is one file system below the root.
type Mount struct {
	Type    string       `json:"type"`
	Host    string       `json:"host,omitempty"` // of a bind: absolute; of a named volume: its name
	Guest   string       `json:"guest"`
	SizeMiB int          `json:"size_mib,omitempty"` // of a tmpfs; 0 is half the sandbox's memory
	Options MountOptions `json:"options"`
	// FollowRootSymlinks lets Host be a symbolic link. Links below it are always the guest's own to follow.
	FollowRootSymlinks bool `json:"follow_root_symlinks,omitempty"`

	// Of binds and volumes:
	StatVirtualization string `json:"stat_virtualization,omitempty"` // strict | relaxed | off; see the constants
	HostPermissions    string `json:"host_permissions,omitempty"`    // private | mirror
	QuotaMiB           int    `json:"quota_mib,omitempty"`           // how much the guest may have there; 0 is no limit
	Owner              *Owner `json:"owner,omitempty"`               // of what the host put there; nil is root
	Create             string `json:"create,omitempty"`              // of a volume: existing | create | ensure-exists
}

// Owner is a user and a group of the guest.
type Owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// How owners and modes of mounted files are kept (contract msb-0.6 §1.4). Strict and relaxed keep what the guest sets beside the
// host's own; relaxed lets them follow the host's where that can be. Off is the host's own.
const (
	StatStrict  = "strict"
	StatRelaxed = "relaxed"
	StatOff     = "off"

	PermissionsPrivate = "private" // what the guest makes only its host user may read
	PermissionsMirror  = "mirror"  // it has the modes of the guest

	VolumeExisting = "existing"      // it must be there
	VolumeCreate   = "create"        // it must not
	VolumeEnsure   = "ensure-exists" // it is made if it is not there
)

// MountOptions are the usual mount flags.
type MountOptions struct {
	ReadOnly bool `json:"readonly"`
	NoExec   bool `json:"noexec"`
	NoSUID   bool `json:"nosuid"`
	NoDev    bool `json:"nodev"`
}

// Network says what the sandbox may reach. Policy nil is the profile "public": DNS and public addresses (contract
// msb-0.6 §2.7).
type Network struct {
	Enabled        bool           `json:"enabled"`
	Policy         *NetworkPolicy `json:"policy,omitempty"`
	Strict         bool           `json:"strict"`
	MaxConnections *int           `json:"max_connections"`
	TrustHostCAs   bool           `json:"trust_host_cas"`
	DNS            *DNS           `json:"dns,omitempty"`
	Ports          []Port         `json:"ports"`
	Interface      *Interface     `json:"interface,omitempty"`
	RateLimiter    *RateLimiter   `json:"rate_limiter,omitempty"`
	TLS            *TLS           `json:"tls,omitempty"`
	Secrets        *Secrets       `json:"secrets,omitempty"`
	OutboundProxy  *OutboundProxy `json:"outbound_proxy,omitempty"`
}

// DNS says who answers the guest's questions. The zero value: the host's nameservers, 5 s, rebinding protection on.
type DNS struct {
	NoRebindProtection bool     `json:"no_rebind_protection,omitempty"`
	Nameservers        []string `json:"nameservers,omitempty"` // IP or IP:port
	QueryTimeoutMS     int      `json:"query_timeout_ms,omitempty"`
}

// Lifecycle bounds a sandbox's life.
type Lifecycle struct {
	Ephemeral       bool `json:"ephemeral"`
	MaxDurationSecs *int `json:"max_duration_secs"`
	IdleTimeoutSecs *int `json:"idle_timeout_secs"`
	// OutlivesStartup keeps the sandbox when the command that it runs by itself ends, or does not start.
	OutlivesStartup bool `json:"outlives_startup,omitempty"`
}

// MaxDuration is the wall-clock limit from boot; 0 is none.
func (l Lifecycle) MaxDuration() time.Duration {
	if l.MaxDurationSecs == nil {
		return 0
	}
	return time.Duration(*l.MaxDurationSecs) * time.Second
}

// IdleTimeout is how long nothing may happen in a sandbox before it ends; 0 is for ever.
func (l Lifecycle) IdleTimeout() time.Duration {
	if l.IdleTimeoutSecs == nil {
		return 0
	}
	return time.Duration(*l.IdleTimeoutSecs) * time.Second
}
