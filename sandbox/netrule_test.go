package sandbox_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestParseNetworkRules(t *testing.T) {
	for s, want := range map[string]string{
		"allow@example.com:tcp:443":      `[{"direction":"egress","destination":{"domain":"example.com"},"protocols":["tcp"],"ports":[{"start":443,"end":443}],"action":"allow"}]`,
		"deny@any":                       `[{"direction":"egress","destination":"any","action":"deny"}]`,
		"deny:any@any":                   `[{"direction":"any","destination":"any","action":"deny"}]`,
		"allow:ingress@10.0.0.0/8":       `[{"direction":"ingress","destination":{"cidr":"10.0.0.0/8"},"action":"allow"}]`,
		"allow@dns":                      `[{"direction":"egress","destination":{"group":"host"},"protocols":["udp","tcp"],"ports":[{"start":53,"end":53}],"action":"allow"}]`,
		"deny@dns:tcp":                   `[{"direction":"egress","destination":{"group":"host"},"protocols":["tcp"],"ports":[{"start":53,"end":53}],"action":"deny"}]`,
		"allow@any:tcp:80,443,8000-8010": `[{"direction":"egress","destination":"any","protocols":["tcp"],"ports":[{"start":80,"end":80},{"start":443,"end":443},{"start":8000,"end":8010}],"action":"allow"}]`,
		"deny@meta,allow@link-local":     `[{"direction":"egress","destination":{"group":"metadata"},"action":"deny"},{"direction":"egress","destination":{"group":"link_local"},"action":"allow"}]`,
		"allow@any:tcp:80,deny@private":  `[{"direction":"egress","destination":"any","protocols":["tcp"],"ports":[{"start":80,"end":80}],"action":"allow"},{"direction":"egress","destination":{"group":"private"},"action":"deny"}]`,
		"allow@[2001:db8::1]:tcp:22":     `[{"direction":"egress","destination":{"cidr":"2001:db8::1/128"},"protocols":["tcp"],"ports":[{"start":22,"end":22}],"action":"allow"}]`,
		"allow@[fd00::]/8:udp":           `[{"direction":"egress","destination":{"cidr":"fd00::/8"},"protocols":["udp"],"action":"allow"}]`,
		"allow@[fd00::/8]":               `[{"direction":"egress","destination":{"cidr":"fd00::/8"},"action":"allow"}]`,
		"allow@2001:db8::1":              `[{"direction":"egress","destination":{"cidr":"2001:db8::1/128"},"action":"allow"}]`,
		"allow@1.2.3.4":                  `[{"direction":"egress","destination":{"cidr":"1.2.3.4/32"},"action":"allow"}]`,
		"allow@*.Example.COM:any:443":    `[{"direction":"egress","destination":{"domain_suffix":"example.com"},"ports":[{"start":443,"end":443}],"action":"allow"}]`,
		"allow@suffix=example.com.":      `[{"direction":"egress","destination":{"domain_suffix":"example.com"},"action":"allow"}]`,
		"allow@domain=intranet":          `[{"direction":"egress","destination":{"domain":"intranet"},"action":"allow"}]`,
		"allow@public:icmpv4":            `[{"direction":"egress","destination":{"group":"public"},"protocols":["icmpv4"],"action":"allow"}]`,
	} {
		rules, err := sandbox.ParseNetworkRules(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got, _ := json.Marshal(rules); string(got) != want {
			t.Errorf("%s:\n got %s\nwant %s", s, got, want)
		}
		for _, r := range rules {
			text, ok := r.Text()
			if again, err := sandbox.ParseNetworkRules(text); !ok || err != nil || !reflect.DeepEqual(again, []sandbox.NetworkRule{r}) {
				t.Errorf("%s: as a text it is %q, %v: %+v, %v", s, text, ok, again, err)
			}
		}
	}
	for _, s := range []string{
		"", "allow", "@any", "permit@any", "allow@", "allow:out@any", "allow@any:sctp", "allow@any:tcp:", "allow@any:", "allow@any:tcp:0", "allow@any:tcp:9-8",
		"allow@any:tcp:65536", "allow@any:icmpv4:1", "allow:any@any:icmpv4", "allow:ingress@any:icmpv6", "allow@dns:udp:53", "allow:ingress@dns", "allow@dns:icmpv4", "allow@dns,80",
		"allow@publik", "allow@*.com", "allow@suffix=com", "allow@1.2.3", "allow@300.1.1.1", "allow@10.0.0.1/8", "allow@[::1", "allow@[1.2.3.4]", "allow@[::1]x", "allow@a..b", "allow@-a.b",
		"allow@a b.c", "allow@fe80::1%eth0", "443,allow@any", "allow@any,443", "allow@any:tcp:80,", "allow@domain=", "allow@any:tcp:80:81",
	} {
		if rules, err := sandbox.ParseNetworkRules(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %+v, %v", s, rules, err)
		}
	}
}

func TestNetworkRuleText(t *testing.T) {
	for _, r := range []sandbox.NetworkRule{
		{Direction: "egress", Action: "allow", Protocols: []string{"tcp", "udp"}},
		{Direction: "egress", Action: "allow", Destination: sandbox.Destination{DomainSuffix: "com"}},
		{Direction: "ingress", Action: "allow", Protocols: []string{"icmpv4"}},
	} {
		if text, ok := r.Text(); ok {
			t.Errorf("%+v is %q", r, text)
		}
	}
	if text, ok := (sandbox.NetworkRule{Action: "deny"}).Text(); text != "deny:any@any" || !ok {
		t.Errorf("a rule of both directions is %q, %v", text, ok)
	}
}

func TestNetworkFlags(t *testing.T) {
	public := sandbox.PublicPolicy()
	if p, err := (sandbox.NetworkFlags{}).Policy(); p != nil || err != nil {
		t.Errorf("no flags: %+v, %v", p, err)
	}
	private := sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Group: "private"}, Action: "allow"}
	deny := sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{CIDR: "1.2.3.4/32"}, Action: "deny"}
	for _, c := range []struct {
		name  string
		flags sandbox.NetworkFlags
		want  sandbox.NetworkPolicy
	}{
		{"public", sandbox.NetworkFlags{Profiles: []string{"public"}}, public},
		{"private,public", sandbox.NetworkFlags{Profiles: []string{"private", "public"}}, sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: append(append([]sandbox.NetworkRule{}, public.Rules...), private)}},
		{"all", sandbox.NetworkFlags{Profiles: []string{"all"}}, sandbox.NetworkPolicy{DefaultEgress: "allow", DefaultIngress: "allow"}},
		{"none", sandbox.NetworkFlags{Profiles: []string{"none"}}, sandbox.DenyAllPolicy()},
		{"no-net", sandbox.NetworkFlags{NoNet: true}, sandbox.DenyAllPolicy()},
		{"no-net with a rule", sandbox.NetworkFlags{NoNet: true, Rules: []string{"deny@1.2.3.4"}}, sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "deny", Rules: []sandbox.NetworkRule{deny}}},
		{"default deny", sandbox.NetworkFlags{Default: "deny"}, sandbox.DenyAllPolicy()},
		{"rules first", sandbox.NetworkFlags{Rules: []string{"deny@1.2.3.4"}, Profiles: []string{"public"}}, sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: append([]sandbox.NetworkRule{deny}, public.Rules...)}},
		{"a rule only", sandbox.NetworkFlags{Rules: []string{"deny@1.2.3.4"}}, sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: []sandbox.NetworkRule{deny}}},
		{"ingress only", sandbox.NetworkFlags{DefaultIngress: "deny"}, sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "deny", Rules: public.Rules}},
	} {
		p, err := c.flags.Policy()
		if err != nil || !reflect.DeepEqual(*p, c.want) {
			t.Errorf("%s: %+v, %v", c.name, p, err)
		}
	}
	for _, f := range []sandbox.NetworkFlags{
		{Profiles: []string{"all,public"}}, {Profiles: []string{"everything"}}, {Profiles: []string{""}}, {NoNet: true, Profiles: []string{"public"}},
		{NoNet: true, Default: "allow"}, {Default: "maybe"}, {Rules: []string{"x"}},
	} {
		if p, err := f.Policy(); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%+v: %+v, %v", f, p, err)
		}
	}
}

