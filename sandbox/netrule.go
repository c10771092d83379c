package sandbox

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NetworkFlags are the command line's words about the network policy (contract msb-0.6 §1.4).
type NetworkFlags struct {
	NoNet          bool     // --no-net
	Profiles       []string // --net, each a comma list: public, private, host compose; all, none stand alone
	Rules          []string // --net-rule, each a comma list
	Default        string   // --net-default
	DefaultEgress  string   // --net-default-egress
	DefaultIngress string   // --net-default-ingress
}

// Policy returns what the flags ask for, or nil when they ask for nothing: then PublicPolicy holds, which is left out of
// the stored configuration. Rules come before the profiles' rules.
func (f NetworkFlags) Policy() (*NetworkPolicy, error) {
	if !f.NoNet && len(f.Profiles) == 0 && len(f.Rules) == 0 && f.Default == "" && f.DefaultEgress == "" && f.DefaultIngress == "" {
		return nil, nil
	}
	p := NetworkPolicy{DefaultEgress: Deny, DefaultIngress: Allow}
	for _, s := range f.Rules {
		rules, err := ParseNetworkRules(s)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, rules...)
	}
	profiles, err := parseProfiles(f.Profiles)
	if err != nil {
		return nil, err
	}
	if f.NoNet && (len(profiles) > 0 || f.Default == Allow || f.DefaultEgress == Allow) {
		return nil, badFlag("--no-net contradicts the other network flags", "build an allow list with --no-net --net-rule allow@TARGET")
	}
	switch {
	case slices.Equal(profiles, []string{"all"}):
		p.DefaultEgress = Allow
	case f.NoNet, slices.Equal(profiles, []string{"none"}):
		p.DefaultIngress = Deny
	default:
		if len(profiles) == 0 && len(p.Rules) == 0 && f.Default == "" && f.DefaultEgress == "" {
			profiles = []string{GroupPublic}
		}
		p.Rules = append(p.Rules, profileRules(profiles)...)
	}
	for _, o := range []struct {
		flag, value string
		to          []*string
	}{
		{"--net-default", f.Default, []*string{&p.DefaultEgress, &p.DefaultIngress}},
		{"--net-default-egress", f.DefaultEgress, []*string{&p.DefaultEgress}},
		{"--net-default-ingress", f.DefaultIngress, []*string{&p.DefaultIngress}},
	} {
		switch o.value {
		case "":
		case Allow, Deny:
			for _, to := range o.to {
				*to = o.value
			}
		default:
			return nil, badFlag(fmt.Sprintf("%s %q is not allow or deny", o.flag, o.value), "")
		}
	}
	return &p, nil
}

