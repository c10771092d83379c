package policy_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

var gateway = []netip.Addr{netip.MustParseAddr("172.16.0.5"), netip.MustParseAddr("fd42:6d73:62:1::1")}

func mustNew(t testing.TB, p sandbox.NetworkPolicy) *policy.Policy {
	t.Helper()
	c, err := policy.New(p, gateway...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each row is an address and its group; the groups' edges are all here.
var classes = []struct {
	addr string
	want policy.Class
}{
	{"172.16.0.5", policy.Host}, {"fd42:6d73:62:1::1", policy.Host}, {"::ffff:172.16.0.5", policy.Host}, {"64:ff9b::ac10:5", policy.Host},
	{"172.16.0.6", policy.Private}, {"fd42:6d73:62:1::2", policy.Private},
	{"169.254.169.254", policy.Metadata}, {"::ffff:169.254.169.254", policy.Metadata}, {"fd00:ec2::254", policy.Metadata},
	{"64:ff9b::a9fe:a9fe", policy.Metadata}, {"2002:a9fe:a9fe::1", policy.Metadata}, {"::ffff:0:169.254.169.254", policy.Metadata},
	{"100.100.100.200", policy.Metadata}, {"168.63.129.16", policy.Metadata}, {"fd20:ce::254", policy.Metadata},
	{"192.0.0.192", policy.Metadata}, {"fd00:c1::a9fe:a9fe", policy.Metadata}, {"169.254.170.2", policy.Metadata}, {"169.254.170.23", policy.Metadata},
	{"fd00:ec2::23", policy.Metadata}, {"169.254.42.42", policy.Metadata}, {"fd00:42::42", policy.Metadata}, {"fd00:a9fe:a9fe::1", policy.Metadata},
	{"fd00:100::100:200", policy.Metadata}, {"fe80::a9fe:a9fe", policy.Metadata}, {"192.0.0.193", policy.Public}, {"169.254.170.3", policy.LinkLocal},
	{"127.0.0.1", policy.Loopback}, {"127.255.255.255", policy.Loopback}, {"::1", policy.Loopback}, {"::ffff:127.0.0.1", policy.Loopback}, {"64:ff9b::7f00:1", policy.Loopback},
	{"126.255.255.255", policy.Public}, {"128.0.0.0", policy.Public},
	{"10.0.0.0", policy.Private}, {"10.255.255.255", policy.Private}, {"9.255.255.255", policy.Public}, {"11.0.0.0", policy.Public},
	{"172.15.255.255", policy.Public}, {"172.16.0.0", policy.Private}, {"172.31.255.255", policy.Private}, {"172.32.0.0", policy.Public},
	{"192.167.255.255", policy.Public}, {"192.168.0.0", policy.Private}, {"192.168.255.255", policy.Private}, {"192.169.0.0", policy.Public},
	{"100.63.255.255", policy.Public}, {"100.64.0.0", policy.Private}, {"100.127.255.255", policy.Private}, {"100.128.0.0", policy.Public},
	{"::ffff:10.1.2.3", policy.Private}, {"2002:a01:203::", policy.Private}, {"64:ff9b:1::8.8.8.8", policy.Private},
	{"fc00::", policy.Private}, {"fdff:ffff::1", policy.Private}, {"fbff::1", policy.Public}, {"fec0::1", policy.Private},
	{"169.253.255.255", policy.Public}, {"169.254.0.0", policy.LinkLocal}, {"169.254.170.4", policy.LinkLocal}, {"169.255.0.0", policy.Public},
	{"fe80::1", policy.LinkLocal}, {"fe80::1%eth0", policy.LinkLocal}, {"febf::1", policy.LinkLocal},
	{"223.255.255.255", policy.Public}, {"224.0.0.0", policy.Multicast}, {"239.255.255.255", policy.Multicast}, {"ff02::1", policy.Multicast},
	{"240.0.0.0", policy.Reserved}, {"255.255.255.255", policy.Reserved}, {"0.0.0.0", policy.Reserved}, {"0.1.2.3", policy.Reserved}, {"::", policy.Reserved},
	{"::ffff:0.0.0.0", policy.Reserved}, {"::10.0.0.1", policy.Reserved}, {"::8.8.8.8", policy.Reserved}, {"2001:0:1:2::", policy.Reserved},
	{"8.8.8.8", policy.Public}, {"::ffff:8.8.8.8", policy.Public}, {"64:ff9b::8.8.8.8", policy.Public}, {"2002:808:808::1", policy.Public},
	{"2606:4700::1111", policy.Public}, {"2001:db8::1", policy.Public}, {"198.51.100.7", policy.Public}, {"203.0.113.1", policy.Public}, {"192.0.2.1", policy.Public}, {"198.18.0.1", policy.Public},
}

func TestClass(t *testing.T) {
	p := mustNew(t, sandbox.PublicPolicy())
	for _, c := range classes {
		if got := p.Class(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("Class(%s) = %v, want %v", c.addr, got, c.want)
		}
	}
}

func TestPublicPolicyAllowsOnlyPublicAndDNS(t *testing.T) {
	p := mustNew(t, sandbox.PublicPolicy())
	for _, c := range classes {
		to := netip.AddrPortFrom(netip.MustParseAddr(c.addr), 80)
		if v := p.Check(policy.Egress, policy.TCP, to, nil); v.Allowed != (c.want == policy.Public) {
			t.Errorf("Check(%s) = %+v, class %v", to, v, c.want)
		}
	}
	dns := netip.AddrPortFrom(gateway[0], 53)
	for _, pr := range []policy.Proto{policy.TCP, policy.UDP} {
		if v := p.Check(policy.Egress, pr, dns, nil); !v.Allowed || v.Rule != 0 {
			t.Errorf("DNS over %v: %+v", pr, v)
		}
	}
	if v := p.Check(policy.Ingress, policy.TCP, netip.MustParseAddrPort("10.0.0.9:80"), nil); !v.Allowed || v.Rule != policy.ByDefault {
		t.Errorf("ingress: %+v", v)
	}
}

func TestDenyAllAndEmpty(t *testing.T) {
	for _, np := range []sandbox.NetworkPolicy{{}, sandbox.DenyAllPolicy()} {
		p := mustNew(t, np)
		for _, c := range classes {
			for _, d := range []policy.Direction{policy.Egress, policy.Ingress} {
				if v := p.Check(d, policy.UDP, netip.AddrPortFrom(netip.MustParseAddr(c.addr), 53), nil); v.Allowed {
					t.Errorf("%v %s allowed: %+v", d, c.addr, v)
				}
			}
		}
		if p.CheckName("example.com").Allowed {
			t.Error("name allowed")
		}
	}
}

func rules(rs ...sandbox.NetworkRule) sandbox.NetworkPolicy { return sandbox.NetworkPolicy{Rules: rs} }

func TestVerdictNamesItsRule(t *testing.T) {
	p := mustNew(t, rules(
		sandbox.NetworkRule{Destination: sandbox.Destination{CIDR: "10.1.0.0/16"}, Protocols: []string{"tcp"}, Ports: []sandbox.PortRange{{Start: 80, End: 81}}, Action: "deny"},
		sandbox.NetworkRule{Destination: sandbox.Destination{Group: "private"}, Action: "allow"},
	))
	v := p.Check(policy.Egress, policy.TCP, netip.MustParseAddrPort("10.1.2.3:81"), nil)
	if v.Allowed || v.Rule != 0 || v.Reason != "rule 0: deny:any@10.1.0.0/16:tcp:80-81" {
		t.Errorf("%+v", v)
	}
	if v := p.Check(policy.Egress, policy.TCP, netip.MustParseAddrPort("10.1.2.3:82"), nil); !v.Allowed || v.Rule != 1 {
		t.Errorf("%+v", v)
	}
	if v := p.Check(policy.Egress, policy.TCP, netip.AddrPort{}, nil); v.Allowed || v.Rule != policy.BuiltIn {
		t.Errorf("no address: %+v", v)
	}
}

func TestNameServicesAreRefused(t *testing.T) {
	p := mustNew(t, sandbox.NetworkPolicy{DefaultEgress: "allow", DefaultIngress: "allow"})
	for _, c := range []struct {
		pr   policy.Proto
		to   string
		want bool
	}{
		{policy.UDP, "8.8.8.8:853", false}, {policy.TCP, "8.8.8.8:853", false}, {policy.UDP, "224.0.0.251:5353", false},
		{policy.UDP, "224.0.0.252:5355", false}, {policy.UDP, "8.8.8.8:137", false}, {policy.UDP, "8.8.8.8:53", true}, {policy.TCP, "8.8.8.8:5353", true},
	} {
		if v := p.Check(policy.Egress, c.pr, netip.MustParseAddrPort(c.to), nil); v.Allowed != c.want {
			t.Errorf("%v %s: %+v", c.pr, c.to, v)
		}
	}
}

func TestDomains(t *testing.T) {
	p := mustNew(t, rules(
		sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Domain: "Bad.Example.com."}, Action: "deny"},
		sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{DomainSuffix: "example.com"}, Protocols: []string{"tcp"}, Ports: []sandbox.PortRange{{Start: 443, End: 443}}, Action: "allow"},
	))
	if !p.UsesNames() {
		t.Error("UsesNames")
	}
	for _, c := range []struct {
		to    string
		names string
		want  bool
	}{
		{"93.184.216.34:443", "example.com", true}, {"93.184.216.34:443", "www.example.com", true}, {"93.184.216.34:80", "www.example.com", false},
		{"93.184.216.34:443", "notexample.com", false}, {"93.184.216.34:443", "", false}, {"93.184.216.34:443", "bad.example.com", false},
		{"93.184.216.34:443", "other.org www.example.com", true}, {"93.184.216.34:443", "www.example.com bad.example.com", false},
		{"169.254.169.254:443", "www.example.com", false}, {"172.16.0.5:443", "www.example.com", false}, {"10.0.0.1:443", "www.example.com", true},
	} {
		if v := p.Check(policy.Egress, policy.TCP, netip.MustParseAddrPort(c.to), strings.Fields(c.names)); v.Allowed != c.want {
			t.Errorf("%s as %q: %+v", c.to, c.names, v)
		}
	}
	for name, want := range map[string]bool{"example.com": true, "A.Example.Com.": true, "bad.example.com": false, "secret.tunnel.org": false} {
		if v := p.CheckName(name); v.Allowed != want {
			t.Errorf("CheckName(%s) = %+v", name, v)
		}
	}
	open := mustNew(t, sandbox.NetworkPolicy{DefaultEgress: "deny", Rules: append([]sandbox.NetworkRule{
		{Destination: sandbox.Destination{DomainSuffix: "ads.net"}, Action: "deny"},
		{Destination: sandbox.Destination{Domain: "half.org"}, Ports: []sandbox.PortRange{{Start: 25, End: 25}}, Action: "deny"}}, sandbox.PublicPolicy().Rules...)})
	for name, want := range map[string]bool{"ads.net": false, "x.ads.net": false, "half.org": true, "example.com": true} {
		if v := open.CheckName(name); v.Allowed != want {
			t.Errorf("CheckName(%s) = %+v", name, v)
		}
	}
}