func TestProfileHint(t *testing.T) {
	for _, profiles := range [][]string{{"all", "none"}, {"everything"}} {
		var e *sandbox.Error
		if _, err := (sandbox.NetworkFlags{Profiles: profiles}).Policy(); !errors.As(err, &e) || e.Hint == "" {
			t.Errorf("%q: %v, and no hint", profiles, err)
		}
	}
}

func TestNetworkPolicyJSON(t *testing.T) {
	b, err := json.Marshal(&struct{ P sandbox.NetworkPolicy }{sandbox.DenyAllPolicy()})
	if want := `{"P":{"default_egress":"deny","default_ingress":"deny","rules":[]}}`; err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
	var p sandbox.NetworkPolicy
	if err := json.Unmarshal([]byte(`{"rules":[{"destination":{"domain_suffix":"a.b"},"action":"allow"}]}`), &p); err != nil || p.DefaultEgress != "" || p.Rules[0].Destination.DomainSuffix != "a.b" {
		t.Errorf("%+v, %v", p, err)
	}
}

func FuzzParseNetworkRules(f *testing.F) {
	for _, s := range []string{"allow@example.com:tcp:443,80", "deny:any@[fd00::]/8:udp:1-2", "allow@dns", "deny@*.a.b", "allow@suffix=a.b", "allow@::1", "@,:,[,]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rules, err := sandbox.ParseNetworkRules(s)
		if err != nil {
			if !errors.Is(err, sandbox.InvalidArgument) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		b, err := json.Marshal(rules)
		if err != nil {
			t.Fatal(err)
		}
		var again []sandbox.NetworkRule
		if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, rules) {
			t.Fatalf("%q: %s came back as %+v, %v", s, b, again, err)
		}
	})
}
