package sandboxfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// EntryOf is the entry of a file with a namespace that asks for spec, which runs startup by itself. lost names what no entry can say;
// values of secrets, the digest of the image and our own labels are not even looked for.
func EntryOf(spec sandbox.Spec, startup []string) (s Sandbox, lost []string) {
	spec = spec.WithDefaults()
	r := spec.Runtime
	s = Sandbox{Image: spec.Image.String(), Workdir: r.Workdir, User: r.User}
	memory, cpus := uint32(spec.Resources.MemoryMiB), uint8(min(spec.Resources.CPUs, 255))
	s.Memory, s.CPUs = &memory, &cpus
	if r.Shell != sandbox.DefaultShell {
		s.Shell = r.Shell
	}
	if r.Hostname != spec.Name.Hostname() {
		s.Hostname = r.Hostname
	}
	switch d := spec.Image.Disk(); {
	case d.Kind == sandbox.RootDiskTmpfs && d.SizeMiB > 0:
		s.RootDisk = sandbox.RootDiskTmpfs + ":" + mebibytes(d.SizeMiB)
	case d.Kind == sandbox.RootDiskTmpfs:
		s.RootDisk = sandbox.RootDiskTmpfs
	case d.SizeMiB != sandbox.DefaultRootDiskMiB:
		s.RootDisk = mebibytes(d.SizeMiB)
	}
	automatic := sandbox.Spec{Resources: spec.Resources}.WithDefaults().Mounts // that every sandbox has
	for _, m := range spec.Mounts {
		text, ok := m.Text()
		switch {
		case slices.Contains(automatic, m):
		case m.Type == sandbox.MountTmpfs && ok:
			s.Tmpfs = append(s.Tmpfs, text)
		case ok:
			s.Volumes = append(s.Volumes, text)
		}
	}
	for _, e := range spec.Env {
		s.Envs = append(s.Envs, e.Key+"="+e.Value)
	}
	for _, l := range spec.Rlimits {
		one := ConfRlimit{Resource: l.Resource, Soft: l.Soft}
		if l.Hard != l.Soft {
			one.Hard = &l.Hard
		}
		s.Rlimits = append(s.Rlimits, one)
	}
	s.exportLabels(spec.Labels)
	s.exportCommand(spec, startup)
	s.exportNetwork(spec.Network)
	for word, policy := range pullPolicies {
		if policy == spec.PullPolicy && policy != sandbox.PullIfMissing {
			s.PullPolicy = word
		}
	}
	if spec.SecurityProfile != sandbox.ProfileDefault {
		s.Security = Security(spec.SecurityProfile)
	}
	s.MaxDuration, s.IdleTimeout = durationOf(spec.Lifecycle.MaxDurationSecs), durationOf(spec.Lifecycle.IdleTimeoutSecs)
	return s, s.lost(spec)
}

func mebibytes(n int) string { return strconv.Itoa(n) + "M" }

func durationOf(seconds *int) Duration {
	if seconds == nil {
		return ""
	}
	return Duration(strconv.Itoa(*seconds) + "s")
}

