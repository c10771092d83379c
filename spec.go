package microsandbox

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// needsVM is why some of a SandboxConfig cannot be done by a kernel in user space.
const needsVM = "it needs a virtual machine"

// spec is what the configuration asks for, and what it leaves to config.json, checked.
func (c *SandboxConfig) spec(set config.File) (sandbox.Spec, error) {
	if err := c.refused(); err != nil {
		return sandbox.Spec{}, err
	}
	image, err := c.image()
	if err != nil {
		return sandbox.Spec{}, err
	}
	s := sandbox.Spec{
		Name:  sandbox.Name(c.Name),
		Image: image,
		Resources: sandbox.Resources{CPUs: int(c.CPUs), MaxCPUs: int(c.MaxCPUs), MemoryMiB: int(c.MemoryMiB), MaxMemoryMiB: int(c.MaxMemoryMiB),
			CPUPlacement: string(c.CPUPlacement)},
		Runtime: sandbox.RuntimeOptions{Workdir: c.Workdir, Shell: c.Shell, Scripts: maps.Clone(c.Scripts), Entrypoint: slices.Clone(c.Entrypoint), Cmd: slices.Clone(c.Cmd),
			Hostname: c.Hostname, User: c.User, LogLevel: string(c.LogLevel)},
		Labels:            maps.Clone(c.Labels),
		SecurityProfile:   string(c.SecurityProfile),
		DeploymentProfile: strings.ReplaceAll(string(c.DeploymentProfile), "-", "_"),
		Lifecycle:         sandbox.Lifecycle{Ephemeral: c.Ephemeral, MaxDurationSecs: sandbox.WholeSeconds(c.MaxDuration), IdleTimeoutSecs: sandbox.WholeSeconds(c.IdleTimeout)},
	}
	if c.QuietLogs {
		s.Runtime.LogLevel = string(LogLevelError)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Env)) {
		s.Env = append(s.Env, sandbox.EnvVar{Key: key, Value: c.Env[key]})
	}
	if i := c.Init; i != nil {
		s.Init = &sandbox.Init{Cmd: i.Cmd, Args: append([]string{}, i.Args...), Env: []sandbox.EnvVar{}}
		for _, key := range slices.Sorted(maps.Keys(i.Env)) {
			s.Init.Env = append(s.Init.Env, sandbox.EnvVar{Key: key, Value: i.Env[key]})
		}
	}
	switch c.PullPolicy {
	case PullPolicyDefault, PullPolicyIfMissing:
	case PullPolicyAlways:
		s.PullPolicy = sandbox.PullAlways
	case PullPolicyNever:
		s.PullPolicy = sandbox.PullNever
	default:
		return s, badConfig("pull policy %q is not always, if-missing or never", c.PullPolicy)
	}
	if s.Mounts, err = c.mounts(); err != nil {
		return s, err
	}
	if s.Patches, err = c.patches(); err != nil {
		return s, err
	}
	if s.Network, err = c.network(); err != nil {
		return s, err
	}
	return s, set.Complete(&s)
}

func badConfig(format string, args ...any) error {
	return &sandbox.Error{Op: "create", Kind: sandbox.InvalidConfig, Message: fmt.Sprintf(format, args...)}
}

// roundUp rounds a duration up to a multiple of unit.
func roundUp(d, unit time.Duration) time.Duration {
	if rest := d % unit; rest > 0 && d <= math.MaxInt64-unit {
		d += unit - rest
	}
	return d
}

// refused is the error of what no sandbox here can have.
func (c *SandboxConfig) refused() error {
	for _, r := range []struct {
		asked     bool
		what, why string
	}{
		{c.Snapshot != "", "WithFromSnapshot", "snapshots come with a later release"},
		{c.ImageFstype != "", "WithImageDisk", needsVM},
		{c.PlacementProfile != "", "WithPlacementProfile", "guests have no memory nodes of their own"},
		{c.THP != "" && c.THP != THPMadvise, "WithTHP " + string(c.THP), "the guest's kernel has no huge pages of its own"},
		{len(c.Vsock) > 0, "WithVsock", needsVM},
	} {
		if r.asked {
			return &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: r.what + " is not supported: " + r.why}
		}
	}
	return nil
}

