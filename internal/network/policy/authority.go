package policy

import "net/netip"

// CheckAuthority decides about an outgoing connection whose client has said which host it speaks to: in the server name of
// its TLS hello, or in an HTTP request. It is [Policy.Check] but for rules about domains: one that denies matches the name;
// one that allows matches it only if it is pinned, that is, if this sandbox saw it resolved to to's address. name is as from
// [CanonicalName]; "" is a client that names nothing, which no domain rule allows. Its verdict is to be had in addition to
// Check's, not instead.
func (p *Policy) CheckAuthority(proto Proto, to netip.AddrPort, name string, pinned bool) Verdict {
	var names []string
	if name != "" && pinned {
		names = []string{name}
	}
	v := p.Check(Egress, proto, to, names)
	if name == "" || pinned || !p.names {
		return v
	}
	// Not pinned: a rule that denies the name comes before what Check went by, or it does not matter.
	if deny, found := p.denialBefore(proto, to, v, func(r *rule) bool { return r.hasName(name) }); found {
		return deny
	}
	return v
}

// MayDenyName reports whether a rule before the one that gave v would deny a connection that speaks to some host, and returns
// that rule's verdict.
func (p *Policy) MayDenyName(proto Proto, to netip.AddrPort, v Verdict) (Verdict, bool) {
	return p.denialBefore(proto, to, v, func(*rule) bool { return true })
}

// denialBefore finds the first egress rule that denies a domain that is about, and comes before the one that gave v.
func (p *Policy) denialBefore(proto Proto, to netip.AddrPort, v Verdict, about func(*rule) bool) (Verdict, bool) {
	for i := range p.rules[Egress] {
		r := &p.rules[Egress][i]
		if v.Rule >= 0 && r.verdict.Rule >= v.Rule {
			break
		}
		if !r.verdict.Allowed && r.kind >= domain && r.protos&proto != 0 && r.hasPort(proto, to.Port()) && about(r) {
			return r.verdict, true
		}
	}
	return Verdict{}, false
}
