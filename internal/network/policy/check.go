package policy

import (
	"net/netip"
	"strings"
)

// Refusals that no rule lifts. The ports are name services that would get round the resolver behind the gateway
// (contract msb-0.6 §6, DNS): they come back one by one as the interception of each is built.
var (
	reservedRefused  = Verdict{Rule: BuiltIn, Reason: "reserved addresses are never reached"}
	mdnsRefused      = Verdict{Rule: BuiltIn, Reason: "mDNS is refused"}
	llmnrRefused     = Verdict{Rule: BuiltIn, Reason: "LLMNR is refused"}
	nbnsRefused      = Verdict{Rule: BuiltIn, Reason: "NetBIOS name service is refused"}
	dotRefused       = Verdict{Rule: BuiltIn, Reason: "DNS over TLS is refused without interception"}
	doqRefused       = Verdict{Rule: BuiltIn, Reason: "DNS over QUIC is refused"}
	malformedRefused = Verdict{Rule: BuiltIn, Reason: "not an address"}
)

// Class returns the class of a for this sandbox.
func (p *Policy) Class(a netip.Addr) Class {
	a = a.WithZone("")
	e, ok := Embedded(a)
	for _, h := range p.host {
		if a == h || ok && e == h {
			return Host
		}
	}
	return classify(a)
}

// WithDoT returns the policy for a gateway that intercepts DNS over TLS: then the rules decide about it.
func (p *Policy) WithDoT() *Policy {
	q := *p
	q.dot = true
	return &q
}

// UsesNames reports whether any rule is about a domain, so that Check wants names.
func (p *Policy) UsesNames() bool { return p.names }

// Check decides about a connection, datagram or echo. In both directions to is the far end: the address and port that
// the sandbox reaches out to (Egress), or the peer's address and the sandbox's own port (Ingress). names are those that
// this sandbox saw resolved to that address, lower case without final dot (see [CanonicalName]). ICMP has port 0.
//
// Two things hold against every rule: Reserved addresses are never reached, and "any" and the defaults do not mean
// Loopback, since the host's loopback is no place on the sandbox's network. Who comes in from there is only this machine.
func (p *Policy) Check(d Direction, proto Proto, to netip.AddrPort, names []string) Verdict {
	a := to.Addr()
	if !a.IsValid() {
		return malformedRefused
	}
	a = a.Unmap().WithZone("")
	c := p.Class(a)
	if c == Reserved {
		return reservedRefused
	}
	if d == Egress {
		if v, refused := p.nameService(proto, to.Port()); refused {
			return v
		}
	}
	e, _ := Embedded(a)
	rules := p.rules[d]
	for i := range rules {
		r := &rules[i]
		if r.protos&proto == 0 || !r.hasPort(proto, to.Port()) {
			continue
		}
		if r.hasAddr(a, e, c, d) || r.hasNameAt(c, names) {
			return r.verdict
		}
	}
	switch {
	case c == Loopback && d == Egress:
		return loopbackByDefault
	case p.resolve && d == Egress && c == Host && to.Port() == 53 && proto&(TCP|UDP) != 0:
		return resolverImplied
	}
	return p.byDeflt[d]
}

var (
	loopbackByDefault = Verdict{Rule: ByDefault, Reason: "loopback needs a rule of its own"}
	// Allowing a domain means nothing to a sandbox that cannot resolve it; CheckName keeps the rest out.
	resolverImplied = Verdict{Allowed: true, Rule: ByDefault, Reason: "a rule allows a domain, so names are resolved"}
)

func (p *Policy) nameService(proto Proto, port uint16) (Verdict, bool) {
	switch {
	case port == 5353 && proto == UDP:
		return mdnsRefused, true
	case port == 5355 && proto&(TCP|UDP) != 0:
		return llmnrRefused, true
	case port == 137 && proto&(TCP|UDP) != 0:
		return nbnsRefused, true
	case port == 853 && proto == TCP:
		return dotRefused, !p.dot
	case port == 853 && proto == UDP:
		return doqRefused, true
	}
	return Verdict{}, false
}

