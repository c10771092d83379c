package sandbox_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestParsePort(t *testing.T) {
	for s, want := range map[string]string{
		"8080:80": "127.0.0.1:8080->80/tcp", "0:80": "127.0.0.1:0->80/tcp", "0.0.0.0:53:53/udp": "0.0.0.0:53->53/udp",
		"[::1]:8080:80/tcp": "[::1]:8080->80/tcp", "[::]:1:65535": "[::]:1->65535/tcp", "10.1.2.3:0:22": "10.1.2.3:0->22/tcp",
	} {
		if p, err := sandbox.ParsePort(s); err != nil || p.String() != want {
			t.Errorf("%s: %s, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "80", ":80", "80:", "80:0", "65536:80", "80:65536", "-1:80", "a:80", "80:80/sctp", "80:80/", "::1:80:80", "[::1:80:80", "::1]:80:80",
		"localhost:80:80", "[127.0.0.1]:80:80", "1.2.3:80:80", ":80:80", "[]:80:80", "80:80:80:80", "8 0:80", "+1:80"} {
		if p, err := sandbox.ParsePort(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %s, %v", s, p, err)
		}
	}
}

func TestParseRates(t *testing.T) {
	for s, want := range map[string]sandbox.TokenBucket{
		"10M": {Size: 10 << 20, RefillTimeMS: 1000}, "1": {Size: 1 << 20, RefillTimeMS: 1000}, "64K/100ms": {Size: 64 << 10, RefillTimeMS: 100}, "1G/1m": {Size: 1 << 30, RefillTimeMS: 60000},
	} {
		if b, err := sandbox.ParseBandwidth(s); err != nil || b != want {
			t.Errorf("%s: %+v, %v", s, b, err)
		}
	}
	if b, err := sandbox.ParseOps("100/5"); err != nil || b != (sandbox.TokenBucket{Size: 100, RefillTimeMS: 5000}) {
		t.Errorf("%+v, %v", b, err)
	}
	for _, s := range []string{"", "0", "/1s", "1/", "1/0", "x", "1K/x", "-1", "1/2/3", "99999999999999999999", "1M/1000h"} {
		if b, err := sandbox.ParseBandwidth(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("bandwidth %q: %+v, %v", s, b, err)
		}
		if b, err := sandbox.ParseOps(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("ops %q: %+v, %v", s, b, err)
		}
	}
}

func TestParsePoolsAndNameservers(t *testing.T) {
	for _, s := range []string{"10.0.0.0/8", "10.99.0.0/30", "192.168.4.0/24"} {
		if _, err := sandbox.ParseIPv4Pool(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "10.0.0.0", "10.0.0.0/31", "10.0.0.1/8", "fd00::/48", "127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "::ffff:10.0.0.0/104"} {
		if _, err := sandbox.ParseIPv4Pool(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for s, ok := range map[string]bool{"fd00:1::/48": true, "fd00:1::/64": true, "fd00:1::/65": false, "10.0.0.0/8": false, "ff00::/8": false, "fe80::/10": false, "fd00::1/48": false} {
		if _, err := sandbox.ParseIPv6Pool(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
	for s, want := range map[string]string{"1.1.1.1": "1.1.1.1:53", "1.1.1.1:5353": "1.1.1.1:5353", "2606:4700::1": "[2606:4700::1]:53", "[2606:4700::1]:54": "[2606:4700::1]:54", "[::1]": "[::1]:53"} {
		if a, err := sandbox.ParseNameserver(s); err != nil || a.String() != want {
			t.Errorf("%s: %s, %v", s, a, err)
		}
	}
	for _, s := range []string{"", "dns.example", "1.1.1.1:0", "1.1.1.1:x", "fe80::1%eth0", "1.1.1"} {
		if a, err := sandbox.ParseNameserver(s); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %s, %v", s, a, err)
		}
	}
}

func TestScopePolicy(t *testing.T) {
	for scope, want := range map[string]sandbox.NetworkPolicy{"none": sandbox.DenyAllPolicy(), "group": sandbox.DenyAllPolicy(), "Public": sandbox.PublicPolicy(), "": sandbox.PublicPolicy()} {
		if p, err := sandbox.ScopePolicy(scope); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("%s: %+v, %v", scope, p, err)
		}
	}
	if p, err := sandbox.ScopePolicy("ANY"); err != nil || p.DefaultEgress != "allow" || len(p.Rules) != 2 || p.Rules[1].Destination.Group != "host" || p.Rules[1].Action != "deny" {
		t.Errorf("any: %+v, %v", p, err)
	}
	if _, err := sandbox.ScopePolicy("local"); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("local: %v", err)
	}
}

func TestDenying(t *testing.T) {
	p, err := sandbox.PublicPolicy().Denying([]string{"Ads.Example."}, []string{"*.tracker.org", ".evil.net"})
	if err != nil || len(p.Rules) != 5 || p.Rules[0].Destination.Domain != "ads.example" || p.Rules[1].Destination.DomainSuffix != "tracker.org" || p.Rules[2].Destination.DomainSuffix != "evil.net" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "a b", "1.2.3.4", "-a.b"} {
		if _, err := sandbox.PublicPolicy().Denying([]string{bad}, nil); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNetworkConf(t *testing.T) {
	all := sandbox.AllowAllPolicy()
	none := sandbox.DenyAllPolicy()
	public := sandbox.PublicPolicy()
	domain := sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Domain: "example.com"}, Protocols: []string{"tcp"}, Ports: []sandbox.PortRange{{Start: 443, End: 443}}, Action: "allow"}
	private := sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Group: "private"}, Action: "deny"}
	for conf, want := range map[string]sandbox.Network{
		`"none"`:                            {Enabled: true, Policy: &none},
		`"open"`:                            {Enabled: true, Policy: &all},
		`"public"`:                          {Enabled: true, Policy: &public},
		`{}`:                                {Enabled: true},
		`{"allow":["example.com:tcp:443"]}`: {Enabled: true, Policy: &sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: []sandbox.NetworkRule{domain}}},
		`{"policy":"open","allow":["example.com:tcp:443"]}`:                                  {Enabled: true, Policy: &sandbox.NetworkPolicy{DefaultEgress: "deny", DefaultIngress: "allow", Rules: []sandbox.NetworkRule{domain}}},
		`{"policy":"open","deny":["private"]}`:                                               {Enabled: true, Policy: &sandbox.NetworkPolicy{DefaultEgress: "allow", DefaultIngress: "allow", Rules: []sandbox.NetworkRule{private}}},
		`{"ports":["8080:80"],"strict":true}`:                                                {Enabled: true, Strict: true, Ports: []sandbox.Port{{HostPort: 8080, GuestPort: 80, Protocol: "tcp"}}},
		`{"dns":{"rebind_protection":false,"query_timeout":"2s","nameservers":["1.1.1.1"]}}`: {Enabled: true, DNS: &sandbox.DNS{NoRebindProtection: true, QueryTimeoutMS: 2000, Nameservers: []string{"1.1.1.1"}}},
	} {
		var c sandbox.NetworkConf
		if err := json.Unmarshal([]byte(conf), &c); err != nil {
			t.Errorf("%s: %v", conf, err)
			continue
		}
		if n, err := c.Network(); err != nil || !reflect.DeepEqual(n, want) {
			t.Errorf("%s: %+v, %v", conf, n, err)
		}
	}
	for _, conf := range []string{`"local"`, `{"polcy":"none"}`, `{"allow":["private@"]}`, `{"ports":["80"]}`, `{"dns":{"query_timeout":"x"}}`, `{"dns":{"nameservers":["a"]}}`, `{"policy":"none","ports":["80:80"]}`, `{"max_connections":0}`, `7`, `{"rate_limiter":{"egress":{"ops":{"size":0,"refill_time_ms":1}}}}`, `{"interface":{"ipv4_pool":"10.0.0.0/31"}}`} {
		var c sandbox.NetworkConf
		err := json.Unmarshal([]byte(conf), &c)
		if err == nil {
			_, err = c.Network()
		}
		if err == nil {
			t.Errorf("%s is taken", conf)
		}
	}
}

