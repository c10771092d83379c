package cloudapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// field is the error of a field that cannot be honoured.
func field(kind sandbox.Kind, name, format string, args ...any) error {
	return &sandbox.Error{Op: "create", Kind: kind, Message: name + ": " + fmt.Sprintf(format, args...)}
}

// Spec is what a body asks for. What a sandbox of ours cannot be is an error that names the field; the rest is for Spec.Validate.
// Kinds: InvalidConfig, Unsupported.
func (b CreateBody) Spec() (sandbox.Spec, error) {
	s := sandbox.Spec{Name: sandbox.Name(b.Name), Env: b.Env, Labels: b.Labels, Rlimits: b.Rlimits}
	steps := [...]func(*sandbox.Spec) error{b.image, b.runtime, b.mounts, b.patches, b.words, b.network}
	for _, f := range steps {
		if err := f(&s); err != nil {
			return sandbox.Spec{}, err
		}
	}
	return s, nil
}

func (b CreateBody) image(s *sandbox.Spec) error {
	var disk sandbox.RootDisk
	if r := b.Resources; r != nil {
		for _, n := range []struct {
			name string
			from *int
			to   *int
		}{{"resources.vcpus", r.VCPUs, &s.Resources.CPUs}, {"resources.memory_mib", r.MemoryMiB, &s.Resources.MemoryMiB}, {"resources.disk_size_mib", r.DiskSizeMiB, &disk.SizeMiB}} {
			if n.from == nil {
				continue
			}
			if *n.from < 1 {
				return field(sandbox.InvalidConfig, n.name, "%d is less than 1", *n.from)
			}
			*n.to = *n.from
		}
	}
	if disk.SizeMiB > 0 {
		disk.Kind = sandbox.RootDiskManaged
	}
	switch {
	case b.Image == nil:
		return field(sandbox.InvalidConfig, "image", "there is none")
	case b.Image.Type == "oci" || b.Image.Type == "" && b.Image.Reference != "":
		s.Image.OCI = &sandbox.OCIImage{Reference: b.Image.Reference, RootDisk: disk}
	case b.Image.Type == "bind":
		s.Image.Bind = &sandbox.BindImage{Path: b.Image.Path, RootDisk: disk}
	case b.Image.Type == "disk_image":
		return field(sandbox.Unsupported, "image.type", "a disk image as the root needs a microVM")
	default:
		return field(sandbox.InvalidConfig, "image.type", "%.100q is not oci or bind", b.Image.Type)
	}
	return nil
}

func (b CreateBody) runtime(s *sandbox.Spec) error {
	if r := b.Runtime; r != nil {
		s.Runtime = sandbox.RuntimeOptions{Workdir: text(r.Workdir), Shell: text(r.Shell), Scripts: r.Scripts, Entrypoint: r.Entrypoint, Cmd: r.Cmd, User: text(r.User), LogLevel: text(r.LogLevel)}
	}
	if i := b.Init; i != nil {
		s.Init = &sandbox.Init{Cmd: i.Cmd, Args: i.Args}
		for _, v := range i.Env {
			s.Init.Env = append(s.Init.Env, sandbox.EnvVar{Key: v[0], Value: v[1]})
		}
	}
	if l := b.Lifecycle; l != nil {
		s.Lifecycle = sandbox.Lifecycle{Ephemeral: l.Ephemeral, MaxDurationSecs: l.MaxDurationSecs, IdleTimeoutSecs: l.IdleTimeoutSecs}
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}

func (b CreateBody) mounts(s *sandbox.Spec) error {
	for i, m := range b.Mounts {
		at := fmt.Sprintf("mounts[%d].", i)
		out := sandbox.Mount{Guest: m.Guest, Options: m.Options, StatVirtualization: m.StatVirtualization, HostPermissions: m.HostPermissions, QuotaMiB: number(m.QuotaMiB)}
		switch m.Type {
		case "bind":
			out.Type, out.Host = sandbox.MountBind, m.Host
		case "named":
			out.Type, out.Host, out.Create = sandbox.MountNamed, m.Name, sandbox.VolumeExisting
		case "tmpfs":
			out = sandbox.Mount{Type: sandbox.MountTmpfs, Guest: m.Guest, Options: m.Options, SizeMiB: number(m.SizeMiB)}
			if out.SizeMiB < 0 {
				return field(sandbox.InvalidConfig, at+"size_mib", "%d is less than 0", out.SizeMiB)
			}
		case "disk_image":
			return field(sandbox.Unsupported, at+"type", "a disk image needs a microVM")
		default:
			return field(sandbox.InvalidConfig, at+"type", "%.100q is not bind, named or tmpfs", m.Type)
		}
		s.Mounts = append(s.Mounts, out)
	}
	return nil
}

func (b CreateBody) patches(s *sandbox.Spec) error {
	for _, p := range b.Patches {
		s.Patches = append(s.Patches, sandbox.Patch{Type: p.Type, Path: p.Path, Content: p.Content, Mode: p.Mode, Replace: p.Replace, Src: p.Src, Dst: p.Dst, Target: p.Target, Link: p.Link})
	}
	return nil
}

// pulls are the words for sandbox.Spec.PullPolicy.
var pulls = map[string]string{"if_missing": sandbox.PullIfMissing, "always": sandbox.PullAlways, "never": sandbox.PullNever}

func (b CreateBody) words(s *sandbox.Spec) error {
	if b.PullPolicy != "" {
		word, ok := pulls[strings.ReplaceAll(b.PullPolicy, "-", "_")]
		if !ok {
			return field(sandbox.InvalidConfig, "pull_policy", "%.100q is not if_missing, always or never", b.PullPolicy)
		}
		s.PullPolicy = word
	}
	s.SecurityProfile = b.SecurityProfile
	if r := b.Registry; r != nil {
		switch r.Mode {
		case "", "auto", "anonymous", "inline":
		case "specific":
			return field(sandbox.Unsupported, "registry.credential_id", "this server keeps no credentials by id")
		default:
			return field(sandbox.InvalidConfig, "registry.mode", "%.100q is not auto, anonymous or inline", r.Mode)
		}
	}
	return nil
}

// said reports whether a field has something other than null, or an empty list or object.
func said(b json.RawMessage) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && !slices.Contains([]string{"null", "[]", "{}"}, string(b))
}