// image is where the root file system comes from, and the disk upon it.
func (c *SandboxConfig) image() (sandbox.Image, error) {
	var img sandbox.Image
	switch {
	case c.Image == "" && c.ImageBind == "":
		return img, badConfig("a sandbox needs an image: see WithImage")
	case c.Image != "" && c.ImageBind != "":
		return img, badConfig("WithImage and WithBindRootfs exclude each other")
	}
	var err error
	if c.ImageBind != "" {
		img, err = config.DirectoryOf(c.ImageBind)
	} else {
		img, err = config.ImageOf(c.Image)
	}
	if err != nil {
		return img, err
	}
	disk := c.RootDisk
	if c.OCIUpperSizeMiB > 0 {
		if disk != nil {
			return img, badConfig("WithRootDisk and WithOCIUpperSize exclude each other")
		}
		managed := RootDisk.Managed(c.OCIUpperSizeMiB)
		disk = &managed
	}
	switch {
	case disk == nil:
	case disk.Kind() == RootDiskKindManaged:
		img = img.WithDisk(sandbox.RootDisk{Kind: sandbox.RootDiskManaged, SizeMiB: int(disk.SizeMiB)})
	case disk.Kind() == RootDiskKindTmpfs:
		img = img.WithDisk(sandbox.RootDisk{Kind: sandbox.RootDiskTmpfs, SizeMiB: int(disk.SizeMiB)})
	default:
		return img, &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "a disk image as the root disk is not supported: " + needsVM, Hint: "use RootDisk.Managed"}
	}
	return img, nil
}

func (c *SandboxConfig) mounts() ([]sandbox.Mount, error) {
	var all []sandbox.Mount
	for _, guest := range slices.Sorted(maps.Keys(c.Volumes)) {
		m := c.Volumes[guest]
		out := sandbox.Mount{Guest: guest, Options: sandbox.MountOptions{ReadOnly: m.Readonly, NoExec: m.Noexec, NoSUID: m.Nosuid, NoDev: m.Nodev}}
		switch kind := m.Kind(); kind {
		case MountKindTmpfs:
			out.Type, out.SizeMiB = sandbox.MountTmpfs, int(m.SizeMiB)
			if m.StatVirtualization != "" || m.HostPermissions != "" || m.QuotaMiB > 0 || m.owner != nil {
				return nil, badConfig("mount %s: a tmpfs has no owners and permissions of this machine", guest)
			}
		case MountKindBind, MountKindNamed:
			out.Type, out.Host = sandbox.MountBind, m.Bind
			out.StatVirtualization, out.HostPermissions, out.QuotaMiB = string(m.StatVirtualization), string(m.HostPermissions), int(m.QuotaMiB)
			if m.owner != nil {
				out.Owner = &sandbox.Owner{UID: m.owner.uid, GID: m.owner.gid}
			}
			if kind == MountKindBind {
				abs, err := filepath.Abs(m.Bind)
				if err != nil {
					return nil, &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "find " + m.Bind, Err: err}
				}
				out.Host = abs
				break
			}
			out.Type, out.Host, out.Create = sandbox.MountNamed, m.Named, cmp.Or(m.NamedMode, sandbox.VolumeExisting)
			if m.NamedKind != "" && m.NamedKind != string(VolumeKindDir) || m.SizeMiB > 0 {
				return nil, &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "mount " + guest + ": a disk volume is not supported: " + needsVM, Hint: "use a directory and a quota"}
			}
		case MountKindDisk:
			return nil, &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "mount " + guest + ": a disk image is not supported: " + needsVM}
		default:
			return nil, badConfig("mount %s says nothing to mount: make it with Mount", guest)
		}
		all = append(all, out)
	}
	return all, nil
}

func (c *SandboxConfig) patches() ([]sandbox.Patch, error) {
	var all []sandbox.Patch
	for _, p := range c.Patches {
		out := sandbox.Patch{Type: string(p.Kind), Path: p.Path, Mode: p.Mode, Replace: p.Replace, Dst: p.Dst, Target: p.Target, Link: p.Link}
		switch p.Kind {
		case PatchKindText, PatchKindAppend:
			out.Content = []byte(p.Content)
		case PatchKindCopyFile, PatchKindCopyDir:
			abs, err := filepath.Abs(p.Src)
			if err != nil {
				return nil, &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "find " + p.Src, Err: err}
			}
			out.Src = abs
		}
		all = append(all, out)
	}
	return all, nil
}

