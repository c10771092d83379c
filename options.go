package microsandbox

import (
	"maps"
	"slices"
	"time"
)

// SandboxConfig is what a sandbox is to be. Most callers use [CreateSandbox] with options; the zero value of every field is
// its default (contract msb-0.6 §2.1).
type SandboxConfig struct {
	Name        string
	Image       string // reference, or a path that begins with /, ./ or ../; "host" is this machine's own programs
	ImageFstype string // of a disk image
	ImageBind   string // a directory, or a tar of one
	RootDisk    *RootDiskConfig
	// OCIUpperSizeMiB is the size of a managed root disk, as it was said before there was RootDisk.
	OCIUpperSizeMiB uint32
	Snapshot        string

	MemoryMiB        uint32 // default 512
	CPUs             uint8  // default 1
	MaxMemoryMiB     uint32 // default MemoryMiB
	MaxCPUs          uint8  // default CPUs
	CPUPlacement     CPUPlacement
	PlacementProfile string
	THP              THPPolicy

	Workdir           string
	Shell             string // default /bin/sh
	SecurityProfile   SecurityProfile
	DeploymentProfile DeploymentProfile
	Hostname          string // default made of the name
	User              string // NAME|UID[:GROUP|GID]
	Replace           bool
	// ReplaceWithTimeout is how long what is replaced may take to end; nil is 10 s, 0 kills it at once.
	ReplaceWithTimeout *time.Duration
	Env                map[string]string
	Labels             map[string]string
	Detached           bool // it outlives this process
	Ephemeral          bool // nothing of it is kept when it ends
	Entrypoint         []string
	Cmd                []string
	Init               *InitConfig
	LogLevel           LogLevel
	QuietLogs          bool
	Scripts            map[string]string // by name: what is on the guest's PATH
	PullPolicy         PullPolicy
	MaxDuration        time.Duration // rounded up to seconds; 0 is none
	IdleTimeout        time.Duration // rounded up to seconds; 0 is none

	RegistryAuth        *RegistryAuth
	RegistryInsecure    bool
	RegistryCACerts     [][]byte // PEM
	RegistryCACertPaths []string

	Ports        map[uint16]uint16 // TCP, by the port of this machine
	PortsUDP     map[uint16]uint16
	PortBindings []PortBinding
	Vsock        []VsockRoute
	Network      *NetworkConfig
	Secrets      []SecretEntry
	Patches      []PatchConfig
	Volumes      map[string]MountConfig // by guest path

	// Strict wants rules about names to count only for traffic that shows its name; see [WithNetworkStrict].
	strict bool
	proxy  *OutboundProxy
}

// SandboxOption sets something of a [SandboxConfig].
type SandboxOption func(*SandboxConfig)

// WithImage says what to start from: a reference such as "python:3.12", the path of a directory or a tar, or "host".
func WithImage(image string) SandboxOption {
	return func(c *SandboxConfig) { c.Image = image }
}

// WithRootDisk sets the writable layer; see [RootDisk].
func WithRootDisk(disk RootDiskConfig) SandboxOption {
	return func(c *SandboxConfig) { c.RootDisk = &disk }
}

// WithOCIUpperSize sets the size of the managed root disk.
//
// Deprecated: use [WithRootDisk] with RootDisk.Managed.
func WithOCIUpperSize(mebibytes uint32) SandboxOption {
	return func(c *SandboxConfig) { c.OCIUpperSizeMiB = mebibytes }
}

// WithImageDisk starts from a disk image, with a hint of its file system. It is not supported here.
func WithImageDisk(path string, fstype string) SandboxOption {
	return func(c *SandboxConfig) { c.Image, c.ImageFstype = path, fstype }
}

// WithBindRootfs starts from a directory of this machine, as it is when the sandbox is made.
func WithBindRootfs(path string) SandboxOption {
	return func(c *SandboxConfig) { c.ImageBind = path }
}

// WithFromSnapshot starts from a snapshot.
func WithFromSnapshot(pathOrName string) SandboxOption {
	return func(c *SandboxConfig) { c.Snapshot = pathOrName }
}

// WithMemory sets how much memory the sandbox may use (default 512 MiB).
func WithMemory(mebibytes uint32) SandboxOption {
	return func(c *SandboxConfig) { c.MemoryMiB = mebibytes }
}

// WithCPUs sets how many CPUs the sandbox may use (default 1).
func WithCPUs(cpus uint8) SandboxOption {
	return func(c *SandboxConfig) { c.CPUs = cpus }
}

