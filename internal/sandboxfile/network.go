package sandboxfile

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Network says what a sandbox may reach (contract msb-0.6 §1.6): a word, or keys. In a Sandboxfile it may also be {scope: …}, as old
// versions of msb add wrote it.
type Network struct {
	Scope          string   `yaml:"scope,omitempty"`
	Policy         string   `yaml:"policy,omitempty"`          // none | public | open; default public, or none where Allow says something
	Allow          []string `yaml:"allow,omitempty"`           // TARGET[:PROTO[:PORTS]] of a network rule
	Deny           []string `yaml:"deny,omitempty"`            // the same; these come first
	Rules          []string `yaml:"rules,omitempty"`           // ACTION[:DIRECTION]@TARGET[:PROTO[:PORTS]], in the place of policy, allow and deny: the first that matches wins
	DefaultEgress  string   `yaml:"default_egress,omitempty"`  // where no rule matches: allow | deny (default)
	DefaultIngress string   `yaml:"default_ingress,omitempty"` // allow (default) | deny
	Ports          []string `yaml:"ports,omitempty"`           // [BIND:]HOST:GUEST[/udp], beside those of the sandbox
	DNS            *DNS     `yaml:"dns,omitempty"`             //
	TLS            *TLS     `yaml:"tls,omitempty"`             //
	TrustHostCAs   *bool    `yaml:"trust_host_cas,omitempty"`  //
	MaxConnections *uint16  `yaml:"max_connections,omitempty"` //
}

// DNS says who answers the guest's questions.
type DNS struct {
	RebindProtection *bool    `yaml:"rebind_protection,omitempty"`
	Nameservers      []string `yaml:"nameservers,omitempty"`
	QueryTimeout     Duration `yaml:"query_timeout,omitempty"`
}

// TLS says whether TLS is looked into.
type TLS struct {
	Enabled        *bool    `yaml:"enabled,omitempty"`
	Bypass         []string `yaml:"bypass,omitempty"`
	VerifyUpstream *bool    `yaml:"verify_upstream,omitempty"`
	BlockQUIC      *bool    `yaml:"block_quic,omitempty"`
	// Of a Sandboxfile only:
	InterceptedPorts []uint16 `yaml:"intercepted_ports,omitempty"` // default 443
	UpstreamCACert   []string `yaml:"upstream_ca_cert,omitempty"`  // PEM files, trusted beside this machine's
}

// networkWords are the policies that have a name.
var networkWords = []string{"none", "public", "open"}

func (w *Network) decodeNode(d *decoder, n *yaml.Node, at string) error {
	switch {
	case n.Kind == yaml.ScalarNode && !null(n):
		word, err := d.text(n)
		if err != nil {
			return err
		}
		if !slices.Contains(networkWords, word) {
			return d.fail(n, "%s: want none, public, open or keys and values, not %s", at, clip(word))
		}
		w.Policy, w.Allow, w.Deny = word, nil, nil
		return nil
	case empty(n) && !d.strict:
		return nil
	}
	var said Network
	type plain Network // its fields, and not this function
	if err := d.object(n, reflect.ValueOf((*plain)(&said)).Elem(), at); err != nil {
		return err
	}
	for key, is := range map[string]bool{"scope": said.Scope != "", "rules": said.Rules != nil, "default_egress": said.DefaultEgress != "", "default_ingress": said.DefaultIngress != "",
		"tls.intercepted_ports": said.TLS != nil && said.TLS.InterceptedPorts != nil, "tls.upstream_ca_cert": said.TLS != nil && said.TLS.UpstreamCACert != nil} {
		if is && d.strict {
			return d.fail(n, "%s has no key %q", orRoot(at), key)
		}
	}
	w.Rules, w.DefaultEgress, w.DefaultIngress = said.Rules, said.DefaultEgress, said.DefaultIngress
	if said.Policy != "" && !slices.Contains(networkWords, said.Policy) {
		return d.fail(n, "%s: want none, public or open, not %s", join2(at, "policy"), clip(said.Policy))
	}
	if said.Policy != "" || said.Allow != nil || said.Deny != nil { // the policy is replaced as one
		w.Policy, w.Allow, w.Deny = said.Policy, said.Allow, said.Deny
	}
	if said.Scope != "" {
		w.Scope = said.Scope
	}
	if said.Ports != nil {
		w.Ports = said.Ports
	}
	if said.DNS != nil {
		w.DNS = said.DNS
	}
	if said.TLS != nil {
		w.TLS = said.TLS
	}
	if said.TrustHostCAs != nil {
		w.TrustHostCAs = said.TrustHostCAs
	}
	if said.MaxConnections != nil {
		w.MaxConnections = said.MaxConnections
	}
	return nil
}

// said reports whether there is a word about the policy.
func (w *Network) said() bool {
	return w != nil && (w.Policy != "" || len(w.Allow) > 0 || len(w.Deny) > 0) || w.ruled()
}

// ruled reports whether the policy is said by rules.
func (w *Network) ruled() bool {
	return w != nil && (len(w.Rules) > 0 || w.DefaultEgress != "" || w.DefaultIngress != "")
}

