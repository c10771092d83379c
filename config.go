package microsandbox

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// UnmarshalJSON reads the recorded form of a sandbox (SandboxHandle.ConfigJSON). What only matters while a sandbox is made is
// not in it, and secrets have no values.
func (c *SandboxConfig) UnmarshalJSON(data []byte) error {
	var s sandbox.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	*c = configOf(s)
	return nil
}

func configOf(s sandbox.Spec) SandboxConfig {
	c := SandboxConfig{
		Name:              string(s.Name),
		MemoryMiB:         uint32(s.Resources.MemoryMiB),
		CPUs:              uint8(s.Resources.CPUs),
		MaxMemoryMiB:      uint32(s.Resources.MaxMemoryMiB),
		MaxCPUs:           uint8(s.Resources.MaxCPUs),
		CPUPlacement:      CPUPlacement(s.Resources.CPUPlacement),
		Workdir:           s.Runtime.Workdir,
		Shell:             s.Runtime.Shell,
		SecurityProfile:   SecurityProfile(s.SecurityProfile),
		DeploymentProfile: DeploymentProfile(strings.ReplaceAll(s.DeploymentProfile, "_", "-")),
		Hostname:          s.Runtime.Hostname,
		User:              s.Runtime.User,
		Labels:            s.Labels,
		Ephemeral:         s.Lifecycle.Ephemeral,
		Entrypoint:        s.Runtime.Entrypoint,
		Cmd:               s.Runtime.Cmd,
		LogLevel:          LogLevel(s.Runtime.LogLevel),
		Scripts:           s.Runtime.Scripts,
		MaxDuration:       s.Lifecycle.MaxDuration(),
		IdleTimeout:       s.Lifecycle.IdleTimeout(),
		Env:               map[string]string{},
	}
	for _, e := range s.Env {
		c.Env[e.Key] = e.Value
	}
	if i := s.Init; i != nil {
		c.Init = &InitConfig{Cmd: i.Cmd, Args: i.Args, Env: map[string]string{}}
		for _, e := range i.Env {
			c.Init.Env[e.Key] = e.Value
		}
	}
	switch {
	case s.Image.Bind != nil:
		c.ImageBind = s.Image.Bind.Path
	default:
		c.Image = s.Image.String()
	}
	switch d := s.Image.Disk(); d.Kind {
	case sandbox.RootDiskManaged:
		disk := RootDisk.Managed(uint32(d.SizeMiB))
		c.RootDisk = &disk
	case sandbox.RootDiskTmpfs:
		disk := RootDisk.Tmpfs(RootDiskTmpfsOptions{SizeMiB: uint32(d.SizeMiB)})
		c.RootDisk = &disk
	}
	switch s.PullPolicy {
	case sandbox.PullIfMissing:
		c.PullPolicy = PullPolicyIfMissing
	case sandbox.PullAlways:
		c.PullPolicy = PullPolicyAlways
	case sandbox.PullNever:
		c.PullPolicy = PullPolicyNever
	}
	for _, m := range s.Mounts {
		merge(&c.Volumes, map[string]MountConfig{m.Guest: mountOf(m)})
	}
	for _, p := range s.Patches {
		c.Patches = append(c.Patches, PatchConfig{Kind: PatchKind(p.Type), Path: p.Path, Content: string(p.Content), Mode: p.Mode, Replace: p.Replace, Src: p.Src, Dst: p.Dst, Target: p.Target, Link: p.Link})
	}
	for _, p := range s.Network.Ports {
		c.PortBindings = append(c.PortBindings, PortBinding{Bind: p.HostBind, HostPort: p.HostPort, GuestPort: p.GuestPort, Protocol: PortProtocol(p.Protocol)})
	}
	c.Network, c.strict = networkOf(s.Network), s.Network.Strict
	if p := s.Network.OutboundProxy; p != nil {
		c.proxy = &OutboundProxy{kind: p.Protocol, address: p.Address, userID: p.UserID, username: p.Username, passwordEnv: p.PasswordEnv}
	}
	if s.Network.Secrets != nil {
		for _, x := range s.Network.Secrets.Secrets {
			c.Secrets = append(c.Secrets, secretOf(x))
		}
	}
	return c
}

func mountOf(m sandbox.Mount) MountConfig {
	o := MountOptions{Readonly: m.Options.ReadOnly, Noexec: m.Options.NoExec, Nosuid: m.Options.NoSUID, Nodev: m.Options.NoDev,
		StatVirtualization: StatVirtualization(m.StatVirtualization), HostPermissions: HostPermissions(m.HostPermissions), QuotaMiB: uint32(m.QuotaMiB)}
	var c MountConfig
	switch m.Type {
	case sandbox.MountTmpfs:
		return Mount.Tmpfs(TmpfsOptions{SizeMiB: uint32(m.SizeMiB), Readonly: o.Readonly, Noexec: o.Noexec, Nosuid: o.Nosuid, Nodev: o.Nodev})
	case sandbox.MountBind:
		c = Mount.Bind(m.Host, o)
	default:
		c = Mount.NamedWith(m.Host, o, NamedVolumeOptions{Mode: m.Create})
	}
	if m.Owner != nil {
		c = c.Owner(m.Owner.UID, m.Owner.GID)
	}
	return c
}