func TestValidatePorts(t *testing.T) {
	spec := func(ports ...sandbox.Port) error {
		s := sandbox.Spec{Name: "s", Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "host"}}}
		s.Network.Ports = ports
		return s.WithDefaults().Validate()
	}
	port := func(s string) sandbox.Port {
		p, err := sandbox.ParsePort(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, ok := range [][]sandbox.Port{
		{port("80:80"), port("80:80/udp")}, {port("0:80"), port("0:80")}, {port("127.0.0.1:80:1"), port("127.0.0.2:80:1")}, {port("[::]:80:1"), port("0.0.0.0:80:1")}, {{HostPort: 1, GuestPort: 1}},
	} {
		if err := spec(ok...); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	for _, bad := range [][]sandbox.Port{
		{port("80:80"), port("80:81")}, {port("0.0.0.0:80:1"), port("80:1")}, {{HostPort: 1, Protocol: "tcp"}}, {{GuestPort: 1, Protocol: "sctp"}}, {{GuestPort: 1, HostBind: "localhost"}}, make([]sandbox.Port, 257),
	} {
		if err := spec(bad...); !errors.Is(err, sandbox.InvalidConfig) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"8080:80", "[::1]:8080:80/udp", "0.0.0.0:0:1", ":::", "[]:1:1", "1/2:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := sandbox.ParsePort(s)
		if err != nil {
			if !errors.Is(err, sandbox.InvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		spec := sandbox.Spec{Name: "s", Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: "host"}}, Network: sandbox.Network{Ports: []sandbox.Port{p}}}
		if err := spec.WithDefaults().Validate(); err != nil {
			t.Fatalf("%q is read and refused: %v", s, err)
		}
	})
}

func FuzzNetworkConf(f *testing.F) {
	for _, s := range []string{`"open"`, `{"allow":["*.a.b"],"deny":["private"],"ports":["0:80"],"dns":{"nameservers":["1.1.1.1"]}}`, `{"rate_limiter":{"egress":{"bandwidth":{"size":1,"refill_time_ms":1}}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var c sandbox.NetworkConf
		if json.Unmarshal(b, &c) != nil {
			return
		}
		n, err := c.Network()
		if err != nil {
			return
		}
		// What is taken fails closed: an allow list never comes with an open default.
		if len(c.Allow) > 0 && n.Policy.DefaultEgress == sandbox.Allow {
			t.Fatalf("%s leaves the default open", b)
		}
		out, err := json.Marshal(n)
		var again sandbox.Network
		if err != nil || json.Unmarshal(out, &again) != nil {
			t.Fatalf("%s: %s, %v", b, out, err)
		}
	})
}