// network is what the configuration says of the network, ports included.
func (c *SandboxConfig) network() (sandbox.Network, error) {
	n := sandbox.Network{Enabled: true, Strict: c.strict}
	publish := func(ports map[uint16]uint16, protocol string) {
		for _, host := range slices.Sorted(maps.Keys(ports)) {
			n.Ports = append(n.Ports, sandbox.Port{HostPort: host, GuestPort: ports[host], Protocol: protocol})
		}
	}
	bind := func(bindings []PortBinding) {
		for _, b := range bindings {
			n.Ports = append(n.Ports, sandbox.Port{HostPort: b.HostPort, GuestPort: b.GuestPort, Protocol: cmp.Or(string(b.Protocol), sandbox.PortTCP), HostBind: b.Bind})
		}
	}
	publish(c.Ports, sandbox.PortTCP)
	publish(c.PortsUDP, sandbox.PortUDP)
	bind(c.PortBindings)
	if w := c.Network; w != nil {
		publish(w.Ports, sandbox.PortTCP)
		bind(w.PortBindings)
		policy, err := w.policy()
		if err != nil {
			return n, err
		}
		n.Policy, n.DNS, n.RateLimiter = policy, w.dns(), w.limiter()
		if w.IPv4Pool != "" || w.IPv6Pool != "" {
			n.Interface = &sandbox.Interface{IPv4Pool: w.IPv4Pool, IPv6Pool: w.IPv6Pool}
		}
		if w.MaxConnections != nil {
			most := int(min(*w.MaxConnections, math.MaxInt32))
			n.MaxConnections = &most
		}
		n.TrustHostCAs = w.TrustHostCAs != nil && *w.TrustHostCAs
	}
	return n, c.intercept(&n)
}

// policy is nil where the configuration says nothing, which is the profile public.
func (w *NetworkConfig) policy() (*sandbox.NetworkPolicy, error) {
	p := sandbox.PublicPolicy()
	if len(w.Rules) > 0 || w.DefaultEgress != "" || w.DefaultIngress != "" {
		p = sandbox.NetworkPolicy{DefaultEgress: string(cmp.Or(w.DefaultEgress, PolicyActionDeny)), DefaultIngress: string(cmp.Or(w.DefaultIngress, PolicyActionAllow))}
	} else if len(w.DenyDomains) == 0 && len(w.DenyDomainSuffixes) == 0 {
		return nil, nil
	}
	for _, r := range w.Rules {
		rule, err := r.rule()
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, rule)
	}
	p, err := p.Denying(w.DenyDomains, w.DenyDomainSuffixes)
	return &p, err
}

func (r PolicyRule) rule() (sandbox.NetworkRule, error) {
	out := sandbox.NetworkRule{Action: string(r.Action), Direction: string(cmp.Or(r.Direction, PolicyDirectionEgress))}
	if r.Protocol != "" && len(r.Protocols) > 0 || r.Port != "" && len(r.Ports) > 0 {
		return out, badConfig("a network rule has both Protocol and Protocols, or both Port and Ports")
	}
	protocols, ports := r.Protocols, r.Ports
	if r.Protocol != "" {
		protocols = []PolicyProtocol{r.Protocol}
	}
	if r.Port != "" {
		ports = []string{r.Port}
	}
	for _, p := range protocols {
		out.Protocols = append(out.Protocols, string(p))
	}
	for _, p := range ports {
		pr, err := sandbox.ParsePortRange(p)
		if err != nil {
			return out, err
		}
		out.Ports = append(out.Ports, pr)
	}
	var err error
	out.Destination, err = sandbox.ParseDestination(r.Destination)
	return out, err
}

func (w *NetworkConfig) dns() *sandbox.DNS {
	var d sandbox.DNS
	protect := w.DNSRebindProtection
	if w.DNS != nil {
		d.Nameservers = slices.Clone(w.DNS.Nameservers)
		if w.DNS.QueryTimeoutMs != nil {
			d.QueryTimeoutMS = int(min(*w.DNS.QueryTimeoutMs, math.MaxInt32))
		}
		if w.DNS.RebindProtection != nil {
			protect = w.DNS.RebindProtection
		}
	}
	d.NoRebindProtection = protect != nil && !*protect
	if !d.NoRebindProtection && d.QueryTimeoutMS == 0 && len(d.Nameservers) == 0 {
		return nil
	}
	return &d
}

