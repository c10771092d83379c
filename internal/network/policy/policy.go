// Package policy says yes or no to everything that crosses a sandbox's network link, and nobody else does. It is pure:
// no I/O, no clock, no names resolved. A [Policy] is compiled once from a [sandbox.NetworkPolicy] and never changes, so
// any number of goroutines may ask it.
//
// A destination is first put in a [Class]; then the rules of the direction are tried in order and the first that matches
// decides; then the default does. What is missing denies: a partial policy fails closed (contract msb-0.6 §6).
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Direction is the way a connection is opened.
type Direction uint8

// The directions: out of the sandbox, into it.
const (
	Egress Direction = iota
	Ingress
)

// String is the word of the rule grammar.
func (d Direction) String() string {
	if d == Egress {
		return sandbox.Egress
	}
	return sandbox.Ingress
}

// Proto is one protocol; as a set in rules, several.
type Proto uint8

// The protocols that rules know.
const (
	TCP Proto = 1 << iota
	UDP
	ICMPv4
	ICMPv6

	allProtos = TCP | UDP | ICMPv4 | ICMPv6
)

// String is the word of the rule grammar.
func (p Proto) String() string {
	for n, v := range protoNames {
		if v == p {
			return n
		}
	}
	return fmt.Sprintf("proto(%d)", uint8(p))
}

var protoNames = map[string]Proto{"tcp": TCP, "udp": UDP, "icmpv4": ICMPv4, "icmpv6": ICMPv6}

// What Verdict.Rule holds when it was no rule that decided.
const (
	ByDefault = -1 // the direction's default
	BuiltIn   = -2 // a refusal that no rule can lift
)

// Verdict is the answer, and why. It is the same value each time the same rule decides.
type Verdict struct {
	Allowed bool
	Rule    int    // index into NetworkPolicy.Rules, or ByDefault or BuiltIn
	Reason  string // e.g. "rule 2: deny@private"
	ByName  bool   // a rule about a domain decided
}

// Policy is a compiled NetworkPolicy.
type Policy struct {
	host    []netip.Addr
	rules   [2][]rule // by Direction
	byDeflt [2]Verdict
	names   bool // a rule is about a domain
	resolve bool // an egress rule allows a domain
	dot     bool // see WithDoT
}

// rule is a NetworkRule in the form in which it is tried.
type rule struct {
	kind    kind
	classes uint16 // kind group: bit per Class
	prefix  netip.Prefix
	domain  string // lower case, no final dot
	protos  Proto
	ports   []sandbox.PortRange // none is all
	verdict Verdict
}

type kind uint8

const (
	anywhere kind = iota
	group
	cidr
	domain
	suffix
)

// New compiles p. host lists the addresses that are the host's own: the gateway's at least. Whatever is wrong with p is
// an InvalidConfig error that names the rule.
func New(p sandbox.NetworkPolicy, host ...netip.Addr) (*Policy, error) {
	c := &Policy{}
	for _, a := range host {
		c.host = append(c.host, a.Unmap().WithZone(""))
	}
	for d, s := range [2]string{p.DefaultEgress, p.DefaultIngress} {
		allowed, err := action(s)
		if err != nil {
			return nil, invalid("default %s: %v", Direction(d), err)
		}
		c.byDeflt[d] = Verdict{Allowed: allowed, Rule: ByDefault, Reason: fmt.Sprintf("default %s: %s", Direction(d), actionWord(allowed))}
	}
	for i, nr := range p.Rules {
		r, err := compile(nr)
		if err != nil {
			return nil, invalid("rule %d: %v", i, err)
		}
		r.verdict.Rule = i
		r.verdict.ByName = r.kind == domain || r.kind == suffix
		r.verdict.Reason = fmt.Sprintf("rule %d: %s", i, nr)
		switch nr.Direction {
		case sandbox.Egress:
			c.rules[Egress] = append(c.rules[Egress], r)
		case sandbox.Ingress:
			c.rules[Ingress] = append(c.rules[Ingress], r)
		case "", "any":
			c.rules[Egress] = append(c.rules[Egress], r)
			c.rules[Ingress] = append(c.rules[Ingress], r)
		default:
			return nil, invalid("rule %d: direction %q is not egress, ingress or any", i, nr.Direction)
		}
		if r.verdict.ByName {
			c.names = true
			c.resolve = c.resolve || r.verdict.Allowed && nr.Direction != sandbox.Ingress
		}
	}
	return c, nil
}

func invalid(format string, args ...any) error {
	return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "network policy: " + fmt.Sprintf(format, args...)}
}

func action(s string) (bool, error) {
	switch s {
	case sandbox.Allow:
		return true, nil
	case sandbox.Deny, "":
		return false, nil
	}
	return false, fmt.Errorf("action %q is not allow or deny", s)
}

func actionWord(allowed bool) string {
	if allowed {
		return sandbox.Allow
	}
	return sandbox.Deny
}

func compile(nr sandbox.NetworkRule) (rule, error) {
	var r rule
	var err error
	if nr.Action == "" {
		return r, fmt.Errorf("it has no action")
	}
	if r.verdict.Allowed, err = action(nr.Action); err != nil {
		return r, err
	}
	for _, p := range nr.Protocols {
		v, ok := protoNames[p]
		if !ok {
			return r, fmt.Errorf("protocol %q is not tcp, udp, icmpv4 or icmpv6", p)
		}
		r.protos |= v
	}
	if r.protos == 0 {
		r.protos = allProtos
	}
	for _, pr := range nr.Ports {
		if pr.Start > pr.End {
			return r, fmt.Errorf("ports %d-%d run backwards", pr.Start, pr.End)
		}
	}
	r.ports = slices.Clone(nr.Ports)
	return r, r.setDestination(nr.Destination)
}

func (r *rule) setDestination(d sandbox.Destination) error {
	switch d {
	case sandbox.Destination{}:
		r.kind = anywhere
	case sandbox.Destination{Group: d.Group}:
		r.kind = group
		for c, name := range classNames {
			if name == d.Group && Class(c) != Reserved {
				r.classes = 1 << c
			}
		}
		if r.classes == 0 {
			return fmt.Errorf("group %q is unknown", d.Group)
		}
	case sandbox.Destination{CIDR: d.CIDR}:
		r.kind = cidr
		p, err := ParseCIDR(d.CIDR)
		if err != nil {
			return err
		}
		r.prefix = p
	case sandbox.Destination{Domain: d.Domain}:
		if CanonicalName(d.Domain) == sandbox.HostName { // it is no name of the DNS's
			return r.setDestination(sandbox.Destination{Group: sandbox.GroupHost})
		}
		r.kind, r.domain = domain, CanonicalName(d.Domain)
	case sandbox.Destination{DomainSuffix: d.DomainSuffix}:
		r.kind, r.domain = suffix, strings.TrimPrefix(CanonicalName(d.DomainSuffix), ".")
	default:
		return fmt.Errorf("destination has more than one of cidr, domain, domain_suffix and group")
	}
	if (r.kind == domain || r.kind == suffix) && r.domain == "" {
		return fmt.Errorf("destination has an empty domain")
	}
	return nil
}

// ParseCIDR reads an address range or a single address; an IPv4-mapped one is the IPv4 range that it stands for.
func ParseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil || a.Zone() != "" {
			return p, fmt.Errorf("%q is no address range", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