// exportLabels leaves out those that an entry cannot have: our own say what the sandbox was made from.
func (s *Sandbox) exportLabels(labels map[string]string) {
	for k, v := range labels {
		if strings.HasPrefix(k, OwnLabels) {
			continue
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[k] = v
	}
}

// exportCommand says what runs, and the scripts but for those that every entry has.
func (s *Sandbox) exportCommand(spec sandbox.Spec, startup []string) {
	scripts := ownScripts(spec)
	command := spec.Runtime.Entrypoint
	if again := scriptsDir + restartScript; len(command) > 1 && command[0] == again && spec.Runtime.Scripts[restartScript] == "#!/bin/sh\n"+restartText {
		s.Restart, command = RestartOnFailure, command[1:]
	}
	_, start := scripts[StartScript]
	switch {
	case start && slices.Equal(command, []string{scriptsDir + StartScript}) && len(spec.Runtime.Cmd) == 0:
	case len(spec.Runtime.Cmd) == 0:
		s.Command = command
	default:
		s.Entrypoint, s.Cmd = command, spec.Runtime.Cmd
	}
	if len(scripts) > 0 {
		s.Scripts = scripts
	}
	own := len(s.Startup()) > 0
	switch stays := spec.Lifecycle.OutlivesStartup; {
	case len(startup) == 0:
		s.AtStart = StartsNothing
	case stays && own:
		s.AtStart = StartStays
	case !stays && !own:
		s.AtStart = StartEnds
	}
}

// ownScripts are those of a spec that an entry does not have by itself.
func ownScripts(spec sandbox.Spec) map[string]string {
	scripts := maps.Clone(spec.Runtime.Scripts)
	maps.DeleteFunc(scripts, func(name, text string) bool {
		return name == ShellScript && text == shellText(spec.Runtime.Shell) || name == restartScript && text == "#!/bin/sh\n"+restartText
	})
	return scripts
}

func (s *Sandbox) exportNetwork(n sandbox.Network) {
	var w Network
	for _, p := range n.Ports {
		if text := p.Text(); p.Protocol == sandbox.PortTCP && p.HostBind == "" {
			s.Ports = append(s.Ports, text)
		} else {
			w.Ports = append(w.Ports, text)
		}
	}
	if n.Policy != nil {
		w.exportPolicy(*n.Policy)
	}
	if d := n.DNS; d != nil {
		w.DNS = &DNS{Nameservers: d.Nameservers}
		if d.NoRebindProtection {
			w.DNS.RebindProtection = new(bool)
		}
		if d.QueryTimeoutMS > 0 {
			w.DNS.QueryTimeout = Duration(strconv.Itoa(d.QueryTimeoutMS) + "ms")
		}
	}
	secret := n.Secrets != nil && len(n.Secrets.Secrets) > 0 // which has TLS looked into
	if t := n.TLS; t != nil && !(secret && reflect.DeepEqual(*t, sandbox.TLS{Enabled: true})) {
		w.TLS = &TLS{Enabled: &t.Enabled, Bypass: t.Bypass, VerifyUpstream: t.VerifyUpstream, BlockQUIC: t.BlockQUIC, InterceptedPorts: t.InterceptedPorts, UpstreamCACert: t.UpstreamCACert}
	}
	if n.TrustHostCAs {
		w.TrustHostCAs = &n.TrustHostCAs
	}
	if m := n.MaxConnections; m != nil && *m >= 0 && *m < 1<<16 {
		most := uint16(*m)
		w.MaxConnections = &most
	}
	if !reflect.ValueOf(w).IsZero() {
		s.Network = &w
	}
	if n.Secrets == nil {
		return
	}
	for _, secret := range n.Secrets.Secrets {
		one := Secret{RequireTLSIdentity: secret.RequireTLSIdentity, Inject: injected(secret.Injection)}
		for _, h := range secret.AllowedHosts {
			one.Allow = append(one.Allow, h.String())
		}
		if s.Secrets == nil {
			s.Secrets = map[string]Secret{}
		}
		s.Secrets[secret.EnvVar] = one
	}
}

// injected are the places where a secret is put, nil for the default.
func injected(i sandbox.Injection) []string {
	if i == (sandbox.Injection{}) {
		return nil
	}
	places := []string{}
	for _, p := range []struct {
		name string
		on   *bool
		or   bool
	}{{"headers", i.Headers, true}, {"basic_auth", i.BasicAuth, true}, {"query_params", i.QueryParams, false}, {"body", i.Body, false}} {
		if p.on == nil && p.or || p.on != nil && *p.on {
			places = append(places, p.name)
		}
	}
	return places
}

// exportPolicy says a policy by its name if it has one, else by its rules. A rule for several protocols is one for each.
func (w *Network) exportPolicy(p sandbox.NetworkPolicy) {
	for _, name := range []string{"none", "open"} {
		if known, err := (&Network{Policy: name}).policy(); err == nil && equalPolicy(*known, p) {
			w.Policy = name
			return
		}
	}
	for _, r := range split(p.Rules) {
		if text, ok := r.Text(); ok {
			w.Rules = append(w.Rules, text)
		}
	}
	w.DefaultEgress, w.DefaultIngress = p.DefaultEgress, p.DefaultIngress
}

func equalPolicy(a, b sandbox.NetworkPolicy) bool {
	return a.DefaultEgress == b.DefaultEgress && a.DefaultIngress == b.DefaultIngress && reflect.DeepEqual(split(a.Rules), split(b.Rules))
}

// split makes one rule for each protocol of a rule, but of that for DNS.
func split(rules []sandbox.NetworkRule) []sandbox.NetworkRule {
	all := []sandbox.NetworkRule{}
	for _, r := range rules {
		if _, ok := r.Text(); ok || len(r.Protocols) < 2 {
			all = append(all, r)
			continue
		}
		for _, proto := range r.Protocols {
			one := r
			one.Protocols = []string{proto}
			all = append(all, one)
		}
	}
	return all
}

// lost reads the entry back and names in what it differs from the spec that it was made of.
func (s Sandbox) lost(spec sandbox.Spec) []string {
	back, err := s.Spec(string(spec.Name), Rules{Dir: "/", Plain: true})
	if err != nil {
		return []string{"what is wrong by now (" + detail(err) + ")"}
	}
	back.Lifecycle.OutlivesStartup = spec.Lifecycle.OutlivesStartup // AtStart has it
	a, b := facts(spec), facts(back.WithDefaults())
	names := map[string]bool{}
	for path := range a {
		if a[path] != b[path] {
			names[path] = true
		}
	}
	for path := range b {
		if a[path] != b[path] {
			names[path] = true
		}
	}
	return sortedKeys(names)
}

// facts are the parts of a spec, by their names, without what makes no difference.
func facts(spec sandbox.Spec) map[string]string {
	spec.Runtime.Scripts = ownScripts(spec)
	spec.ManifestDigest, spec.DeploymentProfile, spec.Network.Enabled = "", "", false
	spec.Labels = maps.Clone(spec.Labels)
	maps.DeleteFunc(spec.Labels, func(k, _ string) bool { return strings.HasPrefix(k, OwnLabels) })
	spec.Mounts = slices.Clone(spec.Mounts)
	for i := range spec.Mounts {
		spec.Mounts[i].Create = ""
	}
	spec.Network.Ports = slices.Clone(spec.Network.Ports)
	slices.SortFunc(spec.Network.Ports, func(a, b sandbox.Port) int { return strings.Compare(a.String(), b.String()) })
	if old := oldScripts(); len(spec.Patches) >= len(old) && reflect.DeepEqual(spec.Patches[len(spec.Patches)-len(old):], old) {
		spec.Patches = spec.Patches[:len(spec.Patches)-len(old)]
	}
	if p := spec.Network.Policy; p != nil {
		spec.Network.Policy = &sandbox.NetworkPolicy{DefaultEgress: p.DefaultEgress, DefaultIngress: p.DefaultIngress, Rules: split(p.Rules)}
	}
	if s := spec.Network.Secrets; s != nil {
		all := slices.Clone(s.Secrets)
		for i := range all {
			places := injected(all[i].Injection)
			all[i].Injection = sandbox.Injection{}
			all[i].Placeholder += fmt.Sprint(places)
		}
		slices.SortFunc(all, func(a, b sandbox.Secret) int { return strings.Compare(a.EnvVar, b.EnvVar) })
		spec.Network.Secrets = &sandbox.Secrets{Secrets: all, OnViolation: s.OnViolation}
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return map[string]string{"all of it": err.Error()}
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return map[string]string{"all of it": err.Error()}
	}
	all := map[string]string{}
	for name, part := range parts {
		var below map[string]json.RawMessage
		if !slices.Contains([]string{"resources", "runtime", "network", "lifecycle"}, name) || json.Unmarshal(part, &below) != nil {
			all[name] = plainJSON(part)
			continue
		}
		for key, value := range below {
			all[name+"."+key] = plainJSON(value)
		}
	}
	return all
}

// plainJSON has nothing, and what is empty, in one form.
func plainJSON(text json.RawMessage) string {
	if s := string(text); s != "null" && s != "[]" && s != "{}" && s != "false" {
		return s
	}
	return ""
}

// Text is the YAML of a file, under the lines of a comment.
func (f *File) Text(comment []string) ([]byte, error) {
	var b bytes.Buffer
	for _, line := range comment {
		b.WriteString(strings.TrimRight("# "+strings.Map(func(c rune) rune {
			if c < ' ' || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 {
				return '?'
			}
			return c
		}, line), " ") + "\n")
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.Internal, Err: err}
	}
	if err := enc.Close(); err != nil {
		return nil, &sandbox.Error{Op: "write " + Name, Kind: sandbox.Internal, Err: err}
	}
	return b.Bytes(), nil
}