// WithMaxMemory sets the most memory that the sandbox may be given later (default as [WithMemory]).
func WithMaxMemory(mebibytes uint32) SandboxOption {
	return func(c *SandboxConfig) { c.MaxMemoryMiB = mebibytes }
}

// WithMaxCPUs sets the most CPUs that the sandbox may be given later (default as [WithCPUs]).
func WithMaxCPUs(cpus uint8) SandboxOption {
	return func(c *SandboxConfig) { c.MaxCPUs = cpus }
}

// WithCPUPlacement says which of this machine's CPUs the sandbox gets.
func WithCPUPlacement(p CPUPlacement) SandboxOption {
	return func(c *SandboxConfig) { c.CPUPlacement = p }
}

// WithPlacementProfile names a placement profile of the configuration. It is not supported here.
func WithPlacementProfile(name string) SandboxOption {
	return func(c *SandboxConfig) { c.PlacementProfile = name }
}

// WithTHP says how the guest's kernel uses huge pages. Only madvise is supported here.
func WithTHP(p THPPolicy) SandboxOption {
	return func(c *SandboxConfig) { c.THP = p }
}

// WithWorkdir sets the working directory of commands.
func WithWorkdir(path string) SandboxOption {
	return func(c *SandboxConfig) { c.Workdir = path }
}

// WithShell sets the shell of [Sandbox.Shell] and of scripts (default /bin/sh).
func WithShell(shell string) SandboxOption {
	return func(c *SandboxConfig) { c.Shell = shell }
}

// WithSecurityProfile says what processes of the guest may become.
func WithSecurityProfile(p SecurityProfile) SandboxOption {
	return func(c *SandboxConfig) { c.SecurityProfile = p }
}

// WithDeploymentProfile says whether sandboxes of several tenants run here.
func WithDeploymentProfile(p DeploymentProfile) SandboxOption {
	return func(c *SandboxConfig) { c.DeploymentProfile = p }
}

// WithEnv adds environment variables. Later values win.
func WithEnv(env map[string]string) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.Env, env) }
}

// WithLabels adds labels to find the sandbox by. Later values win.
func WithLabels(labels map[string]string) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.Labels, labels) }
}

// WithLabel adds one label.
func WithLabel(key, value string) SandboxOption {
	return WithLabels(map[string]string{key: value})
}

// WithHostname sets the guest's host name (default the sandbox's name).
func WithHostname(hostname string) SandboxOption {
	return func(c *SandboxConfig) { c.Hostname = hostname }
}

// WithUser sets whom commands run as: NAME or UID, and :GROUP or :GID after it.
func WithUser(user string) SandboxOption {
	return func(c *SandboxConfig) { c.User = user }
}

// WithReplace removes the sandbox that has the name, which gets 10 s to end.
func WithReplace() SandboxOption {
	return func(c *SandboxConfig) { c.Replace = true }
}

// WithReplaceWithTimeout does so with another time to end, rounded up to milliseconds; 0 kills it at once.
func WithReplaceWithTimeout(timeout time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.Replace, c.ReplaceWithTimeout = true, &timeout }
}

// WithDetached lets the sandbox outlive this process.
func WithDetached() SandboxOption {
	return func(c *SandboxConfig) { c.Detached = true }
}

// WithEphemeral says whether nothing of the sandbox is kept when it ends.
func WithEphemeral(ephemeral bool) SandboxOption {
	return func(c *SandboxConfig) { c.Ephemeral = ephemeral }
}

// WithEntrypoint replaces the image's entrypoint; see [Sandbox.ExecDefault].
func WithEntrypoint(cmd ...string) SandboxOption {
	return func(c *SandboxConfig) { c.Entrypoint = slices.Clone(cmd) }
}

// WithCmd replaces the image's command; see [Sandbox.ExecDefault].
func WithCmd(cmd ...string) SandboxOption {
	return func(c *SandboxConfig) { c.Cmd = slices.Clone(cmd) }
}

// WithInit lets another program be the guest's process 1, e.g. systemd; see [Init].
func WithInit(init InitConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Init = &init }
}

// WithLogLevel says how much the sandbox's runner logs.
func WithLogLevel(level LogLevel) SandboxOption {
	return func(c *SandboxConfig) { c.LogLevel = level }
}

// WithQuietLogs lets the sandbox's runner log errors only.
func WithQuietLogs() SandboxOption {
	return func(c *SandboxConfig) { c.QuietLogs = true }
}

// WithScripts adds scripts, by name, to the guest's PATH. Later ones win.
func WithScripts(scripts map[string]string) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.Scripts, scripts) }
}

// WithPullPolicy says when the image is got from its registry.
func WithPullPolicy(p PullPolicy) SandboxOption {
	return func(c *SandboxConfig) { c.PullPolicy = p }
}

