package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// Modification is what of a sandbox is to change; what is left out stays (contract msb-0.6 §2.9).
type Modification struct {
	CPUs, MaxCPUs           *int
	MemoryMiB, MaxMemoryMiB *int
	RootDiskMiB             *int
	Env                     []EnvVar
	EnvRemove               []string
	Labels                  map[string]string
	LabelsRemove            []string
	Workdir                 *string
	Secrets                 []Secret // by their variable; one that is there gets these hosts, and its value anew
	SecretsRemove           []string
	NetworkPolicy           *NetworkPolicy // as a whole
	NetworkStrict           *bool
}

// ModifyPolicy says what happens with changes that a running sandbox cannot take.
type ModifyPolicy string

// The policies of a modification.
const (
	ModifyNoRestart ModifyPolicy = "no_restart" // nothing is changed if one of the changes needs a restart
	ModifyNextStart ModifyPolicy = "next_start" // all changes are for the next start
	ModifyRestart   ModifyPolicy = "restart"    // it is restarted if one of them needs that
)

// Plan is what a modification comes to.
type Plan struct {
	Sandbox   Name         `json:"sandbox"`
	Status    Status       `json:"status"`
	Applied   bool         `json:"applied"`
	Policy    ModifyPolicy `json:"policy"`
	Changes   []Change     `json:"changes"`
	Conflicts []PlanNote   `json:"conflicts"`
	Warnings  []PlanNote   `json:"warnings"`
	Resizes   []Resize     `json:"resize_status,omitempty"`
}

// Disposition says when a change takes effect.
type Disposition string

// The dispositions of a change.
const (
	Live            Disposition = "live"
	NextStart       Disposition = "next start"
	RequiresRestart Disposition = "requires restart"
)

// Change is one field of the spec that changes.
type Change struct {
	Kind   string `json:"kind"` // config | secret
	Field  string `json:"field"`
	Name   string `json:"name,omitempty"` // of a secret
	Change string `json:"change"`         // added | updated | removed; of a secret added | rotated | hosts updated | placeholder updated | removed
	// Before and after; of secrets only where the value comes from.
	Before      *string     `json:"before,omitempty"`
	After       *string     `json:"after,omitempty"`
	BeforeRef   *string     `json:"before_ref,omitempty"`
	AfterRef    *string     `json:"after_ref,omitempty"`
	AllowHosts  []string    `json:"allow_hosts,omitempty"`
	Disposition Disposition `json:"disposition"`
	Reason      *string     `json:"reason,omitempty"`
}

// PlanNote is a conflict, which keeps a modification from being made, or a warning.
type PlanNote struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Resize says how far a change of a running sandbox's limits is.
type Resize struct {
	Resource  string `json:"resource"` // cpus | memory
	Requested string `json:"requested"`
	Actual    string `json:"actual"`
	Enforced  string `json:"enforced"`
	State     string `json:"state"` // applied | failed
}