// rules is the policy that is said by them.
func (w *Network) rules() (*sandbox.NetworkPolicy, error) {
	if w.Policy != "" || len(w.Allow) > 0 || len(w.Deny) > 0 {
		return nil, fmt.Errorf("rules and their defaults do not go with policy, allow and deny")
	}
	p := sandbox.NetworkPolicy{DefaultEgress: cmp.Or(w.DefaultEgress, sandbox.Deny), DefaultIngress: cmp.Or(w.DefaultIngress, sandbox.Allow)}
	for _, word := range []string{p.DefaultEgress, p.DefaultIngress} {
		if word != sandbox.Allow && word != sandbox.Deny {
			return nil, fmt.Errorf("the default of network rules is %q: want allow or deny", clip(word))
		}
	}
	for _, text := range w.Rules {
		rules, err := sandbox.ParseNetworkRules(text)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, rules...)
	}
	return &p, nil
}

// policy is what the words ask for; nil is the default.
func (w *Network) policy() (*sandbox.NetworkPolicy, error) {
	switch {
	case !w.said():
		return nil, nil
	case w.ruled():
		return w.rules()
	}
	var p sandbox.NetworkPolicy
	for _, list := range []struct {
		action  string
		targets []string
	}{{sandbox.Deny, w.Deny}, {sandbox.Allow, w.Allow}} {
		for _, target := range list.targets {
			if strings.Contains(target, "@") {
				return nil, fmt.Errorf("%q is no target: write one without allow or deny, such as example.com:tcp:443", clip(target))
			}
			rules, err := sandbox.ParseNetworkRules(list.action + "@" + target)
			if err != nil {
				return nil, err
			}
			p.Rules = append(p.Rules, rules...)
		}
	}
	base := sandbox.PublicPolicy()
	switch {
	case w.Policy == "open":
		base = sandbox.NetworkPolicy{DefaultEgress: sandbox.Allow, DefaultIngress: sandbox.Allow}
	case w.Policy == "none" && len(w.Allow) == 0:
		base = sandbox.DenyAllPolicy()
	case w.Policy == "none", w.Policy == "" && len(w.Allow) > 0: // names are asked for by the gateway, those only that some rule is about
		base = sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Allow, Rules: base.Rules[:1]}
	}
	p.DefaultEgress, p.DefaultIngress = base.DefaultEgress, base.DefaultIngress
	p.Rules = append(p.Rules, base.Rules...)
	return &p, nil
}

// apply puts what is said into n. Its ports replace those that are there, if there are any.
func (w *Network) apply(n *sandbox.Network) error {
	if w == nil {
		return nil
	}
	p, err := w.policy()
	if err != nil {
		return err
	}
	if p != nil {
		n.Policy, n.Enabled = p, true
	}
	if w.Ports != nil {
		n.Ports = nil
		for _, s := range w.Ports {
			port, err := sandbox.ParsePort(s)
			if err != nil {
				return err
			}
			n.Ports = append(n.Ports, port)
		}
	}
	if w.DNS != nil {
		n.DNS = &sandbox.DNS{NoRebindProtection: w.DNS.RebindProtection != nil && !*w.DNS.RebindProtection, Nameservers: w.DNS.Nameservers,
			QueryTimeoutMS: int(w.DNS.QueryTimeout.Or(0) / time.Millisecond)}
	}
	if w.TLS != nil {
		n.TLS = &sandbox.TLS{Enabled: w.TLS.Enabled == nil || *w.TLS.Enabled, Bypass: w.TLS.Bypass, VerifyUpstream: w.TLS.VerifyUpstream, BlockQUIC: w.TLS.BlockQUIC,
			InterceptedPorts: w.TLS.InterceptedPorts, UpstreamCACert: slices.Clone(w.TLS.UpstreamCACert)}
	}
	if w.TrustHostCAs != nil {
		n.TrustHostCAs = *w.TrustHostCAs
	}
	if w.MaxConnections != nil {
		most := int(*w.MaxConnections)
		n.MaxConnections = &most
	}
	return nil
}

// Secret is a value that never enters the sandbox (contract msb-0.6 §1.6). Without Value, it is that of the variable of its name
// where msb runs.
type Secret struct {
	Value              SecretValue `yaml:"value,omitempty"`
	Allow              []string    `yaml:"allow,omitempty"`
	Inject             []string    `yaml:"inject,omitempty"` // headers, basic_auth, query_params, body
	RequireTLSIdentity *bool       `yaml:"require_tls_identity,omitempty"`
}

// SecretValue is a text that is not printed.
type SecretValue string

// String hides it.
func (SecretValue) String() string { return "[secret]" }

// GoString hides it.
func (SecretValue) GoString() string { return "[secret]" }

// secrets makes of those of a file what a spec has, by their names.
func secrets(of map[string]Secret) (*sandbox.Secrets, error) {
	if len(of) == 0 {
		return nil, nil
	}
	var s sandbox.Secrets
	for _, name := range sortedKeys(of) {
		c := of[name]
		one, err := sandbox.SecretConf{Value: sandbox.SecretValue(c.Value), Allow: c.Allow, Inject: c.Inject, RequireTLSIdentity: c.RequireTLSIdentity}.Secret(name)
		if err != nil {
			return nil, err
		}
		s.Secrets = append(s.Secrets, one)
	}
	return &s, nil
}