// TestHostName has rules about the host's name be about the host: no address is ever resolved from it.
func TestHostName(t *testing.T) {
	open, err := sandbox.ParseNetworkRules("deny@host.microsandbox.internal:tcp:22,allow@Host.Microsandbox.Internal")
	if err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Deny, Rules: open})
	if p.UsesNames() {
		t.Error("they want names")
	}
	for to, want := range map[string]bool{"172.16.0.5:80": true, "[fd42:6d73:62:1::1]:80": true, "172.16.0.5:22": false, "8.8.8.8:80": false, "127.0.0.1:80": false} {
		if v := p.Check(policy.Egress, policy.TCP, netip.MustParseAddrPort(to), nil); v.Allowed != want {
			t.Errorf("Check(%s) = %+v, want %v", to, v, want)
		}
	}
}

func TestAllowsAnswer(t *testing.T) {
	group := func(g, a string) sandbox.NetworkRule {
		return sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Group: g}, Action: a}
	}
	scoped := sandbox.NetworkRule{Destination: sandbox.Destination{CIDR: "10.0.0.0/8"}, Ports: []sandbox.PortRange{{Start: 80, End: 80}}, Action: "allow"}
	any := sandbox.NetworkRule{Action: "allow"}
	for _, c := range []struct {
		p    sandbox.NetworkPolicy
		addr string
		want bool
	}{
		{sandbox.PublicPolicy(), "8.8.8.8", true}, {sandbox.PublicPolicy(), "10.0.0.1", false}, {sandbox.PublicPolicy(), "127.0.0.1", false},
		{sandbox.PublicPolicy(), "::ffff:10.0.0.1", false}, {sandbox.PublicPolicy(), "169.254.169.254", false}, {sandbox.PublicPolicy(), "0.0.0.0", false},
		{sandbox.PublicPolicy(), "172.16.0.5", false}, {sandbox.NetworkPolicy{DefaultEgress: "allow"}, "10.0.0.1", false},
		{rules(any), "10.0.0.1", false}, {rules(scoped), "10.0.0.1", false}, {rules(group("private", "allow")), "10.0.0.1", true},
		{rules(group("private", "allow")), "169.254.169.254", false}, {rules(scoped, group("private", "deny"), group("private", "allow")), "10.0.0.1", false},
		{rules(group("loopback", "allow")), "127.0.0.1", true}, {rules(group("private", "allow")), "64:ff9b::10.0.0.1", true},
	} {
		if got := mustNew(t, c.p).AllowsAnswer(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("AllowsAnswer(%s) under %+v = %v", c.addr, c.p, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, np := range []sandbox.NetworkPolicy{
		{DefaultEgress: "maybe"}, {DefaultIngress: "ALLOW"},
		rules(sandbox.NetworkRule{}), rules(sandbox.NetworkRule{Action: "reject"}),
		rules(sandbox.NetworkRule{Action: "deny", Direction: "out"}),
		rules(sandbox.NetworkRule{Action: "deny", Protocols: []string{"sctp"}}),
		rules(sandbox.NetworkRule{Action: "deny", Ports: []sandbox.PortRange{{Start: 2, End: 1}}}),
		rules(sandbox.NetworkRule{Action: "deny", Destination: sandbox.Destination{Group: "everything"}}),
		rules(sandbox.NetworkRule{Action: "deny", Destination: sandbox.Destination{Group: "reserved"}}),
		rules(sandbox.NetworkRule{Action: "deny", Destination: sandbox.Destination{CIDR: "10.0.0.0/33"}}),
		rules(sandbox.NetworkRule{Action: "deny", Destination: sandbox.Destination{Domain: "."}}),
		rules(sandbox.NetworkRule{Action: "deny", Destination: sandbox.Destination{Domain: "a.b", Group: "host"}}),
	} {
		if _, err := policy.New(np); !errors.Is(err, sandbox.InvalidConfig) {
			t.Errorf("New(%+v) = %v", np, err)
		}
	}
}

// The naive model: the contract's words, one linear scan, strings and netip only.
func model(p sandbox.NetworkPolicy, dir, proto string, to netip.AddrPort, names []string) bool {
	a := to.Addr().Unmap()
	class := "public"
	in := func(ss ...string) bool {
		for _, s := range ss {
			if netip.MustParsePrefix(s).Contains(a) {
				return true
			}
		}
		return false
	}
	switch {
	case slices.Contains(gateway, a):
		class = "host"
	case in("169.254.169.254/32", "fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32", "fd20:ce::254/128", "192.0.0.192/32", "fd00:c1::a9fe:a9fe/128",
		"169.254.170.2/32", "169.254.170.23/32", "fd00:ec2::23/128", "169.254.42.42/32", "fd00:42::42/128", "fd00:a9fe:a9fe::1/128", "fd00:100::100:200/128",
		"fe80::a9fe:a9fe/128"):
		class = "metadata"
	case in("127.0.0.0/8", "::1/128"):
		class = "loopback"
	case in("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10", "64:ff9b:1::/48"):
		class = "private"
	case in("169.254.0.0/16", "fe80::/10"):
		class = "link_local"
	case in("224.0.0.0/4", "ff00::/8"):
		class = "multicast"
	case in("0.0.0.0/8", "240.0.0.0/4", "::/64", "2001::/32"):
		return false
	}
	port := to.Port()
	if dir == "egress" && (proto == "udp" && slices.Contains([]uint16{137, 853, 5353, 5355}, port) || proto == "tcp" && slices.Contains([]uint16{137, 853, 5355}, port)) {
		return false
	}
	for _, r := range p.Rules {
		d := r.Destination
		match := r.Direction == dir || r.Direction == "" || r.Direction == "any"
		match = match && (len(r.Protocols) == 0 || slices.Contains(r.Protocols, proto))
		match = match && (len(r.Ports) == 0 || (proto == "tcp" || proto == "udp") &&
			slices.ContainsFunc(r.Ports, func(pr sandbox.PortRange) bool { return pr.Start <= port && port <= pr.End }))
		switch {
		case d.Group != "":
			match = match && d.Group == class
		case d.CIDR != "":
			match = match && netip.MustParsePrefix(d.CIDR).Contains(a)
			if class == "loopback" && dir == "egress" && r.Action == "allow" && d.CIDR != "127.0.0.0/8" {
				match = false
			}
		case d.Domain != "":
			match = match && slices.Contains(names, d.Domain) && (r.Action == "deny" || class == "public" || class == "private")
		case d.DomainSuffix != "":
			match = match && slices.ContainsFunc(names, func(n string) bool { return n == d.DomainSuffix || strings.HasSuffix(n, "."+d.DomainSuffix) }) &&
				(r.Action == "deny" || class == "public" || class == "private")
		default:
			match = match && (class != "loopback" || dir == "ingress" || r.Action == "deny")
		}
		if match {
			return r.Action == "allow"
		}
	}
	if class == "loopback" && dir == "egress" {
		return false
	}
	allowsDomain := slices.ContainsFunc(p.Rules, func(r sandbox.NetworkRule) bool {
		return r.Action == "allow" && r.Direction != "ingress" && r.Destination.Domain+r.Destination.DomainSuffix != ""
	})
	if allowsDomain && dir == "egress" && class == "host" && port == 53 && (proto == "tcp" || proto == "udp") {
		return true
	}
	if dir == "egress" {
		return p.DefaultEgress == "allow"
	}
	return p.DefaultIngress == "allow"
}

var (
	drawnPorts = []uint16{0, 53, 80, 443, 853, 5353, 8080}
	drawnNames = []string{"a.example.com", "example.com", "b.org", "notexample.com"}
)

// drawPolicy makes any policy that makes sense.
func drawPolicy(t *rapid.T) sandbox.NetworkPolicy {
	ports, names := drawnPorts, drawnNames
	genRule := rapid.Custom(func(t *rapid.T) sandbox.NetworkRule {
		r := sandbox.NetworkRule{
			Direction: rapid.SampledFrom([]string{"", "any", "egress", "ingress"}).Draw(t, "dir"),
			Action:    rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "action"),
			Protocols: rapid.SliceOfN(rapid.SampledFrom([]string{"tcp", "udp", "icmpv4", "icmpv6"}), 0, 2).Draw(t, "protos"),
		}
		if rapid.Bool().Draw(t, "hasPorts") {
			lo := rapid.SampledFrom(ports).Draw(t, "lo")
			r.Ports = []sandbox.PortRange{{Start: lo, End: max(lo, rapid.SampledFrom(ports).Draw(t, "hi"))}}
		}
		switch rapid.IntRange(0, 4).Draw(t, "dest") {
		case 1:
			r.Destination.Group = rapid.SampledFrom([]string{"host", "metadata", "loopback", "private", "link_local", "multicast", "public"}).Draw(t, "group")
		case 2:
			r.Destination.CIDR = rapid.SampledFrom([]string{"0.0.0.0/0", "10.0.0.0/8", "8.8.8.8/32", "::/0", "fd00::/8", "127.0.0.0/8", "169.254.0.0/16"}).Draw(t, "cidr")
		case 3:
			r.Destination.Domain = rapid.SampledFrom(names).Draw(t, "domain")
		case 4:
			r.Destination.DomainSuffix = rapid.SampledFrom([]string{"example.com", "org"}).Draw(t, "suffix")
		}
		return r
	})
	return sandbox.NetworkPolicy{
		DefaultEgress:  rapid.SampledFrom([]string{"", "allow", "deny"}).Draw(t, "de"),
		DefaultIngress: rapid.SampledFrom([]string{"", "allow", "deny"}).Draw(t, "di"),
		Rules:          rapid.SliceOfN(genRule, 0, 6).Draw(t, "rules"),
	}
}

// TestNamesThatCannotLeadAnywhere: what no rule lets the sandbox reach by a name, it may not resolve, or the question itself
// would be a message to outside; and what a rule allows by that name alone it may.
func TestNamesThatCannotLeadAnywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		np := drawPolicy(t)
		p, err := policy.New(np, gateway...)
		if err != nil {
			t.Fatal(err)
		}
		name := rapid.SampledFrom(drawnNames).Draw(t, "name")
		v := p.CheckName(name)
		for _, a := range []string{"8.8.8.8", "10.0.0.1", "93.184.216.34", "fd00::1", "2606:4700::1111"} {
			for _, pr := range []policy.Proto{policy.TCP, policy.UDP} {
				for _, port := range []uint16{80, 443, 8080, 9999} {
					c := p.Check(policy.Egress, pr, netip.AddrPortFrom(netip.MustParseAddr(a), port), []string{name})
					if c.Allowed && !v.Allowed {
						t.Fatalf("%s is not resolved (%+v), and %s:%d may be reached by it (%+v)", name, v, a, port, c)
					}
				}
			}
		}
	})
}

