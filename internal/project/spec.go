package project

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Spec is what the entry asks for, with the hash of it among its labels.
func (p *Project) Spec(name string) (sandbox.Spec, error) {
	entry, ok := p.File.Sandboxes[name]
	if !ok {
		return sandbox.Spec{}, p.missing(name)
	}
	ref := p.Ref(name)
	if err := ref.Validate(); err != nil {
		return sandbox.Spec{}, err
	}
	spec, err := entry.Spec(string(ref.Name), p.rules())
	if err != nil {
		return spec, err
	}
	spec.Runtime.Hostname = cmp.Or(spec.Runtime.Hostname, sandbox.Name(name).Hostname())
	built := ""
	if build, ok := p.File.Builds[entry.Image]; ok && spec.Image.OCI != nil {
		spec.Image.OCI.Reference = p.BuildRef(entry.Image)
		spec.PullPolicy = sandbox.PullNever
		if built, err = p.buildHash(entry.Image, build, nil); err != nil {
			return spec, err
		}
	}
	p.reach(&spec, name, entry)
	// What the entry says that it runs is what it is for: it ends with that. Otherwise it is there to be used.
	if spec.Lifecycle.OutlivesStartup = len(entry.Startup()) == 0; entry.AtStart == sandboxfile.StartEnds || entry.AtStart == sandboxfile.StartStays {
		spec.Lifecycle.OutlivesStartup = entry.AtStart == sandboxfile.StartStays
	}
	if p.Defaults != nil {
		p.Defaults(&spec)
	}
	text, err := json.Marshal(struct {
		Spec  sandbox.Spec
		Built string
		Quiet bool `json:",omitempty"`
	}{spec, built, entry.AtStart == sandboxfile.StartsNothing})
	if err != nil {
		return spec, err
	}
	sum := sha256.Sum256(text)
	labels := maps.Clone(spec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[FileLabel], labels[NameLabel], labels[HashLabel] = p.Path, name, hex.EncodeToString(sum[:8])
	spec.Labels = labels
	if err := spec.WithDefaults().Validate(); err != nil {
		return spec, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: entry.Place("") + ": " + message(err), Hint: sandbox.HintOf(err)}
	}
	return spec, nil
}

// reach lets a sandbox connect to ports of this machine that the project's other sandboxes publish: of those that it depends on,
// and with the scope group of all. They are at host.microsandbox.internal.
func (p *Project) reach(spec *sandbox.Spec, name string, entry sandboxfile.Sandbox) {
	others := entry.DependsOn
	switch {
	case entry.ScopeOf() == "none", entry.Network != nil && entry.Network.Policy == "none" && len(entry.Network.Allow) == 0:
		return
	case entry.ScopeOf() == "group":
		others = p.names()
	}
	var ports []sandbox.PortRange
	for _, other := range slices.Sorted(slices.Values(others)) {
		there, ok := p.File.Sandboxes[other]
		if !ok || other == name {
			continue
		}
		its, err := there.Spec(other, sandboxfile.Rules{Dir: p.dir()})
		if err != nil {
			continue // it is told of where that one is made
		}
		for _, port := range its.Network.Ports {
			if port.HostPort > 0 && (port.Protocol == "" || port.Protocol == sandbox.PortTCP) {
				ports = append(ports, sandbox.PortRange{Start: port.HostPort, End: port.HostPort})
			}
		}
	}
	if len(ports) == 0 {
		return
	}
	policy := sandbox.PublicPolicy()
	if spec.Network.Policy != nil {
		policy = *spec.Network.Policy
	}
	policy.Rules = append([]sandbox.NetworkRule{{Direction: sandbox.Egress, Destination: sandbox.Destination{Group: sandbox.GroupHost},
		Protocols: []string{"tcp"}, Ports: ports, Action: sandbox.Allow}}, policy.Rules...)
	spec.Network.Policy, spec.Network.Enabled = &policy, true
}

// message is what err says without the words of its kind.
func message(err error) string {
	var e *sandbox.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return fmt.Sprint(err)
}