// Apply returns the spec with the modification made, and what changes. Of the changes only their dispositions are left to the
// caller, who knows what runs. s itself is not changed.
func (m Modification) Apply(s Spec) (Spec, []Change) {
	var changes []Change
	note := func(field string, before, after *string) {
		if before != nil && after != nil && *before == *after {
			return
		}
		c := Change{Kind: "config", Field: field, Change: "updated", Before: before, After: after}
		switch {
		case before == nil && after == nil:
			return
		case before == nil:
			c.Change = "added"
		case after == nil:
			c.Change = "removed"
		}
		changes = append(changes, c)
	}
	number := func(field string, to *int, into *int) {
		if to != nil {
			before, after := strconv.Itoa(*into), strconv.Itoa(*to)
			*into = *to
			note(field, &before, &after)
		}
	}
	r := &s.Resources
	if m.CPUs != nil && m.MaxCPUs == nil && (r.MaxCPUs == r.CPUs || *m.CPUs > r.MaxCPUs) { // nobody ever chose a maximum, or it has to move
		m.MaxCPUs = m.CPUs
	}
	if m.MemoryMiB != nil && m.MaxMemoryMiB == nil && (r.MaxMemoryMiB == r.MemoryMiB || *m.MemoryMiB > r.MaxMemoryMiB) {
		m.MaxMemoryMiB = m.MemoryMiB
	}
	number("cpus", m.CPUs, &r.CPUs)
	number("max_cpus", m.MaxCPUs, &r.MaxCPUs)
	number("memory_mib", m.MemoryMiB, &r.MemoryMiB)
	number("max_memory_mib", m.MaxMemoryMiB, &r.MaxMemoryMiB)
	disk := s.Image.Disk()
	number("root_disk_size_mib", m.RootDiskMiB, &disk.SizeMiB)
	s.Image = s.Image.WithDisk(disk)

	s.Env = slices.Clone(s.Env)
	for _, e := range m.Env {
		value := e.Value
		if i := slices.IndexFunc(s.Env, func(have EnvVar) bool { return have.Key == e.Key }); i >= 0 {
			before := s.Env[i].Value
			s.Env[i].Value = value
			note("env."+e.Key, &before, &value)
			continue
		}
		s.Env = append(s.Env, e)
		note("env."+e.Key, nil, &value)
	}
	for _, key := range m.EnvRemove {
		if i := slices.IndexFunc(s.Env, func(have EnvVar) bool { return have.Key == key }); i >= 0 {
			before := s.Env[i].Value
			s.Env = slices.Delete(s.Env, i, i+1)
			note("env."+key, &before, nil)
		}
	}
	s.Labels = orEmpty(s.Labels)
	for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
		value := m.Labels[key]
		before, had := s.Labels[key]
		s.Labels[key] = value
		if had {
			note("labels."+key, &before, &value)
		} else {
			note("labels."+key, nil, &value)
		}
	}
	for _, key := range m.LabelsRemove {
		if before, had := s.Labels[key]; had {
			delete(s.Labels, key)
			note("labels."+key, &before, nil)
		}
	}
	if len(m.Secrets)+len(m.SecretsRemove) > 0 {
		var more []Change
		s.Network, more = m.applySecrets(s.Network)
		changes = append(changes, more...)
	}
	m.applyPolicy(&s.Network, note)
	if m.Workdir != nil {
		before, after := s.Runtime.Workdir, *m.Workdir
		s.Runtime.Workdir = after
		var was *string
		if before != "" {
			was = &before
		}
		note("workdir", was, &after)
	}
	return s, changes
}

// applyPolicy gives the network another policy. One that was off has been given one, so it is on.
func (m Modification) applyPolicy(n *Network, note func(field string, before, after *string)) {
	if m.NetworkPolicy != nil {
		before, after := n.PolicyOrDefault().String(), m.NetworkPolicy.String()
		if before != after || !n.Enabled {
			policy := *m.NetworkPolicy
			n.Policy, n.Enabled = &policy, true
		}
		note("network.policy", &before, &after)
	}
	if m.NetworkStrict != nil {
		before, after := strconv.FormatBool(n.Strict), strconv.FormatBool(*m.NetworkStrict)
		n.Strict = *m.NetworkStrict
		note("network.strict", &before, &after)
	}
}

