package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// letsIn reports whether the policy may let anything into the sandbox.
func (p NetworkPolicy) letsIn() bool {
	return p.DefaultIngress == Allow || slices.ContainsFunc(p.Rules, func(r NetworkRule) bool { return r.Action == Allow && r.Direction != Egress })
}

// AllowAllPolicy lets everything pass in both directions but what no rule can open (the profile "all").
func AllowAllPolicy() NetworkPolicy {
	return NetworkPolicy{DefaultEgress: Allow, DefaultIngress: Allow}
}

// ProfilePolicy is the policy that profiles make: public, private and host compose, all and none stand alone.
func ProfilePolicy(profiles ...string) (NetworkPolicy, error) {
	p, err := NetworkFlags{Profiles: []string{strings.Join(profiles, ",")}}.Policy()
	if err != nil {
		return NetworkPolicy{}, err
	}
	return *p, nil
}

// ScopePolicy is the policy of a scope of microsandbox 0.2 (contract server-v0.2 §3.1): none, group, public or any, in any
// case. A group is a subnet, and no sandbox was ever in one, so nothing passes. "any" is all but this machine: that every
// process of every sandbox could reach the server and other sandboxes by it was a defect (D-25).
func ScopePolicy(scope string) (NetworkPolicy, error) {
	switch strings.ToLower(scope) {
	case "none", "group":
		return DenyAllPolicy(), nil
	case "public", "":
		return PublicPolicy(), nil
	case "any":
		p := AllowAllPolicy()
		p.Rules = []NetworkRule{dnsRule(Allow), {Direction: Egress, Destination: Destination{Group: GroupHost}, Action: Deny}}
		return p, nil
	}
	return NetworkPolicy{}, &Error{Kind: InvalidConfig, Message: fmt.Sprintf("scope %q is unknown", clip(scope)), Hint: "use none, group, public or any"}
}

// Denying returns p with domains, and suffixes with all that is below them, denied before anything else.
func (p NetworkPolicy) Denying(domains, suffixes []string) (NetworkPolicy, error) {
	var rules []NetworkRule
	for _, d := range domains {
		name, err := parseDomain(d)
		if err != nil {
			return p, badFlag(err.Error(), "")
		}
		rules = append(rules, NetworkRule{Direction: Egress, Destination: Destination{Domain: name}, Action: Deny})
	}
	for _, s := range suffixes {
		name, err := parseDomain(strings.TrimPrefix(strings.TrimPrefix(s, "*"), "."))
		if err != nil {
			return p, badFlag(err.Error(), "")
		}
		rules = append(rules, NetworkRule{Direction: Egress, Destination: Destination{DomainSuffix: name}, Action: Deny})
	}
	p.Rules = append(rules, p.Rules...)
	return p, nil
}

// NetworkConf is the network of a configuration file (contract msb-0.6 §1.6): a word (none, public, open) or an object.
// Lists of targets are as in --net-rule without the action; a list of what is allowed implies that the rest is not.
type NetworkConf struct {
	Policy         string       `json:"policy"` // none | public | open, or a comma list of profiles; default public
	Allow          []string     `json:"allow"`
	Deny           []string     `json:"deny"`
	Strict         bool         `json:"strict"`
	Ports          []string     `json:"ports"`
	DNS            *dnsConf     `json:"dns"`
	TLS            *TLS         `json:"tls"`
	TrustHostCAs   bool         `json:"trust_host_cas"`
	MaxConnections *int         `json:"max_connections"`
	RateLimiter    *RateLimiter `json:"rate_limiter"`
	Interface      *Interface   `json:"interface"`
}

type dnsConf struct {
	RebindProtection *bool    `json:"rebind_protection"`
	Nameservers      []string `json:"nameservers"`
	QueryTimeout     string   `json:"query_timeout"` // as in ParseDuration
}

// UnmarshalJSON reads a word or an object without unknown keys. YAML readers turn what they read into JSON first.
func (c *NetworkConf) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Policy)
	}
	type plain NetworkConf
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode((*plain)(c)); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("network: more than one value")
	}
	return nil
}

// confPolicies are the words of configuration files that are not profiles' names.
var confPolicies = map[string]string{"open": "all"}

// Network is what the file asks for.
func (c NetworkConf) Network() (Network, error) {
	n := Network{Enabled: true, Strict: c.Strict, TrustHostCAs: c.TrustHostCAs, TLS: c.TLS, MaxConnections: c.MaxConnections, RateLimiter: c.RateLimiter, Interface: c.Interface}
	if c.Policy != "" || len(c.Allow) > 0 || len(c.Deny) > 0 {
		p, err := c.policy()
		if err != nil {
			return Network{}, err
		}
		n.Policy = &p
	}
	for _, s := range c.Ports {
		p, err := ParsePort(s)
		if err != nil {
			return Network{}, err
		}
		n.Ports = append(n.Ports, p)
	}
	if d := c.DNS; d != nil {
		n.DNS = &DNS{NoRebindProtection: d.RebindProtection != nil && !*d.RebindProtection, Nameservers: d.Nameservers}
		if d.QueryTimeout != "" {
			t, err := ParseDuration(d.QueryTimeout)
			if err != nil {
				return Network{}, err
			}
			n.DNS.QueryTimeoutMS = int(t.Milliseconds())
		}
	}
	return n, n.validate()
}