func (w *NetworkConfig) limiter() *sandbox.RateLimiter {
	bucket := func(b *TokenBucketConfig) *sandbox.TokenBucket {
		if b == nil {
			return nil
		}
		return &sandbox.TokenBucket{Size: b.Size, RefillTimeMS: uint64(max(0, roundUp(b.RefillTime, time.Millisecond)/time.Millisecond)), OneTimeBurst: b.OneTimeBurst}
	}
	limit := func(l *RateLimiterConfig) *sandbox.RateLimit {
		if l == nil {
			return nil
		}
		return &sandbox.RateLimit{Bandwidth: bucket(l.Bandwidth), Ops: bucket(l.Ops)}
	}
	if w.RateLimiter == nil {
		return nil
	}
	return &sandbox.RateLimiter{Egress: limit(w.RateLimiter.Egress), Ingress: limit(w.RateLimiter.Ingress)}
}

// intercept says what is done to connections on their way out.
func (c *SandboxConfig) intercept(n *sandbox.Network) error {
	if c.Network != nil && c.Network.TLS != nil {
		t, err := c.Network.TLS.tls()
		if err != nil {
			return err
		}
		n.TLS = t
	}
	if p := c.proxy; p != nil {
		n.OutboundProxy = &sandbox.OutboundProxy{Protocol: p.kind, Address: p.address, UserID: p.userID, Username: p.username, PasswordEnv: p.passwordEnv}
	}
	if len(c.Secrets) == 0 {
		return nil
	}
	n.Secrets = &sandbox.Secrets{}
	if c.Network != nil {
		n.Secrets.OnViolation.Action = string(c.Network.OnSecretViolation)
	}
	for _, s := range c.Secrets {
		secret := sandbox.Secret{EnvVar: s.EnvVar, Value: sandbox.SecretValue(s.Value), Placeholder: s.Placeholder, RequireTLSIdentity: s.RequireTLS}
		for _, hosts := range [][]string{s.AllowHosts, s.AllowHostPatterns} {
			for _, h := range hosts {
				p, err := sandbox.ParseHostPattern(h)
				if err != nil {
					return badHost(s.EnvVar, h)
				}
				secret.AllowedHosts = append(secret.AllowedHosts, p)
			}
		}
		if s.OnViolation != "" {
			secret.OnViolation = &sandbox.ViolationAction{Action: string(s.OnViolation)}
		}
		n.Secrets.Secrets = append(n.Secrets.Secrets, secret)
	}
	return nil
}

func badHost(secret, host string) error {
	return badConfig("the secret %.100s: %q is no host or pattern such as *.example.com", secret, host)
}

func (t *TLSConfig) tls() (*sandbox.TLS, error) {
	out := &sandbox.TLS{Enabled: true, Bypass: slices.Clone(t.Bypass), VerifyUpstream: t.VerifyUpstream, InterceptedPorts: slices.Clone(t.InterceptedPorts), BlockQUIC: t.BlockQUIC}
	var err error
	abs := func(path string) string {
		full, aerr := filepath.Abs(path)
		if aerr != nil {
			err = &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "find " + path, Err: aerr}
		}
		return full
	}
	for _, path := range t.UpstreamCACerts {
		out.UpstreamCACert = append(out.UpstreamCACert, abs(path))
	}
	for _, s := range t.ScopedUpstreamCACerts {
		out.ScopedUpstreamCACert = append(out.ScopedUpstreamCACert, sandbox.ScopedCACert{Pattern: s.Pattern, Path: abs(s.Path)})
	}
	for _, s := range t.ScopedVerifyUpstream {
		out.ScopedVerifyUpstream = append(out.ScopedVerifyUpstream, sandbox.ScopedVerify{Pattern: s.Pattern, Verify: s.Verify})
	}
	if (t.CACert == "") != (t.CAKey == "") {
		return nil, badConfig("CACert and CAKey belong together")
	}
	if t.CACert != "" {
		out.InterceptCA = &sandbox.InterceptCA{CertPath: abs(t.CACert), KeyPath: abs(t.CAKey)}
	}
	return out, err
}