// applySecrets returns the network with other secrets. One that is named again is rotated: its value is read anew at the next start.
func (m Modification) applySecrets(n Network) (Network, []Change) {
	var (
		changes []Change
		all     Secrets
	)
	if n.Secrets != nil {
		all = *n.Secrets
		all.Secrets = slices.Clone(all.Secrets)
	}
	find := func(name string) int {
		return slices.IndexFunc(all.Secrets, func(s Secret) bool { return s.EnvVar == name })
	}
	for _, s := range m.Secrets {
		c := Change{Kind: "secret", Field: "secrets." + s.EnvVar, Name: s.EnvVar, Change: "added", AfterRef: s.ref(), AllowHosts: hostTexts(s.AllowedHosts)}
		if i := find(s.EnvVar); i >= 0 {
			old := all.Secrets[i]
			c.Change, c.BeforeRef = "rotated", old.ref()
			if len(s.AllowedHosts) == 0 {
				s.AllowedHosts = old.AllowedHosts
				c.AllowHosts = hostTexts(s.AllowedHosts)
			}
			s.Placeholder = cmp.Or(s.Placeholder, old.Placeholder)
			switch {
			case !slices.Equal(old.AllowedHosts, s.AllowedHosts):
				c.Change = "hosts updated"
			case s.Placeholder != old.Placeholder:
				c.Change = "placeholder updated"
			}
			s.Injection, s.RequireTLSIdentity, s.OnViolation = old.Injection, old.RequireTLSIdentity, old.OnViolation
			all.Secrets[i] = s
		} else {
			all.Secrets = append(all.Secrets, s)
		}
		changes = append(changes, c)
	}
	for _, name := range m.SecretsRemove {
		if i := find(name); i >= 0 {
			changes = append(changes, Change{Kind: "secret", Field: "secrets." + name, Name: name, Change: "removed", BeforeRef: all.Secrets[i].ref()})
			all.Secrets = slices.Delete(all.Secrets, i, i+1)
		}
	}
	n.Secrets = &all
	if len(all.Secrets) == 0 {
		n.Secrets = nil
	}
	return n, changes
}

// ref says where a value comes from, without the value.
func (s Secret) ref() *string {
	text := "inline"
	if s.Source != nil {
		text = s.Source.Kind + ":" + cmp.Or(s.Source.Var, s.Source.Reference)
	}
	return &text
}

func hostTexts(hosts []HostPattern) []string {
	texts := make([]string, 0, len(hosts))
	for _, h := range hosts {
		texts = append(texts, h.String())
	}
	return texts
}

// Check returns what keeps a modification of a spec from being made, besides what Validate says of the result.
func (m Modification) Check(s Spec) []PlanNote {
	var bad []PlanNote
	disk := s.Image.Disk()
	if m.RootDiskMiB != nil && disk.Kind == RootDiskManaged && *m.RootDiskMiB < disk.SizeMiB {
		bad = append(bad, PlanNote{"root_disk_size_mib", fmt.Sprintf("a managed root disk can only grow, and is %d MiB", disk.SizeMiB)})
	}
	for _, key := range m.EnvRemove {
		if slices.ContainsFunc(m.Env, func(e EnvVar) bool { return e.Key == key }) {
			bad = append(bad, PlanNote{"env." + key, "it is both set and removed"})
		}
	}
	for _, key := range m.LabelsRemove {
		if _, both := m.Labels[key]; both {
			bad = append(bad, PlanNote{"labels." + key, "it is both set and removed"})
		}
	}
	return bad
}

// Pending names the fields in which the spec of the next start differs from that of the present run.
func Pending(active, next Spec) []string {
	pending := []string{}
	a, n := active.Resources, next.Resources
	for _, f := range []struct {
		field     string
		different bool
	}{
		{"cpus", a.CPUs != n.CPUs}, {"max_cpus", a.MaxCPUs != n.MaxCPUs}, {"memory_mib", a.MemoryMiB != n.MemoryMiB}, {"max_memory_mib", a.MaxMemoryMiB != n.MaxMemoryMiB},
		{"root_disk_size_mib", active.Image.Disk() != next.Image.Disk()}, {"env", !slices.Equal(active.Env, next.Env)}, {"labels", !maps.Equal(active.Labels, next.Labels)},
		{"workdir", active.Runtime.Workdir != next.Runtime.Workdir}, {"network", !reflect.DeepEqual(active.Network, next.Network)},
	} {
		if f.different {
			pending = append(pending, f.field)
		}
	}
	return pending
}
