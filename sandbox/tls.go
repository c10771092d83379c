package sandbox

import (
	"net/netip"
	"path/filepath"
	"strings"
)

// TLS says whether and how the runner looks into the sandbox's TLS connections (contract msb-0.6 §2.7). The guest is made
// to trust a certificate authority of this installation; its key stays on the host.
type TLS struct {
	Enabled              bool              `json:"enabled"`
	Bypass               []string          `json:"bypass,omitempty"`                  // hosts, as patterns, that are not looked into
	VerifyUpstream       *bool             `json:"verify_upstream,omitempty"`         // default true
	InterceptedPorts     []uint16          `json:"intercepted_ports,omitempty"`       // default 443
	BlockQUIC            *bool             `json:"block_quic,omitempty"`              // default true: UDP to those ports is refused
	UpstreamCACert       []string          `json:"upstream_ca_cert,omitempty"`        // PEM files, trusted beside the host's
	ScopedUpstreamCACert []ScopedCACert    `json:"scoped_upstream_ca_cert,omitempty"` // the same, for some hosts
	ScopedVerifyUpstream []ScopedVerify    `json:"scoped_verify_upstream,omitempty"`
	InterceptCA          *InterceptCA      `json:"intercept_ca,omitempty"` // default the installation's own
	Cache                *CertificateCache `json:"cache,omitempty"`
}

// ScopedCACert trusts the authorities in a PEM file for the hosts of a pattern.
type ScopedCACert struct {
	Pattern string `json:"pattern"`
	Path    string `json:"path"`
}

// ScopedVerify says for the hosts of a pattern whether their certificates are verified.
type ScopedVerify struct {
	Pattern string `json:"pattern"`
	Verify  bool   `json:"verify"`
}

// InterceptCA names the PEM files of a certificate authority and its key.
type InterceptCA struct {
	CertPath string `json:"cert_path"`
	KeyPath  string `json:"key_path"`
}

// CertificateCache bounds the certificates that are made for hosts.
type CertificateCache struct {
	Capacity      int `json:"capacity,omitempty"`       // default DefaultCertCache
	ValidityHours int `json:"validity_hours,omitempty"` // default DefaultCertHours
}

// Defaults of [TLS] (contract msb-0.6 §2.1).
const (
	DefaultTLSPort   = 443
	DefaultCertCache = 1000
	DefaultCertHours = 24

	maxTLSList = 256 // entries of each list
)

// Ports are the intercepted ports.
func (t *TLS) Ports() []uint16 {
	switch {
	case t == nil || !t.Enabled:
		return nil
	case len(t.InterceptedPorts) == 0:
		return []uint16{DefaultTLSPort}
	}
	return t.InterceptedPorts
}

// QUICBlocked reports whether UDP to the intercepted ports is refused.
func (t *TLS) QUICBlocked() bool {
	return t != nil && t.Enabled && (t.BlockQUIC == nil || *t.BlockQUIC)
}

func (t *TLS) validate() error {
	if t == nil {
		return nil
	}
	for _, n := range [...]int{len(t.Bypass), len(t.InterceptedPorts), len(t.UpstreamCACert), len(t.ScopedUpstreamCACert), len(t.ScopedVerifyUpstream)} {
		if n > maxTLSList {
			return invalid("", "a list of the TLS settings has %d entries, more than %d", n, maxTLSList)
		}
	}
	patterns, paths := append([]string{}, t.Bypass...), append([]string{}, t.UpstreamCACert...)
	for _, s := range t.ScopedUpstreamCACert {
		patterns, paths = append(patterns, s.Pattern), append(paths, s.Path)
	}
	for _, s := range t.ScopedVerifyUpstream {
		patterns = append(patterns, s.Pattern)
	}
	if t.InterceptCA != nil {
		paths = append(paths, t.InterceptCA.CertPath, t.InterceptCA.KeyPath)
	}
	for _, p := range patterns {
		if _, err := ParseHostPattern(p); err != nil {
			return invalid("", "%q in the TLS settings is no host or pattern such as *.example.com", clip(p))
		}
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) || strings.ContainsRune(p, 0) || len(p) > MaxPathLen {
			return invalid("", "%q in the TLS settings is not an absolute path of this machine", clip(p))
		}
	}
	for _, p := range t.InterceptedPorts {
		if p == 0 || p == 53 {
			return invalid("", "port %d cannot be looked into", p)
		}
	}
	if c := t.Cache; c != nil && (c.Capacity < 0 || c.Capacity > 100_000 || c.ValidityHours < 0 || c.ValidityHours > 24*366) {
		return invalid("", "the certificate cache is out of bounds")
	}
	return nil
}