// WithMaxDuration ends the sandbox after this time, rounded up to seconds.
func WithMaxDuration(d time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.MaxDuration = d }
}

// WithIdleTimeout ends the sandbox when nothing happened in it for this time, rounded up to seconds.
func WithIdleTimeout(d time.Duration) SandboxOption {
	return func(c *SandboxConfig) { c.IdleTimeout = d }
}

// WithRegistryAuth says who the registry is asked as.
func WithRegistryAuth(auth RegistryAuth) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryAuth = &auth }
}

// WithRegistryInsecure lets the registry be one without TLS, or with a certificate of anybody.
func WithRegistryInsecure() SandboxOption {
	return func(c *SandboxConfig) { c.RegistryInsecure = true }
}

// WithRegistryCACerts adds certificate authorities, as PEM, to trust in the registry.
func WithRegistryCACerts(pem []byte) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryCACerts = append(c.RegistryCACerts, slices.Clone(pem)) }
}

// WithRegistryCACertsPath does so with a PEM file.
func WithRegistryCACertsPath(path string) SandboxOption {
	return func(c *SandboxConfig) { c.RegistryCACertPaths = append(c.RegistryCACertPaths, path) }
}

// WithPorts publishes TCP ports of the guest, the values, on ports of 127.0.0.1, the keys.
func WithPorts(ports map[uint16]uint16) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.Ports, ports) }
}

// WithPortsUDP does so with UDP.
func WithPortsUDP(ports map[uint16]uint16) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.PortsUDP, ports) }
}

// WithPortBindings publishes ports on addresses of this machine.
func WithPortBindings(bindings ...PortBinding) SandboxOption {
	return func(c *SandboxConfig) { c.PortBindings = append(c.PortBindings, bindings...) }
}

// WithVsock offers sockets of this machine to the guest. It is not supported here.
func WithVsock(routes ...VsockRoute) SandboxOption {
	return func(c *SandboxConfig) { c.Vsock = append(c.Vsock, routes...) }
}

// WithNetwork says what the sandbox may reach; nil is public addresses and DNS.
func WithNetwork(network *NetworkConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Network = network }
}

// WithNetworkStrict lets network rules about names count only for traffic that shows its name.
func WithNetworkStrict() SandboxOption {
	return func(c *SandboxConfig) { c.strict = true }
}

// WithProxy lets the sandbox's connections go through a SOCKS proxy.
func WithProxy(proxy OutboundProxy) SandboxOption {
	return func(c *SandboxConfig) { c.proxy = &proxy }
}

// WithSecrets adds values that never enter the sandbox; see [Secret].
func WithSecrets(secrets ...SecretEntry) SandboxOption {
	return func(c *SandboxConfig) { c.Secrets = append(c.Secrets, secrets...) }
}

// WithPatches adds changes of the root file system, made in their order before the sandbox first runs; see [Patch].
func WithPatches(patches ...PatchConfig) SandboxOption {
	return func(c *SandboxConfig) { c.Patches = append(c.Patches, patches...) }
}

// WithMounts adds mounts by their guest paths; see [Mount]. Later ones win.
func WithMounts(mounts map[string]MountConfig) SandboxOption {
	return func(c *SandboxConfig) { merge(&c.Volumes, mounts) }
}

// merge adds to a map that may be nil.
func merge[K comparable, V any](to *map[K]V, from map[K]V) {
	if *to == nil {
		*to = make(map[K]V, len(from))
	}
	maps.Copy(*to, from)
}

// RegistryAuth says who a registry is asked as.
type RegistryAuth struct {
	Username string
	Password string
}

// InitConfig is a program that is to be the guest's process 1.
type InitConfig struct {
	Cmd  string // "auto" looks for one
	Args []string
	Env  map[string]string
}

// InitOptions are those of Init.Cmd.
type InitOptions struct {
	Args []string
	Env  map[string]string
}

type initFactory struct{}

// Init makes [InitConfig]s.
var Init initFactory

// Auto takes the init program that the image has.
func (initFactory) Auto() InitConfig { return InitConfig{Cmd: "auto"} }

// Cmd names the init program.
func (initFactory) Cmd(cmd string, opts InitOptions) InitConfig {
	return InitConfig{Cmd: cmd, Args: slices.Clone(opts.Args), Env: maps.Clone(opts.Env)}
}

// VsockRoute is a socket of this machine that the guest reaches at a vsock port.
type VsockRoute struct {
	HostSocket string
	Port       uint32
	SocketType VsockSocketType
}