// TestAnswersNeedARuleOfTheirOwn: protection against rebinding is lifted by rules about the address only, never by a default.
func TestAnswersNeedARuleOfTheirOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		np := drawPolicy(t)
		p, err := policy.New(np, gateway...)
		if err != nil {
			t.Fatal(err)
		}
		c := rapid.SampledFrom(classes).Draw(t, "address")
		a := netip.MustParseAddr(c.addr).WithZone("")
		got := p.AllowsAnswer(a)
		switch c.want {
		case policy.Public:
			if !got {
				t.Fatalf("%s is public and kept back", a)
			}
		case policy.Reserved:
			if got {
				t.Fatalf("%s is reserved and let through", a)
			}
		default:
			reached := p.Check(policy.Egress, policy.TCP, netip.AddrPortFrom(a, 9999), nil)
			if e, ok := policy.Embedded(a); ok {
				a = e
			}
			about := slices.ContainsFunc(np.Rules, func(r sandbox.NetworkRule) bool {
				d := r.Destination
				in := d.Group == c.want.String()
				if d.CIDR != "" {
					pre := netip.MustParsePrefix(d.CIDR)
					in = pre.Contains(a) || pre.Contains(netip.MustParseAddr(c.addr).WithZone(""))
				}
				return in && r.Action == "allow" && len(r.Ports) == 0 && r.Direction != "ingress"
			})
			if got && !about {
				t.Fatalf("%s is let through, and no rule is about it: %+v (reached: %+v)", a, np, reached)
			}
		}
	})
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ports, names := drawnPorts, drawnNames
		np := drawPolicy(t)
		p, err := policy.New(np, gateway...)
		if err != nil {
			t.Fatal(err)
		}
		var a netip.Addr
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			a = netip.MustParseAddr(rapid.SampledFrom(classes).Draw(t, "class").addr).WithZone("")
		case 1:
			a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
		case 2:
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
		}
		if e, ok := policy.Embedded(a); ok {
			a = e // the model knows no wrappings; TestClass has them
		}
		to := netip.AddrPortFrom(a, rapid.SampledFrom(ports).Draw(t, "port"))
		seen := rapid.SliceOfN(rapid.SampledFrom(names), 0, 2).Draw(t, "names")
		pr := rapid.SampledFrom([]policy.Proto{policy.TCP, policy.UDP, policy.ICMPv4, policy.ICMPv6}).Draw(t, "proto")
		dir := rapid.SampledFrom([]policy.Direction{policy.Egress, policy.Ingress}).Draw(t, "direction")
		v := p.Check(dir, pr, to, seen)
		if want := model(np, dir.String(), pr.String(), to, seen); v.Allowed != want {
			t.Fatalf("%v %v %v as %v: %+v, the model says %v", dir, pr, to, seen, v, want)
		}
		if w := p.Check(dir, pr, netip.AddrPortFrom(netip.AddrFrom16(a.As16()), to.Port()), seen); w != v {
			t.Fatalf("%v mapped: %+v, plain: %+v", to, w, v)
		}
	})
}