// OutboundProxy is a SOCKS server that the sandbox's connections are made through.
type OutboundProxy struct {
	Protocol string `json:"protocol"` // ProxySOCKS4 or ProxySOCKS5
	Address  string `json:"address"`  // IP:PORT
	UserID   string `json:"user_id,omitempty"`
	Username string `json:"username,omitempty"`
	// PasswordEnv names the variable, where the backend runs, that has the password of Username.
	PasswordEnv string `json:"password_env,omitempty"`
}

// The protocols of an [OutboundProxy].
const (
	ProxySOCKS4 = "socks4"
	ProxySOCKS5 = "socks5"
)

// ParseProxy reads socks4://IP:PORT or socks5://IP:PORT. Its errors do not repeat what they read: it may hold a password.
func ParseProxy(s string) (OutboundProxy, error) {
	scheme, address, _ := strings.Cut(s, "://")
	_, err := netip.ParseAddrPort(address)
	if err != nil || scheme != ProxySOCKS4 && scheme != ProxySOCKS5 {
		return OutboundProxy{}, &Error{Kind: InvalidArgument, Message: "the proxy is not of the form socks4://IP:PORT or socks5://IP:PORT",
			Hint: "a user goes into --socks4-user-id or --socks5-username"}
	}
	return OutboundProxy{Protocol: scheme, Address: address}, nil
}

func (p *OutboundProxy) validate() error {
	if p == nil {
		return nil
	}
	if err := oneOf("proxy protocol", p.Protocol, ProxySOCKS4, ProxySOCKS5); err != nil {
		return err
	}
	if a, err := netip.ParseAddrPort(p.Address); err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		return invalid("", "proxy address %q is not IP:PORT", clip(p.Address))
	}
	for _, s := range [...]string{p.UserID, p.Username} {
		if len(s) > 255 || strings.ContainsRune(s, 0) { // RFC 1929 has one byte for the length
			return invalid("", "the proxy's user is longer than 255 bytes or has a NUL byte")
		}
	}
	switch {
	case p.UserID != "" && p.Protocol != ProxySOCKS4:
		return invalid("use --socks5-username", "a user ID is for SOCKS4")
	case (p.Username != "" || p.PasswordEnv != "") && p.Protocol != ProxySOCKS5:
		return invalid("use --socks4-user-id", "a user name and a password are for SOCKS5")
	case (p.Username == "") != (p.PasswordEnv == ""):
		return invalid("", "a SOCKS5 user name and the variable of its password go together")
	}
	return nil
}

// validateTLS checks what is done to connections on their way out.
func (n Network) validateTLS() error {
	for _, check := range [...]func() error{n.TLS.validate, n.Secrets.validate, n.OutboundProxy.validate} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// withSecrets fills in the defaults of secrets. Secrets need TLS to be looked into.
func (n Network) withSecrets() Network {
	n.Secrets = n.Secrets.withDefaults()
	if n.Secrets != nil && len(n.Secrets.Secrets) > 0 && (n.TLS == nil || !n.TLS.Enabled) {
		var t TLS
		if n.TLS != nil {
			t = *n.TLS
		}
		t.Enabled = true
		n.TLS = &t
	}
	return n
}
