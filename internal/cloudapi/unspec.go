package cloudapi

import (
	"encoding/json"
	"reflect"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// BodyOf says a spec in the words of the API; values of secrets are only in it if they are wanted. lost names what the API has no words
// for.
func BodyOf(s sandbox.Spec, values bool) (b CreateBody, lost []string) {
	full := s
	s = s.WithDefaults()
	lose := func(name string, is bool) {
		if is {
			lost = append(lost, name)
		}
	}
	b = CreateBody{Name: string(s.Name), Env: s.Env, Labels: s.Labels, Rlimits: s.Rlimits, Mounts: []Mount{}, Patches: []Patch{}, SecurityProfile: s.SecurityProfile}
	for word, policy := range pulls {
		if policy == s.PullPolicy {
			b.PullPolicy = word
		}
	}
	switch {
	case s.Image.OCI != nil:
		b.Image = &Image{Type: "oci", Reference: s.Image.OCI.Reference}
	case s.Image.Bind != nil:
		b.Image = &Image{Type: "bind", Path: s.Image.Bind.Path}
	}
	b.Resources = &Resources{VCPUs: &s.Resources.CPUs, MemoryMiB: &s.Resources.MemoryMiB}
	if d := full.Image.Disk(); d.Kind == sandbox.RootDiskManaged && d.SizeMiB > 0 {
		b.Resources.DiskSizeMiB = &d.SizeMiB
	} else {
		lose("root disk in memory", d.Kind == sandbox.RootDiskTmpfs && !s.Lifecycle.Ephemeral)
	}
	lose("max_cpus", s.Resources.MaxCPUs != s.Resources.CPUs)
	lose("max_memory", s.Resources.MaxMemoryMiB != s.Resources.MemoryMiB)
	r := s.Runtime
	lose("hostname", full.Runtime.Hostname != "" && full.Runtime.Hostname != s.Name.Hostname())
	lose("metrics interval", r.DisableMetrics || r.MetricsIntervalMS != sandbox.DefaultMetricsIntervalMS)
	b.Runtime = &Runtime{Workdir: some(r.Workdir), Shell: some(full.Runtime.Shell), Scripts: r.Scripts, Entrypoint: r.Entrypoint, Cmd: r.Cmd, User: some(r.User), LogLevel: some(r.LogLevel)}
	b.Lifecycle = &Lifecycle{Ephemeral: s.Lifecycle.Ephemeral, MaxDurationSecs: s.Lifecycle.MaxDurationSecs, IdleTimeoutSecs: s.Lifecycle.IdleTimeoutSecs}
	for _, m := range full.Mounts {
		out := Mount{Guest: m.Guest, Options: m.Options, StatVirtualization: m.StatVirtualization, HostPermissions: m.HostPermissions}
		if m.QuotaMiB > 0 {
			out.QuotaMiB = &m.QuotaMiB
		}
		switch m.Type {
		case sandbox.MountBind:
			out.Type, out.Host = "bind", m.Host
		case sandbox.MountNamed:
			out.Type, out.Name = "named", m.Host
			lose("quota of a volume's mount", m.QuotaMiB > 0)
		default:
			out = Mount{Type: "tmpfs", Guest: m.Guest, Options: m.Options}
			if m.SizeMiB > 0 {
				out.SizeMiB = &m.SizeMiB
			}
		}
		lose("owner of a mount", m.Owner != nil)
		lose("follow_root_symlinks", m.FollowRootSymlinks)
		lose("volume that is to be made", m.Create != "" && m.Create != sandbox.VolumeExisting)
		b.Mounts = append(b.Mounts, out)
	}
	for _, p := range s.Patches {
		b.Patches = append(b.Patches, Patch{Type: p.Type, Path: p.Path, Content: p.Content, Mode: p.Mode, Replace: p.Replace, Src: p.Src, Dst: p.Dst, Target: p.Target, Link: p.Link})
	}
	if i := s.Init; i != nil {
		b.Init = &Init{Cmd: i.Cmd, Args: i.Args, Env: [][2]string{}}
		for _, v := range i.Env {
			b.Init.Env = append(b.Init.Env, [2]string{v.Key, v.Value})
		}
	}
	n := s.Network
	b.Network = &Network{Enabled: &n.Enabled, Policy: n.Policy, Strict: n.Strict, MaxConnections: n.MaxConnections, TrustHostCAs: n.TrustHostCAs, Secrets: secrets(n.Secrets, values)}
	if len(n.Ports) > 0 {
		b.Network.Ports, _ = json.Marshal(n.Ports) // of numbers and texts
		lose("network ports", true)
	}
	lose("host-CA trust", n.TrustHostCAs)
	lose("custom DNS", n.DNS != nil && !reflect.ValueOf(*n.DNS).IsZero())
	lose("network interface", n.Interface != nil)
	lose("network rate limiter", n.RateLimiter != nil)
	lose("network.tls", full.Network.TLS != nil && full.Network.TLS.Enabled)
	lose("network.outbound_proxy", n.OutboundProxy != nil)
	return b, lost
}

func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func secrets(in *sandbox.Secrets, values bool) *Secrets {
	if in == nil {
		return nil
	}
	out := &Secrets{Entries: []Secret{}, OnViolation: violation(in.OnViolation)}
	for _, s := range in.Secrets {
		x := Secret{EnvVar: s.EnvVar, Placeholder: s.Placeholder, AllowedHosts: wirePatterns(s.AllowedHosts), Injection: s.Injection, RequireTLSIdentity: s.RequireTLSIdentity}
		if values {
			x.Value = s.Value.Reveal()
		}
		if s.Source != nil {
			x.Source = &Source{Type: s.Source.Kind, Var: s.Source.Var, Reference: s.Source.Reference}
		}
		if s.OnViolation != nil {
			x.OnViolation = violation(*s.OnViolation)
		}
		out.Entries = append(out.Entries, x)
	}
	return out
}

func violation(a sandbox.ViolationAction) *Violation {
	a = a.Or(sandbox.ViolationAction{})
	return &Violation{Type: strings.ReplaceAll(a.Action, "-", "_"), Hosts: wirePatterns(a.Hosts)}
}

func wirePatterns(in []sandbox.HostPattern) []HostPattern {
	out := []HostPattern{}
	for _, p := range in {
		switch {
		case p.Any:
			out = append(out, HostPattern{Type: "any"})
		case p.Wildcard != "":
			out = append(out, HostPattern{Type: "wildcard", Value: p.Wildcard})
		default:
			out = append(out, HostPattern{Type: "exact", Value: p.Exact})
		}
	}
	return out
}