// Allowing a domain opens the resolver, unless a rule says otherwise.
func TestDomainsImplyTheResolver(t *testing.T) {
	for flags, want := range map[string]bool{"allow@example.com": true, "deny@dns,allow@example.com": false, "deny@example.com": false, "allow@8.8.8.8": false} {
		rs, err := sandbox.ParseNetworkRules(flags)
		if err != nil {
			t.Fatal(err)
		}
		if v := mustNew(t, rules(rs...)).Check(policy.Egress, policy.UDP, netip.AddrPortFrom(gateway[0], 53), nil); v.Allowed != want {
			t.Errorf("%s: %+v", flags, v)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	p := mustNew(t, sandbox.PublicPolicy())
	to := netip.MustParseAddrPort("93.184.216.34:443")
	if n := testing.AllocsPerRun(100, func() { p.Check(policy.Egress, policy.TCP, to, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	for name, np := range map[string]sandbox.NetworkPolicy{"public": sandbox.PublicPolicy(), "20rules": twenty()} {
		p, to := mustNew(b, np), netip.MustParseAddrPort("93.184.216.34:443")
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p.Check(policy.Egress, policy.TCP, to, nil)
			}
		})
	}
}

func twenty() sandbox.NetworkPolicy {
	var np sandbox.NetworkPolicy
	for i := range 20 {
		np.Rules = append(np.Rules, sandbox.NetworkRule{Destination: sandbox.Destination{CIDR: netip.AddrFrom4([4]byte{10, byte(i), 0, 0}).String() + "/16"}, Action: "deny"})
	}
	return np
}