func (b CreateBody) network(s *sandbox.Spec) error {
	s.Network.Enabled = true
	n := b.Network
	if n == nil {
		return nil
	}
	s.Network = sandbox.Network{Enabled: n.Enabled == nil || *n.Enabled, Policy: n.Policy, Strict: n.Strict, MaxConnections: n.MaxConnections, TrustHostCAs: n.TrustHostCAs}
	if !s.Network.Enabled { // whatever the policy says
		deny := sandbox.DenyAllPolicy()
		s.Network.Policy = &deny
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
		to   any
	}{{"ports", n.Ports, &s.Network.Ports}, {"interface", n.Interface, &s.Network.Interface}, {"rate_limiter", n.RateLimiter, &s.Network.RateLimiter}, {"tls", n.TLS, &s.Network.TLS}} {
		if !said(f.raw) {
			continue
		}
		if err := json.Unmarshal(f.raw, f.to); err != nil {
			return field(sandbox.InvalidConfig, "network."+f.name, "%v", err)
		}
	}
	if said(n.DNS) {
		return field(sandbox.Unsupported, "network.dns", "it is the server's to choose")
	}
	if said(n.OutboundProxy) {
		return field(sandbox.Unsupported, "network.outbound_proxy", "it is the server's to choose")
	}
	if n.Secrets == nil {
		return nil
	}
	out := &sandbox.Secrets{}
	var err error
	if out.OnViolation, err = n.Secrets.OnViolation.action("network.secrets.on_violation"); err != nil {
		return err
	}
	for i, e := range n.Secrets.Entries {
		at := fmt.Sprintf("network.secrets.entries[%d].", i)
		x := sandbox.Secret{EnvVar: e.EnvVar, Value: sandbox.SecretValue(e.Value), Placeholder: e.Placeholder, Injection: e.Injection, RequireTLSIdentity: e.RequireTLSIdentity}
		if e.Source != nil {
			x.Source = &sandbox.SecretSource{Kind: e.Source.Type, Var: e.Source.Var, Reference: e.Source.Reference}
		}
		if x.AllowedHosts, err = patterns(at+"allowed_hosts", e.AllowedHosts); err != nil {
			return err
		}
		if e.OnViolation != nil {
			a, err := e.OnViolation.action(at + "on_violation")
			if err != nil {
				return err
			}
			x.OnViolation = &a
		}
		out.Secrets = append(out.Secrets, x)
	}
	if len(out.Secrets) > 0 {
		s.Network.Secrets = out
	}
	return nil
}

func patterns(at string, in []HostPattern) (out []sandbox.HostPattern, err error) {
	for _, p := range in {
		switch p.Type {
		case "exact":
			out = append(out, sandbox.HostPattern{Exact: p.Value})
		case "wildcard":
			out = append(out, sandbox.HostPattern{Wildcard: p.Value})
		case "any":
			out = append(out, sandbox.HostPattern{Any: true})
		default:
			return nil, field(sandbox.InvalidConfig, at, "%.100q is not exact, wildcard or any", p.Type)
		}
	}
	return out, nil
}

func (v *Violation) action(at string) (a sandbox.ViolationAction, err error) {
	if v == nil {
		return a, nil
	}
	a.Action = strings.ReplaceAll(v.Type, "_", "-")
	a.Hosts, err = patterns(at+".hosts", v.Hosts)
	return a, err
}