func parseProfiles(flags []string) ([]string, error) {
	var list []string
	for _, f := range flags {
		for name := range strings.SplitSeq(f, ",") {
			if !slices.Contains([]string{GroupPublic, GroupPrivate, GroupHost, "all", "none"}, name) {
				return nil, badFlag(fmt.Sprintf("network profile %q is unknown", name), "use public, private, host, all or none")
			}
			if !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	if len(list) > 1 && (slices.Contains(list, "all") || slices.Contains(list, "none")) {
		return nil, badFlag("network profiles all and none cannot be combined with others", "name one of them alone, or some of public, private and host")
	}
	return list, nil
}

// profileRules allows DNS by the gateway and the groups, always in the same order.
func profileRules(profiles []string) []NetworkRule {
	if len(profiles) == 0 {
		return nil
	}
	rules := []NetworkRule{dnsRule(Allow)}
	for _, g := range []string{GroupPublic, GroupPrivate, GroupHost} {
		if slices.Contains(profiles, g) {
			rules = append(rules, NetworkRule{Direction: Egress, Destination: Destination{Group: g}, Action: Allow})
		}
	}
	return rules
}

func dnsRule(action string) NetworkRule {
	return NetworkRule{Direction: Egress, Destination: Destination{Group: GroupHost}, Protocols: []string{"udp", "tcp"}, Ports: []PortRange{{53, 53}}, Action: action}
}

// ParseNetworkRules reads a --net-rule: a comma list of <action>[:<direction>]@<target>[:<proto>[:<ports>]]
// (contract msb-0.6 §1.4). A part without "@" goes on with the ports of the rule before it: allow@any:tcp:80,443.
func ParseNetworkRules(s string) ([]NetworkRule, error) {
	var rules []NetworkRule
	for part := range strings.SplitSeq(s, ",") {
		if !strings.Contains(part, "@") && len(rules) > 0 && len(rules[len(rules)-1].Ports) > 0 {
			last := &rules[len(rules)-1]
			pr, err := parsePorts(part)
			if err != nil || last.isDNS() {
				return nil, badRule(s, fmt.Sprintf("%q is neither a rule nor a port", part))
			}
			last.Ports = append(last.Ports, pr)
			continue
		}
		r, err := parseRule(part)
		if err != nil {
			return nil, badRule(part, err.Error())
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r *NetworkRule) isDNS() bool {
	return r.Destination.Group == GroupHost && len(r.Protocols) == 2 && slices.Equal(r.Ports, []PortRange{{53, 53}})
}

func parseRule(s string) (NetworkRule, error) {
	r := NetworkRule{Direction: Egress}
	head, tail, ok := strings.Cut(s, "@")
	if !ok {
		return r, fmt.Errorf("it has no target")
	}
	r.Action = head
	if action, direction, ok := strings.Cut(head, ":"); ok {
		r.Action, r.Direction = action, direction
	}
	if r.Action != Allow && r.Action != Deny {
		return r, fmt.Errorf("action %q is not allow or deny", r.Action)
	}
	if r.Direction != Egress && r.Direction != Ingress && r.Direction != "any" {
		return r, fmt.Errorf("direction %q is not egress, ingress or any", r.Direction)
	}
	target, rest, err := cutTarget(tail)
	if err != nil {
		return r, err
	}
	proto, ports, hasPorts := strings.Cut(rest, ":")
	if err := r.setProto(proto); err != nil {
		return r, err
	}
	if hasPorts {
		if len(r.Protocols) == 1 && strings.HasPrefix(r.Protocols[0], "icmp") {
			return r, fmt.Errorf("%s has no ports", proto)
		}
		pr, err := parsePorts(ports)
		if err != nil {
			return r, err
		}
		r.Ports = []PortRange{pr}
	}
	if target == "dns" {
		return r.narrowToDNS()
	}
	r.Destination, err = parseTarget(target)
	return r, err
}

// narrowToDNS makes a rule with target dns what it stands for: the gateway's port 53.
func (r NetworkRule) narrowToDNS() (NetworkRule, error) {
	if r.Direction != Egress || len(r.Ports) > 0 {
		return r, fmt.Errorf("target dns is egress to the gateway's port 53 and takes neither direction nor ports")
	}
	d := dnsRule(r.Action)
	if len(r.Protocols) > 0 {
		if !slices.Contains(d.Protocols, r.Protocols[0]) {
			return r, fmt.Errorf("target dns is udp and tcp")
		}
		d.Protocols = r.Protocols
	}
	return d, nil
}

func (r *NetworkRule) setProto(proto string) error {
	switch proto {
	case "", "any":
	case "tcp", "udp":
		r.Protocols = []string{proto}
	case "icmpv4", "icmpv6":
		if r.Direction != Egress {
			return fmt.Errorf("%s rules are egress only", proto)
		}
		r.Protocols = []string{proto}
	default:
		return fmt.Errorf("protocol %q is not tcp, udp, icmpv4, icmpv6 or any", proto)
	}
	return nil
}

// cutTarget splits the target from the protocol and ports. An IPv6 address is in brackets, or stands alone.
func cutTarget(s string) (target, rest string, err error) {
	if !strings.HasPrefix(s, "[") {
		if _, err := parseRange(s); err == nil {
			return s, "", nil
		}
		target, rest, ok := strings.Cut(s, ":")
		if ok && rest == "" {
			return "", "", fmt.Errorf("nothing follows the last colon")
		}
		return target, rest, nil
	}
	inside, after, ok := strings.Cut(s[1:], "]")
	if !ok {
		return "", "", fmt.Errorf("bracket [ is not closed")
	}
	bits, rest, ok := strings.Cut(after, ":")
	if ok && rest == "" {
		return "", "", fmt.Errorf("nothing follows the last colon")
	}
	p, err := parseRange(inside + bits)
	if err != nil || !p.Addr().Is6() {
		return "", "", fmt.Errorf("%q is no IPv6 address or range", inside+bits)
	}
	return inside + bits, rest, nil
}

// Text says a rule as ParseNetworkRules reads it; ok is false where that has no words for it.
func (r NetworkRule) Text() (text string, ok bool) {
	head, d := r.Action, r.Destination
	switch r.Direction {
	case Egress:
	case "", "any":
		head += ":any"
	default:
		head += ":" + r.Direction
	}
	target := "any"
	switch {
	case r.isDNS() && r.Direction == Egress:
		return head + "@dns", true
	case d.CIDR != "":
		if target = d.CIDR; strings.Contains(target, ":") {
			addr, bits, _ := strings.Cut(target, "/")
			target = "[" + addr + "]/" + bits
		}
	case d.Domain != "":
		target = "domain=" + d.Domain
	case d.DomainSuffix != "":
		target = "suffix=" + d.DomainSuffix
	case d.Group != "":
		for word, group := range targetGroups {
			if group == d.Group {
				target = word
			}
		}
	}
	proto := ""
	if len(r.Protocols) > 0 {
		proto = r.Protocols[0]
	} else if len(r.Ports) > 0 {
		proto = "any"
	}
	text = head + "@" + target
	if proto != "" {
		text += ":" + proto
	}
	for i, p := range r.Ports {
		text += [...]string{":", ","}[min(i, 1)] + p.String()
	}
	read, err := ParseNetworkRules(text) // whatever it is that they have no words for
	if r.Direction == "" {
		r.Direction = "any"
	}
	return text, err == nil && len(read) == 1 && read[0].equal(r)
}

func (r NetworkRule) equal(o NetworkRule) bool {
	return r.Direction == o.Direction && r.Destination == o.Destination && slices.Equal(r.Protocols, o.Protocols) && slices.Equal(r.Ports, o.Ports) && r.Action == o.Action
}

var targetGroups = map[string]string{
	"public": GroupPublic, "private": GroupPrivate, "loopback": GroupLoopback, "link-local": GroupLinkLocal,
	"meta": GroupMetadata, "multicast": GroupMulticast, "host": GroupHost,
}

func parseTarget(s string) (Destination, error) {
	if s == "any" {
		return Destination{}, nil
	}
	if g := targetGroups[s]; g != "" {
		return Destination{Group: g}, nil
	}
	if p, err := parseRange(s); err == nil {
		return Destination{CIDR: p.String()}, nil
	}
	suffix, isSuffix := strings.CutPrefix(s, "*.")
	if !isSuffix {
		suffix, isSuffix = strings.CutPrefix(s, "suffix=")
	}
	if isSuffix {
		d, err := parseDomain(suffix)
		if err == nil && !strings.Contains(d, ".") {
			err = fmt.Errorf("suffix %q has one label, want two at least", suffix)
		}
		return Destination{DomainSuffix: d}, err
	}
	name, explicit := strings.CutPrefix(s, "domain=")
	d, err := parseDomain(name)
	if err == nil && !explicit && !strings.Contains(d, ".") {
		err = fmt.Errorf("target %q is no group, address or domain", s)
	}
	return Destination{Domain: d}, err
}

// ParseDestination reads what a rule is about: "any" or "*", a group, an address or range, a name, or ".x" and "*.x" for all
// names below x, which may be one label.
func ParseDestination(s string) (Destination, error) {
	var (
		d   Destination
		err error
	)
	suffix, below := strings.CutPrefix(strings.TrimPrefix(s, "*"), ".")
	switch {
	case s == "*":
	case s == GroupMetadata:
		d.Group = GroupMetadata
	case below:
		d.DomainSuffix, err = parseDomain(suffix)
	default:
		d, err = parseTarget(s)
	}
	if err != nil {
		return Destination{}, badFlag(fmt.Sprintf("network destination %q: %v", clip(s), err), "write a group such as public, an address, a range or a name")
	}
	return d, nil
}

// ParsePortRange reads a port or a range of ports of a rule: 443 or 8000-9000.
func ParsePortRange(s string) (PortRange, error) {
	p, err := parsePorts(s)
	if err != nil {
		return p, badFlag(err.Error(), "")
	}
	return p, nil
}

// parseRange reads an address or a range, which must begin at its first address.
func parseRange(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("address %q has a zone", s)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p != p.Masked() {
		return p, fmt.Errorf("range %q does not begin at its first address, %s", s, p.Masked().Addr())
	}
	return p, err
}

// parseDomain checks a domain name and returns it in lower case, without a final dot.
func parseDomain(s string) (string, error) {
	d := strings.ToLower(strings.TrimSuffix(s, "."))
	if d == "" || len(d) > 253 {
		return "", fmt.Errorf("domain %q is empty or longer than 253 bytes", s)
	}
	digits := true
	for label := range strings.SplitSeq(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("domain %q has a bad label", s)
		}
		digits = true
		for i := range len(label) {
			c := label[i]
			if !isAlnum(c) && c != '-' && c != '_' {
				return "", fmt.Errorf("domain %q has the character %q", s, c)
			}
			digits = digits && '0' <= c && c <= '9'
		}
	}
	if digits {
		return "", fmt.Errorf("%q is no address and no domain", s)
	}
	return d, nil
}

func parsePorts(s string) (PortRange, error) {
	lo, hi, isRange := strings.Cut(s, "-")
	if !isRange {
		hi = lo
	}
	a, aerr := strconv.ParseUint(lo, 10, 16)
	b, berr := strconv.ParseUint(hi, 10, 16)
	if aerr != nil || berr != nil || a == 0 || a > b {
		return PortRange{}, fmt.Errorf("%q is no port (1-65535) or range of ports", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

func badRule(rule, why string) error {
	return badFlag(fmt.Sprintf("network rule %q: %s", rule, why), "write ACTION[:DIRECTION]@TARGET[:PROTO[:PORTS]], e.g. allow@example.com:tcp:443")
}

func badFlag(message, hint string) error {
	return &Error{Op: "parse network flags", Kind: InvalidArgument, Message: message, Hint: hint}
}
