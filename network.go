package microsandbox

import (
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// NetworkConfig says what a sandbox may reach and who reaches it. With no rules and no defaults it may reach public addresses
// and ask for names. Where there are some, it may reach nothing else; who reaches it is not bounded by that, but by the ports that
// are published.
type NetworkConfig struct {
	Rules              []PolicyRule // the first that matches wins
	DefaultEgress      PolicyAction // where no rule matches; default deny
	DefaultIngress     PolicyAction // default allow
	DenyDomains        []string     // names that come before all rules
	DenyDomainSuffixes []string     // the same, with all names below them
	DNS                *DNSConfig
	// DNSRebindProtection is that of DNS, where DNS does not say it.
	DNSRebindProtection *bool
	TLS                 *TLSConfig
	Ports               map[uint16]uint16 // TCP, by the port of this machine
	PortBindings        []PortBinding
	IPv4Pool            string // default 172.16.0.0/12
	IPv6Pool            string // default fd42:6d73:62::/48
	MaxConnections      *uint  // default 256
	RateLimiter         *NetworkRateLimiterConfig
	OnSecretViolation   ViolationAction
	TrustHostCAs        *bool
}

// PortBinding publishes a port of the guest on an address of this machine.
type PortBinding struct {
	Bind      string // default 127.0.0.1
	HostPort  uint16 // 0 is any that is free
	GuestPort uint16
	Protocol  PortProtocol
}

// DNSConfig says who answers the guest's questions.
type DNSConfig struct {
	RebindProtection *bool    // default true
	Nameservers      []string // IP or IP:PORT; default those of this machine
	QueryTimeoutMs   *uint64  // default 5000
}

// NetworkRateLimiterConfig bounds what passes a sandbox's network link, each direction for itself.
type NetworkRateLimiterConfig struct {
	Egress  *RateLimiterConfig
	Ingress *RateLimiterConfig
}

// RateLimiterConfig bounds bytes and packets.
type RateLimiterConfig struct {
	Bandwidth *TokenBucketConfig // tokens are bytes
	Ops       *TokenBucketConfig // tokens are packets
}

// TokenBucketConfig holds Size tokens and is filled from empty in RefillTime, rounded up to milliseconds. It starts full,
// with OneTimeBurst tokens above that.
type TokenBucketConfig struct {
	Size         uint64
	RefillTime   time.Duration
	OneTimeBurst uint64
}

// PolicyRule is one network rule.
type PolicyRule struct {
	Action    PolicyAction
	Direction PolicyDirection // default egress
	// Destination is "*" or "any", a group (public, private, loopback, link-local, metadata, multicast, host), an address, a
	// range such as 10.0.0.0/8, a name, or a suffix of names such as ".example.com" or "*.example.com".
	Destination string
	Protocol    PolicyProtocol   // one; default all
	Protocols   []PolicyProtocol // or several
	Port        string           // one, or a range such as 8000-9000; default all
	Ports       []string         // or several
}

type ruleFactory struct{}

// Rule makes [PolicyRule]s.
var Rule ruleFactory

// AllowDNS lets the guest ask names of its gateway.
func (ruleFactory) AllowDNS() PolicyRule { return dnsRule(PolicyActionAllow) }

// DenyDNS does not.
func (ruleFactory) DenyDNS() PolicyRule { return dnsRule(PolicyActionDeny) }

func dnsRule(action PolicyAction) PolicyRule {
	return PolicyRule{Action: action, Direction: PolicyDirectionEgress, Destination: sandbox.GroupHost,
		Protocols: []PolicyProtocol{PolicyProtocolUDP, PolicyProtocolTCP}, Port: "53"}
}

type networkPolicyFactory struct{}

// NetworkPolicy makes [NetworkConfig]s.
var NetworkPolicy networkPolicyFactory

// None refuses everything in both directions.
func (networkPolicyFactory) None() *NetworkConfig {
	return &NetworkConfig{DefaultEgress: PolicyActionDeny, DefaultIngress: PolicyActionDeny}
}

// AllowAll lets everything pass but what no rule can open.
func (networkPolicyFactory) AllowAll() *NetworkConfig {
	return &NetworkConfig{DefaultEgress: PolicyActionAllow, DefaultIngress: PolicyActionAllow}
}

// FromProfiles lets the guest reach groups of addresses, and ask for names. It panics at a profile that is unknown; see
// FromProfilesChecked.
func (networkPolicyFactory) FromProfiles(profiles ...NetworkProfile) *NetworkConfig {
	c, err := NetworkPolicy.FromProfilesChecked(profiles...)
	if err != nil {
		panic(err)
	}
	return c
}

// FromProfilesChecked does so, and returns an ErrInvalidConfig for a profile that is unknown. Without profiles the guest
// reaches nothing, and others reach it.
func (networkPolicyFactory) FromProfilesChecked(profiles ...NetworkProfile) (*NetworkConfig, error) {
	c := &NetworkConfig{DefaultEgress: PolicyActionDeny, DefaultIngress: PolicyActionAllow}
	given := map[NetworkProfile]bool{}
	for _, p := range profiles {
		switch p {
		case NetworkProfilePublic, NetworkProfilePrivate, NetworkProfileHost:
			given[p] = true
		default:
			return nil, fail(ErrInvalidConfig, "invalid config: network profile \""+string(p)+"\" is unknown: use public, private or host")
		}
	}
	if len(given) > 0 {
		c.Rules = append(c.Rules, Rule.AllowDNS())
	}
	for _, p := range []NetworkProfile{NetworkProfilePublic, NetworkProfilePrivate, NetworkProfileHost} {
		if given[p] {
			c.Rules = append(c.Rules, PolicyRule{Action: PolicyActionAllow, Direction: PolicyDirectionEgress, Destination: string(p)})
		}
	}
	return c, nil
}

// TLSConfig says how this machine looks into the sandbox's TLS connections.
type TLSConfig struct {
	Bypass                []string // hosts that are not looked into
	VerifyUpstream        *bool    // default true
	InterceptedPorts      []uint16 // default 443
	BlockQUIC             *bool    // default true
	CACert                string   // PEM files of the certificate authority to do so with
	CAKey                 string
	UpstreamCACerts       []string // PEM files to trust in servers
	ScopedUpstreamCACerts []ScopedUpstreamCACert
	ScopedVerifyUpstream  []ScopedVerifyUpstream
}

// ScopedUpstreamCACert trusts a PEM file in the servers of a pattern.
type ScopedUpstreamCACert struct {
	Pattern string
	Path    string
}

// ScopedVerifyUpstream says whether the certificates of a pattern's servers are verified.
type ScopedVerifyUpstream struct {
	Pattern string
	Verify  bool
}

// SecretEntry is a value that never enters the sandbox. The guest has a placeholder in a variable, which is replaced in what
// goes to the hosts that may see the value.
type SecretEntry struct {
	EnvVar            string
	Value             string
	AllowHosts        []string
	AllowHostPatterns []string // such as *.example.com
	Placeholder       string   // default $MSB_<EnvVar>
	RequireTLS        *bool    // default true
	OnViolation       ViolationAction
}

// SecretEnvOptions are those of Secret.Env.
type SecretEnvOptions struct {
	AllowHosts        []string
	AllowHostPatterns []string
	Placeholder       string
	RequireTLS        *bool
	OnViolation       ViolationAction
}

type secretFactory struct{}

// Secret makes [SecretEntry]s.
var Secret secretFactory

// Env is a secret whose placeholder the guest has in a variable.
func (secretFactory) Env(envVar, value string, opts SecretEnvOptions) SecretEntry {
	return SecretEntry{EnvVar: envVar, Value: value, AllowHosts: opts.AllowHosts, AllowHostPatterns: opts.AllowHostPatterns,
		Placeholder: opts.Placeholder, RequireTLS: opts.RequireTLS, OnViolation: opts.OnViolation}
}

// OutboundProxy is a SOCKS proxy. Make it with [Proxy].
type OutboundProxy struct {
	kind                  string
	address               string // IP:PORT
	userID                string
	username, passwordEnv string
}

type proxyFactory struct{}

// Proxy makes [OutboundProxy]s.
var Proxy proxyFactory

// Socks4 is a SOCKS4 proxy at IP:PORT; userID may be "".
func (proxyFactory) Socks4(address, userID string) OutboundProxy {
	return OutboundProxy{kind: "socks4", address: address, userID: userID}
}

// Socks5 is a SOCKS5 proxy at IP:PORT. The password of username, if there is one, is in the variable passwordEnv of this
// machine's environment.
func (proxyFactory) Socks5(address, username, passwordEnv string) OutboundProxy {
	return OutboundProxy{kind: "socks5", address: address, username: username, passwordEnv: passwordEnv}
}