// hasPort reports whether the rule is about the port. A rule with ports is not about ICMP, which has none.
func (r *rule) hasPort(proto Proto, port uint16) bool {
	if len(r.ports) == 0 {
		return true
	}
	if proto&(TCP|UDP) == 0 {
		return false
	}
	for _, pr := range r.ports {
		if pr.Start <= port && port <= pr.End {
			return true
		}
	}
	return false
}

// hasAddr reports whether the rule is about the address a, of class c, that wraps e (if valid).
func (r *rule) hasAddr(a, e netip.Addr, c Class, d Direction) bool {
	opensLoopback := c == Loopback && r.verdict.Allowed && d == Egress
	switch r.kind {
	case anywhere:
		return !opensLoopback
	case group:
		return r.classes&(1<<c) != 0
	case cidr:
		return (r.prefix.Contains(a) || r.prefix.Contains(e)) && (!opensLoopback || classify(r.prefix.Addr()) == Loopback)
	}
	return false
}

// hasNameAt reports whether the rule is about one of names. A name can be made to resolve to anything, so a domain that
// is allowed stands only for public and private addresses.
func (r *rule) hasNameAt(c Class, names []string) bool {
	if r.kind < domain || r.verdict.Allowed && c != Public && c != Private {
		return false
	}
	for _, n := range names {
		if r.hasName(n) {
			return true
		}
	}
	return false
}

func (r *rule) hasName(n string) bool {
	switch r.kind {
	case domain:
		return n == r.domain
	case suffix: // the apex and all below it
		return n == r.domain ||
			len(n) > len(r.domain) && n[len(n)-len(r.domain)-1] == '.' && n[len(n)-len(r.domain):] == r.domain
	}
	return false
}

// unscoped reports whether the rule is about every protocol and port.
func (r *rule) unscoped() bool { return r.protos == allProtos && len(r.ports) == 0 }

// onlyDNS reports whether the rule is about port 53 and no other.
func (r *rule) onlyDNS() bool {
	for _, pr := range r.ports {
		if pr.Start != 53 || pr.End != 53 {
			return false
		}
	}
	return len(r.ports) > 0
}

// CheckName decides whether name may be resolved: not when the first rule to settle it denies the domain, nor when no
// rule could ever allow an address of it. The second keeps an allow list of domains from being a tunnel: every name asked
// for is a message to whoever serves its zone.
func (p *Policy) CheckName(name string) Verdict {
	name = CanonicalName(name)
	rules := p.rules[Egress]
	for i := range rules {
		r := &rules[i]
		about := r.hasName(name) || r.kind == anywhere || r.kind == cidr || r.kind == group
		switch {
		case !about:
		case r.verdict.Allowed:
			// An address rule may allow what the name resolves to, unless it is about this network or name servers only.
			if r.kind >= domain || !r.onlyDNS() && (r.kind != group || r.classes&(1<<Public|1<<Private) != 0) {
				return r.verdict
			}
		case r.unscoped() && (r.kind == anywhere || r.kind >= domain):
			return r.verdict
		}
	}
	return p.byDeflt[Egress]
}

// AllowsAnswer reports whether a DNS answer may point the sandbox at a. Public addresses may be; others only when the
// first egress rule about a's address or group, for all ports, allows it: what "any", domains and defaults say does not
// lift the protection against rebinding (contract msb-0.6 §6).
func (p *Policy) AllowsAnswer(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	c := p.Class(a)
	if c == Public {
		return true
	}
	if c == Reserved {
		return false
	}
	e, _ := Embedded(a)
	for i := range p.rules[Egress] {
		r := &p.rules[Egress][i]
		if r.kind != group && r.kind != cidr || len(r.ports) > 0 {
			continue
		}
		if r.hasAddr(a, e, c, Egress) {
			return r.verdict.Allowed
		}
	}
	return false
}

// CanonicalName returns a domain name as rules and Check compare it: lower case, without the final dot.
func CanonicalName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }
