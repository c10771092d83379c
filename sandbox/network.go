package sandbox

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Actions, directions and address groups of network rules (contract msb-0.6 §1.4, §2.7).
const (
	Allow = "allow"
	Deny  = "deny"

	Egress  = "egress"
	Ingress = "ingress"

	GroupPublic    = "public"
	GroupPrivate   = "private"
	GroupLoopback  = "loopback"
	GroupLinkLocal = "link_local"
	GroupMetadata  = "metadata"
	GroupMulticast = "multicast"
	GroupHost      = "host"
)

// NetworkPolicy is an ordered list of rules; in each direction the first that matches wins, else the default. An empty
// default is deny: a partial policy fails closed.
type NetworkPolicy struct {
	DefaultEgress  string        `json:"default_egress"`
	DefaultIngress string        `json:"default_ingress"`
	Rules          []NetworkRule `json:"rules"`
}

// MarshalJSON writes the rules as a list also when there are none.
func (p NetworkPolicy) MarshalJSON() ([]byte, error) {
	type plain NetworkPolicy
	if p.Rules == nil {
		p.Rules = []NetworkRule{}
	}
	return json.Marshal(plain(p))
}

// String is the policy in words: its defaults, then its rules in order.
func (p NetworkPolicy) String() string {
	words := []string{"egress " + cmp.Or(p.DefaultEgress, Deny), "ingress " + cmp.Or(p.DefaultIngress, Deny)}
	for _, r := range p.Rules {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// NetworkRule matches by direction ("" or "any" is both), destination, protocols (none is all) and ports (none is all).
type NetworkRule struct {
	Direction   string      `json:"direction,omitempty"`
	Destination Destination `json:"destination"`
	Protocols   []string    `json:"protocols,omitempty"` // tcp udp icmpv4 icmpv6
	Ports       []PortRange `json:"ports,omitempty"`
	Action      string      `json:"action"`
}

// String is the rule in the words of --net-rule, but for several protocols, which are joined by "+".
func (r NetworkRule) String() string {
	var b strings.Builder
	b.WriteString(r.Action)
	if r.Direction != Egress {
		b.WriteString(":" + cmp.Or(r.Direction, "any"))
	}
	b.WriteByte('@')
	switch d := r.Destination; {
	case d.CIDR != "":
		b.WriteString(d.CIDR)
	case d.Domain != "":
		b.WriteString(d.Domain)
	case d.DomainSuffix != "":
		b.WriteString("*." + strings.TrimPrefix(d.DomainSuffix, "."))
	case d.Group != "":
		b.WriteString(d.Group)
	default:
		b.WriteString("any")
	}
	if len(r.Protocols) > 0 {
		b.WriteString(":" + strings.Join(r.Protocols, "+"))
	}
	for i, p := range r.Ports {
		b.WriteString(":,"[min(i, 1):][:1] + p.String())
	}
	return b.String()
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	Start uint16 `json:"start"`
	End   uint16 `json:"end"`
}

// String is the range as ParsePortRange reads it.
func (p PortRange) String() string {
	if p.Start == p.End {
		return strconv.Itoa(int(p.Start))
	}
	return fmt.Sprintf("%d-%d", p.Start, p.End)
}

// Destination is "any" (the zero value) or exactly one of an address range, a domain, a domain suffix or a group.
type Destination struct {
	CIDR         string
	Domain       string
	DomainSuffix string
	Group        string
}

type destinationJSON struct {
	CIDR         string `json:"cidr,omitempty"`
	Domain       string `json:"domain,omitempty"`
	DomainSuffix string `json:"domain_suffix,omitempty"`
	Group        string `json:"group,omitempty"`
}

// MarshalJSON writes "any" or an object with one key.
func (d Destination) MarshalJSON() ([]byte, error) {
	if d == (Destination{}) {
		return []byte(`"any"`), nil
	}
	return json.Marshal(destinationJSON(d))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Destination) UnmarshalJSON(b []byte) error {
	if string(b) == `"any"` {
		*d = Destination{}
		return nil
	}
	var o destinationJSON
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("network destination: %w", err)
	}
	if o == (destinationJSON{}) {
		return fmt.Errorf("network destination %s: want \"any\" or one of cidr, domain, domain_suffix, group", b)
	}
	*d = Destination(o)
	return nil
}

// PublicPolicy is the policy of a sandbox that named none: DNS by the gateway and public addresses.
func PublicPolicy() NetworkPolicy {
	return NetworkPolicy{DefaultEgress: Deny, DefaultIngress: Allow, Rules: []NetworkRule{
		{Direction: Egress, Destination: Destination{Group: GroupHost}, Protocols: []string{"udp", "tcp"}, Ports: []PortRange{{53, 53}}, Action: Allow},
		{Direction: Egress, Destination: Destination{Group: GroupPublic}, Action: Allow},
	}}
}

// DenyAllPolicy refuses everything in both directions (--no-net).
func DenyAllPolicy() NetworkPolicy {
	return NetworkPolicy{DefaultEgress: Deny, DefaultIngress: Deny}
}

// PolicyOrDefault is the policy that holds: where none is said, that of the profile public.
func (n Network) PolicyOrDefault() NetworkPolicy {
	if n.Policy == nil {
		return PublicPolicy()
	}
	return *n.Policy
}

// Linked reports whether a sandbox with this network has a link to anything: none where its policy can let nothing through.
func (n Network) Linked() bool {
	p := n.PolicyOrDefault()
	return n.Enabled && (p.DefaultEgress == Allow || p.DefaultIngress == Allow || len(p.Rules) > 0)
}

// UnmarshalJSON reads a network. One that is said to be off and has no policy is off; only what is not said is the default.
func (n *Network) UnmarshalJSON(b []byte) error {
	type plain Network
	said := struct {
		*plain
		Enabled *bool `json:"enabled"`
	}{plain: (*plain)(n)}
	if err := json.Unmarshal(b, &said); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	n.Enabled = said.Enabled == nil || *said.Enabled
	if !n.Enabled && n.Policy == nil {
		deny := DenyAllPolicy()
		n.Policy = &deny
	}
	return nil
}
