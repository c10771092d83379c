package sandbox

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestParseSecret(t *testing.T) {
	env := func(n string) *SecretSource { return &SecretSource{Kind: SecretFromEnv, Var: n} }
	for in, want := range map[string]Secret{
		"KEY@api.example.com":        {EnvVar: "KEY", Source: env("KEY"), AllowedHosts: []HostPattern{{Exact: "api.example.com"}}},
		"K@A.test,*.B.test,10.0.0.1": {EnvVar: "K", Source: env("K"), AllowedHosts: []HostPattern{{Exact: "a.test"}, {Wildcard: "*.b.test"}, {Exact: "10.0.0.1"}}},
		"K@*":                        {EnvVar: "K", Source: env("K"), AllowedHosts: []HostPattern{{Any: true}}},
	} {
		if got, err := ParseSecret(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "KEY", "KEY@", "@host", "KEY=hunter2@host", "KEY@host,", "KEY@hun ter2", "KEY@https://hunter2", "KEY@a:443", "KEY@*.", "KEY@a..b", "KEY=hunter2"} {
		_, err := ParseSecret(in)
		if KindOf(err) != InvalidArgument || strings.Contains(err.Error(), "hunter2") || strings.Contains(HintOf(err), "hunter2") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestParseProxy(t *testing.T) {
	for _, in := range []string{"socks5://127.0.0.1:1080", "socks4://10.0.0.1:9", "socks5://[::1]:1"} {
		if p, err := ParseProxy(in); err != nil || p.Protocol+"://"+p.Address != in || p.validate() != nil {
			t.Errorf("%q: %+v, %v", in, p, err)
		}
	}
	for _, in := range []string{"", "http://1.2.3.4:1", "socks5://me:hunter2@1.2.3.4:1", "socks5://host:1", "socks5://1.2.3.4", "socks4://1.2.3.4:x"} {
		if _, err := ParseProxy(in); KindOf(err) != InvalidArgument || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, p := range []OutboundProxy{
		{Protocol: "socks4", Address: "1.2.3.4:1", Username: "x", PasswordEnv: "P"}, {Protocol: "socks5", Address: "1.2.3.4:1", UserID: "x"},
		{Protocol: "socks5", Address: "1.2.3.4:1", Username: "x"}, {Protocol: "socks5", Address: "1.2.3.4:0"}, {Protocol: "socks5", Address: "1.2.3.4:1", Username: strings.Repeat("x", 256), PasswordEnv: "P"},
	} {
		if p.validate() == nil {
			t.Errorf("%+v is taken for valid", p)
		}
	}
}

// TestSecretsJSON holds the stored form to contract msb-0.6 §2.12.
func TestSecretsJSON(t *testing.T) {
	x, err := ParseSecret("K@api.x.com")
	if err != nil {
		t.Fatal(err)
	}
	n := Network{Secrets: &Secrets{Secrets: []Secret{x}}}.withSecrets()
	yes := true
	n.Secrets.Secrets[0].RequireTLSIdentity = &yes
	b, err := json.Marshal(n.Secrets)
	const want = `{"secrets":[{"env_var":"K","value":"","source":{"kind":"env","var":"K"},"placeholder":"$MSB_K","allowed_hosts":[{"exact":"api.x.com"}],"injection":{},"require_tls_identity":true}],"on_violation":"block-and-log"}`
	if err != nil || string(b) != want {
		t.Errorf("%s\n%v, want\n%s", b, err, want)
	}
	if n.TLS == nil || !n.TLS.Enabled {
		t.Error("secrets do not imply that TLS is looked into")
	}
	n.Secrets.OnViolation = ViolationAction{Action: ViolationPassthrough, Hosts: []HostPattern{{Wildcard: "*.a.b"}, {Any: true}}}
	b, err = json.Marshal(n.Secrets)
	var back Secrets
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || !reflect.DeepEqual(back, *n.Secrets) {
		t.Errorf("%s became\n%+v, %v", b, back, err)
	}
	withValue := Secret{EnvVar: "K", Value: "hunter2", AllowedHosts: []HostPattern{{Exact: "a.b"}}}
	b, _ = json.Marshal(Spec{Network: Network{Secrets: &Secrets{Secrets: []Secret{withValue}}}})
	if all := string(b) + fmt.Sprintf("%v %+v %#v %s %q", withValue, withValue, withValue, withValue.Value, withValue.Value); strings.Contains(all, "hunter2") {
		t.Error("the value is shown:", all)
	}
	if err := json.Unmarshal([]byte(`{"value":"hunter2"}`), &withValue); err != nil || withValue.Value.Reveal() != "hunter2" {
		t.Error("a value that is given inline is not read:", err)
	}
}

func TestSecretsValidate(t *testing.T) {
	good := func() Secret {
		return Secret{EnvVar: "K", Placeholder: "$MSB_K", AllowedHosts: []HostPattern{{Exact: "a.b"}}, Source: &SecretSource{Kind: SecretFromEnv, Var: "K"}}
	}
	if err := (&Secrets{Secrets: []Secret{good()}}).validate(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Secret){
		"a name of ours":     func(s *Secret) { s.EnvVar = "MSB_X" },
		"no host":            func(s *Secret) { s.AllowedHosts = nil },
		"an empty pattern":   func(s *Secret) { s.AllowedHosts = []HostPattern{{}} },
		"a bad pattern":      func(s *Secret) { s.AllowedHosts = []HostPattern{{Wildcard: "a.b"}} },
		"two patterns":       func(s *Secret) { s.AllowedHosts = []HostPattern{{Wildcard: "*.a.b", Exact: "c"}} },
		"a line":             func(s *Secret) { s.Placeholder = "a\nb" },
		"a long placeholder": func(s *Secret) { s.Placeholder = strings.Repeat("x", MaxPlaceholder+1) },
		"value and source":   func(s *Secret) { s.Value = "x" },
		"an unknown source":  func(s *Secret) { s.Source.Kind = "vault" },
		"an unknown action":  func(s *Secret) { s.OnViolation = &ViolationAction{Action: "explode"} },
		"hosts of a block":   func(s *Secret) { s.OnViolation = &ViolationAction{Action: ViolationBlock, Hosts: s.AllowedHosts} },
	} {
		s := good()
		change(&s)
		if err := (&Secrets{Secrets: []Secret{s}}).validate(); KindOf(err) != InvalidConfig {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (&Secrets{Secrets: []Secret{good(), good()}}).validate(); KindOf(err) != InvalidConfig {
		t.Error("twice the same:", err)
	}
}

func TestSecretConf(t *testing.T) {
	var c SecretConf
	if err := json.Unmarshal([]byte(`{"value":"hunter2","allow":["*.a.b"],"inject":["query_params","headers"],"require_tls_identity":false}`), &c); err != nil {
		t.Fatal(err)
	}
	s, err := c.Secret("K")
	in := s.Injection
	if err != nil || s.Value.Reveal() != "hunter2" || s.Source != nil || s.NeedsTLS() || !*in.Headers || *in.BasicAuth || !*in.QueryParams || in.Body != nil || s.AllowedHosts[0].Wildcard != "*.a.b" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := (SecretConf{Allow: []string{"a"}}).Secret("K"); err != nil || s.Source.Var != "K" || s.Injection != (Injection{}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []SecretConf{{Allow: []string{"a b"}}, {Inject: []string{"cookies"}}} {
		if _, err := bad.Secret("K"); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestTLSValidate(t *testing.T) {
	for what, x := range map[string]TLS{
		"a relative path": {UpstreamCACert: []string{"ca.pem"}}, "a bad pattern": {Bypass: []string{"a b"}}, "port 53": {InterceptedPorts: []uint16{53}},
		"half an authority": {InterceptCA: &InterceptCA{CertPath: "/x"}}, "a huge cache": {Cache: &CertificateCache{Capacity: 1 << 30}},
		"a bad scope": {ScopedVerifyUpstream: []ScopedVerify{{Pattern: "http://x"}}},
	} {
		if err := x.validate(); KindOf(err) != InvalidConfig {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzParseSecret(f *testing.F) {
	for _, s := range []string{"KEY@api.example.com", "K@*.b,*", "K=V@h", "@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		x, err := ParseSecret(in)
		if err != nil {
			return
		}
		s := (&Secrets{Secrets: []Secret{x}}).withDefaults()
		if len(x.AllowedHosts) == 0 || x.Source == nil || x.Value != "" {
			t.Errorf("%q: %+v", in, x)
		}
		if s.validate() == nil {
			b, err := json.Marshal(s)
			var back Secrets
			if err != nil || json.Unmarshal(b, &back) != nil || !reflect.DeepEqual(back, *s) {
				t.Errorf("%q: %s", in, b)
			}
		}
	})
}
