package server

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Confined reports whether who asks has a key of one namespace. In development mode nobody is.
func (s *Server) Confined(ctx context.Context) bool { return !CallerOf(ctx).All() }

// ConfineHost holds a spec of a confined caller to what it may have of the server's machine: not its programs, which the image host has,
// and nothing that listens there alone. Kind: InvalidConfig, with the field.
func (s *Server) ConfineHost(ctx context.Context, spec *sandbox.Spec) error {
	if !s.Confined(ctx) {
		return nil
	}
	refused := func(message, hint string) error {
		return &sandbox.Error{Op: "create", Kind: sandbox.InvalidConfig, Message: message, Hint: hint}
	}
	if o := spec.Image.OCI; o != nil && o.Reference == sandbox.HostImage && !s.cfg.HostImage {
		return refused("image: the server's own files are not for keys of one namespace", "name another image; the server's --allow-host-image allows this one")
	}
	for _, p := range spec.Network.Ports {
		if a, err := netip.ParseAddr(p.Bind()); err != nil || !a.IsLoopback() {
			return refused("network.ports: port "+p.String()+" is not on loopback, and other addresses of the server are not for keys of one namespace", "go through the server's /proxy")
		}
	}
	if o := spec.Network.OutboundProxy; o != nil && !s.cfg.HostNetwork {
		if a, err := netip.ParseAddrPort(o.Address); err == nil && ofHost(a.Addr()) {
			return refused("network.outbound_proxy: it is on the server's machine, which is not for keys of one namespace", "the server's --allow-host-network allows it")
		}
	}
	if spec.Network.Policy != nil {
		p := s.ConfinePolicy(ctx, *spec.Network.Policy)
		spec.Network.Policy = &p
	}
	return nil
}

// ConfinePolicy puts before the rules of a confined caller one that keeps its sandbox from what listens on the server's machine, but for
// the gateway's DNS, of which the others decide.
func (s *Server) ConfinePolicy(ctx context.Context, p sandbox.NetworkPolicy) sandbox.NetworkPolicy {
	if !s.Confined(ctx) || s.cfg.HostNetwork {
		return p
	}
	if len(p.Rules) == 0 && p.DefaultEgress != sandbox.Allow { // nothing is let through
		return p
	}
	first := sandbox.NetworkRule{Direction: sandbox.Egress, Destination: sandbox.Destination{Group: sandbox.GroupHost}, Protocols: []string{"tcp", "udp"},
		Ports: []sandbox.PortRange{{Start: 0, End: 52}, {Start: 54, End: 65535}}, Action: sandbox.Deny}
	if len(p.Rules) > 0 && p.Rules[0].String() == first.String() { // it was read here
		return p
	}
	p.Rules = slices.Insert(slices.Clone(p.Rules), 0, first)
	return p
}

// ofHost reports whether an address is this machine's, or means nothing anywhere else.
func ofHost(a netip.Addr) bool {
	a = a.Unmap()
	if a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(all, func(have net.Addr) bool {
		n, ok := have.(*net.IPNet)
		if !ok {
			return false
		}
		own, ok := netip.AddrFromSlice(n.IP)
		return ok && own.Unmap() == a
	})
}