func (c NetworkConf) policy() (NetworkPolicy, error) {
	var rules []NetworkRule
	for _, l := range []struct {
		action  string
		targets []string
	}{{Deny, c.Deny}, {Allow, c.Allow}} {
		for _, target := range l.targets {
			rs, err := ParseNetworkRules(l.action + "@" + target)
			if err != nil {
				return NetworkPolicy{}, err
			}
			rules = append(rules, rs...)
		}
	}
	word := c.Policy
	if w := confPolicies[word]; w != "" {
		word = w
	}
	switch {
	case word == "" && len(c.Allow) > 0:
		// Without the resolver an allowed domain would be no use; the policy opens it where one is.
		return NetworkPolicy{DefaultEgress: Deny, DefaultIngress: Allow, Rules: rules}, nil
	case word == "":
		word = GroupPublic
	}
	p, err := ProfilePolicy(word)
	p.Rules = append(rules, p.Rules...)
	if len(c.Allow) > 0 {
		p.DefaultEgress = Deny
	}
	return p, err
}

// Interface says what the guest's end of its link is called.
type Interface struct {
	IPv4Pool string `json:"ipv4_pool,omitempty"` // default 172.16.0.0/12
	IPv6Pool string `json:"ipv6_pool,omitempty"` // default fd42:6d73:62::/48
}

// ParseIPv4Pool and ParseIPv6Pool read a range that guests' addresses come from: it must hold one /30, or one /64.
func ParseIPv4Pool(s string) (netip.Prefix, error) { return parsePool(s, true, 30) }

// ParseIPv6Pool is described at ParseIPv4Pool.
func ParseIPv6Pool(s string) (netip.Prefix, error) { return parsePool(s, false, 64) }

func parsePool(s string, is4 bool, bits int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	a := p.Addr()
	switch {
	case err != nil || a.Is4() != is4 || a.Is4In6():
		return p, unreadable("address pool", s, map[bool]string{true: "an IPv4 range such as 10.99.0.0/16", false: "an IPv6 range such as fd00:99::/48"}[is4])
	case p != p.Masked():
		return p, unreadable("address pool", s, "a range that begins at its first address")
	case p.Bits() > bits:
		return p, unreadable("address pool", s, fmt.Sprintf("at least a /%d", bits))
	case a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || is4 && a.As4()[0] >= 224 || is4 && a.As4()[0] == 0 || a.IsLinkLocalUnicast():
		return p, unreadable("address pool", s, "a range that hosts may have addresses in")
	}
	return p, nil
}

// MaxNameservers bounds DNS.Nameservers.
const MaxNameservers = 8

func (n Network) validate() error {
	if err := validatePorts(n.Ports); err != nil {
		return err
	}
	if len(n.Ports) > 0 && n.Policy != nil && !(n.Enabled && n.Policy.letsIn()) {
		return invalid("leave the ports out, or let something in, e.g. --net-default-ingress allow", "ports are published and the policy lets nobody in")
	}
	if n.MaxConnections != nil && (*n.MaxConnections < 1 || *n.MaxConnections > 65535) {
		return invalid("", "max_connections is %d; it must be from 1 to 65535", *n.MaxConnections)
	}
	if i := n.Interface; i != nil {
		if i.IPv4Pool != "" {
			if _, err := ParseIPv4Pool(i.IPv4Pool); err != nil {
				return err
			}
		}
		if i.IPv6Pool != "" {
			if _, err := ParseIPv6Pool(i.IPv6Pool); err != nil {
				return err
			}
		}
	}
	if d := n.DNS; d != nil {
		if len(d.Nameservers) > MaxNameservers {
			return invalid("", "%d nameservers are more than %d", len(d.Nameservers), MaxNameservers)
		}
		for _, s := range d.Nameservers {
			if _, err := ParseNameserver(s); err != nil {
				return err
			}
		}
		if d.QueryTimeoutMS < 0 || d.QueryTimeoutMS > 600_000 {
			return invalid("", "the DNS query timeout of %d ms is not from 1 to 600000", d.QueryTimeoutMS)
		}
	}
	if err := n.validateTLS(); err != nil {
		return err
	}
	return n.RateLimiter.validate()
}

// ParseNameserver reads IP, IP:PORT or [V6]:PORT; the port is 53 if there is none.
func ParseNameserver(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a.Unmap(), 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
		return ap, unreadable("nameserver", s, "an IP address with or without a port, e.g. 1.1.1.1 or [2606:4700:4700::1111]:53")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