// networkOf is nil for the network of a sandbox that asked for none.
func networkOf(n sandbox.Network) *NetworkConfig {
	c := NetworkConfig{}
	said := false
	if p := n.Policy; p != nil {
		said = true
		c.DefaultEgress, c.DefaultIngress = PolicyAction(p.DefaultEgress), PolicyAction(p.DefaultIngress)
		for _, r := range p.Rules {
			c.Rules = append(c.Rules, ruleOf(r))
		}
	}
	if d := n.DNS; d != nil {
		said = true
		protect := !d.NoRebindProtection
		c.DNS = &DNSConfig{RebindProtection: &protect, Nameservers: d.Nameservers}
		if d.QueryTimeoutMS > 0 {
			ms := uint64(d.QueryTimeoutMS)
			c.DNS.QueryTimeoutMs = &ms
		}
	}
	if i := n.Interface; i != nil {
		said = true
		c.IPv4Pool, c.IPv6Pool = i.IPv4Pool, i.IPv6Pool
	}
	if n.MaxConnections != nil {
		said = true
		most := uint(*n.MaxConnections)
		c.MaxConnections = &most
	}
	if r := n.RateLimiter; r != nil {
		said = true
		c.RateLimiter = &NetworkRateLimiterConfig{Egress: limitOf(r.Egress), Ingress: limitOf(r.Ingress)}
	}
	if t := n.TLS; t != nil && t.Enabled {
		said = true
		c.TLS = tlsOf(t)
	}
	if n.Secrets != nil {
		said = true
		c.OnSecretViolation = ViolationAction(n.Secrets.OnViolation.Action)
	}
	if n.TrustHostCAs {
		said = true
		c.TrustHostCAs = &n.TrustHostCAs
	}
	if !said {
		return nil
	}
	return &c
}

// secretOf is a secret without its value, which no record has.
func secretOf(x sandbox.Secret) SecretEntry {
	out := SecretEntry{EnvVar: x.EnvVar, Placeholder: x.Placeholder, RequireTLS: x.RequireTLSIdentity}
	for _, h := range x.AllowedHosts {
		if h.Exact != "" {
			out.AllowHosts = append(out.AllowHosts, h.Exact)
		} else {
			out.AllowHostPatterns = append(out.AllowHostPatterns, h.String())
		}
	}
	if x.OnViolation != nil {
		out.OnViolation = ViolationAction(x.OnViolation.Action)
	}
	return out
}

func tlsOf(t *sandbox.TLS) *TLSConfig {
	c := &TLSConfig{Bypass: t.Bypass, VerifyUpstream: t.VerifyUpstream, InterceptedPorts: t.InterceptedPorts, BlockQUIC: t.BlockQUIC, UpstreamCACerts: t.UpstreamCACert}
	for _, s := range t.ScopedUpstreamCACert {
		c.ScopedUpstreamCACerts = append(c.ScopedUpstreamCACerts, ScopedUpstreamCACert(s))
	}
	for _, s := range t.ScopedVerifyUpstream {
		c.ScopedVerifyUpstream = append(c.ScopedVerifyUpstream, ScopedVerifyUpstream(s))
	}
	if t.InterceptCA != nil {
		c.CACert, c.CAKey = t.InterceptCA.CertPath, t.InterceptCA.KeyPath
	}
	return c
}

func ruleOf(r sandbox.NetworkRule) PolicyRule {
	out := PolicyRule{Action: PolicyAction(r.Action), Direction: PolicyDirection(r.Direction)}
	switch d := r.Destination; {
	case d.Group != "":
		out.Destination = strings.ReplaceAll(d.Group, "_", "-")
	case d.CIDR != "":
		out.Destination = d.CIDR
	case d.Domain != "":
		out.Destination = "domain=" + d.Domain
	case d.DomainSuffix != "":
		out.Destination = "." + d.DomainSuffix
	default:
		out.Destination = "any"
	}
	for _, p := range r.Protocols {
		out.Protocols = append(out.Protocols, PolicyProtocol(p))
	}
	for _, p := range r.Ports {
		out.Ports = append(out.Ports, p.String())
	}
	return out
}

func limitOf(l *sandbox.RateLimit) *RateLimiterConfig {
	if l == nil {
		return nil
	}
	bucket := func(b *sandbox.TokenBucket) *TokenBucketConfig {
		if b == nil {
			return nil
		}
		return &TokenBucketConfig{Size: b.Size, RefillTime: time.Duration(b.RefillTimeMS) * time.Millisecond, OneTimeBurst: b.OneTimeBurst}
	}
	return &RateLimiterConfig{Bandwidth: bucket(l.Bandwidth), Ops: bucket(l.Ops)}
}
