package sandbox

import "slices"

// DefaultMaxConnections is how many connections a sandbox may have at the same time, and the most with [MultiTenant].
const DefaultMaxConnections = 256

// withFloors makes of s what its profiles guarantee whatever else it says (contract msb-0.6 §2.2, §6). They hold for every
// spec with defaults, so that nobody can forget them.
func (s Spec) withFloors() Spec {
	if s.SecurityProfile == ProfileRestricted {
		s.Mounts = slices.Clone(s.Mounts)
		for i := range s.Mounts {
			s.Mounts[i].Options.NoSUID, s.Mounts[i].Options.NoDev = true, true
		}
	}
	if s.DeploymentProfile == MultiTenant {
		for _, f := range multiTenant {
			if f.asked(&s) {
				f.take(&s)
			}
		}
	}
	return s
}

// multiTenant is the floor of [MultiTenant]: what a spec may ask for in vain.
var multiTenant = [...]struct {
	what  string
	asked func(*Spec) bool
	take  func(*Spec)
}{
	{"published ports", func(s *Spec) bool { return len(s.Network.Ports) > 0 }, func(s *Spec) { s.Network.Ports = []Port{} }},
	{"names that lead to private addresses", func(s *Spec) bool { return s.Network.DNS != nil && s.Network.DNS.NoRebindProtection }, func(s *Spec) {
		dns := *s.Network.DNS
		dns.NoRebindProtection = false
		s.Network.DNS = &dns
	}},
	{"nameservers of its own", func(s *Spec) bool { return s.Network.DNS != nil && len(s.Network.DNS.Nameservers) > 0 }, func(s *Spec) {
		dns := *s.Network.DNS
		dns.Nameservers = nil
		s.Network.DNS = &dns
	}},
	{"the host's certificate authorities", func(s *Spec) bool { return s.Network.TrustHostCAs }, func(s *Spec) { s.Network.TrustHostCAs = false }},
	{"more than 256 connections", func(s *Spec) bool {
		return s.Network.MaxConnections != nil && *s.Network.MaxConnections > DefaultMaxConnections
	}, func(s *Spec) {
		most := DefaultMaxConnections
		s.Network.MaxConnections = &most
	}},
}

// Taken names what s asks for and its deployment profile takes from it.
func (s Spec) Taken() (what []string) {
	for _, f := range multiTenant {
		if s.DeploymentProfile == MultiTenant && f.asked(&s) {
			what = append(what, f.what)
		}
	}
	return what
}
