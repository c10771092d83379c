package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// tlsFlags are the flags that say what is done to a sandbox's connections on their way out.
type tlsFlags struct {
	tls       sandbox.TLS
	quic      bool
	ca        sandbox.InterceptCA
	secrets   []sandbox.Secret
	violation string
	hostCAs   bool
	proxy     *sandbox.OutboundProxy
	socks     sandbox.OutboundProxy // its users, by their own flags
}

func (t *tlsFlags) declare(f *flags) {
	f.value("", "secret", "ENV@HOST[,HOST...]", "Secret of this environment that only these hosts get to see; the guest has a placeholder; repeatable",
		setAppend(&t.secrets, sandbox.ParseSecret))
	f.value("", "on-secret-violation", "ACTION", "What happens when the placeholder is sent elsewhere: block, block-and-log (default), block-and-terminate or passthrough",
		setWord(&t.violation, sandbox.ViolationBlock, sandbox.ViolationBlockAndLog, sandbox.ViolationBlockAndStop, sandbox.ViolationPassthrough))
	f.toggle("", "tls-intercept", "Look into TLS connections: the guest trusts an authority of this machine", &t.tls.Enabled)
	f.value("", "tls-intercept-port", "PORT", "Port on which to do so (default 443); repeatable", func(v string) error {
		var port int
		if err := setInt(&port, 1, 65535)(v); err != nil {
			return err
		}
		t.tls.InterceptedPorts = append(t.tls.InterceptedPorts, uint16(port))
		t.tls.Enabled = true
		return nil
	})
	f.value("", "tls-bypass", "DOMAIN", "Do not look into those to this host, or *.DOMAIN; repeatable", t.pattern(func(p string) {
		t.tls.Bypass = append(t.tls.Bypass, p)
	}))
	f.toggle("", "no-block-quic", "Let QUIC through all the same", &t.quic)
	f.value("", "tls-intercept-ca-cert", "PATH", "Certificate authority to do so with, in place of this installation's own", t.path(func(p string) { t.ca.CertPath = p }))
	f.value("", "tls-intercept-ca-key", "PATH", "Its key", t.path(func(p string) { t.ca.KeyPath = p }))
	f.value("", "tls-upstream-ca-cert", "PATH", "Certificate authority to trust in servers, beside this machine's; repeatable", t.path(func(p string) {
		t.tls.UpstreamCACert = append(t.tls.UpstreamCACert, p)
	}))
	f.value("", "tls-upstream-ca-cert-for", "PATTERN=PATH", "The same, for a host or *.DOMAIN; repeatable", func(v string) error {
		pattern, path, found := strings.Cut(v, "=")
		if !found {
			return fmt.Errorf("%q is not of the form PATTERN=PATH", clip(v))
		}
		if _, err := sandbox.ParseHostPattern(pattern); err != nil {
			return err
		}
		return t.path(func(p string) {
			t.tls.ScopedUpstreamCACert = append(t.tls.ScopedUpstreamCACert, sandbox.ScopedCACert{Pattern: pattern, Path: p})
		})(path)
	})
	f.value("", "tls-no-verify-upstream-for", "PATTERN", "Trust servers of this host, or *.DOMAIN, without proof; no secret goes there; repeatable", t.pattern(func(p string) {
		t.tls.ScopedVerifyUpstream = append(t.tls.ScopedVerifyUpstream, sandbox.ScopedVerify{Pattern: p})
	}))
	f.toggle("", "trust-host-cas", "Let the guest trust the certificate authorities of this machine", &t.hostCAs)
	f.value("", "proxy", "URL", "Connect through a SOCKS proxy: socks4://IP:PORT or socks5://IP:PORT", func(v string) error {
		p, err := sandbox.ParseProxy(v)
		t.proxy = &p
		return err
	})
	f.value("", "socks4-user-id", "ID", "User of a SOCKS4 proxy", setString(&t.socks.UserID))
	f.value("", "socks5-username", "NAME", "User of a SOCKS5 proxy", setString(&t.socks.Username))
	f.value("", "socks5-password-env", "VARIABLE", "Variable of this environment that has the password of a SOCKS5 proxy", setString(&t.socks.PasswordEnv))
}

// path takes a file of this machine; what is in it is the backend's to look at.
func (t *tlsFlags) path(set func(string)) func(string) error {
	return func(v string) error {
		p, err := filepath.Abs(v)
		if err == nil && v == "" {
			err = fmt.Errorf("it is empty")
		}
		if err == nil {
			set(p)
		}
		return err
	}
}

func (t *tlsFlags) pattern(set func(string)) func(string) error {
	return func(v string) error {
		_, err := sandbox.ParseHostPattern(v)
		if err == nil {
			set(v)
		}
		return err
	}
}

// network completes n.
func (t *tlsFlags) network(n *sandbox.Network) error {
	n.TrustHostCAs = t.hostCAs
	if t.ca != (sandbox.InterceptCA{}) {
		if t.ca.CertPath == "" || t.ca.KeyPath == "" {
			return usageErrorf("", "--tls-intercept-ca-cert and --tls-intercept-ca-key go together")
		}
		t.tls.InterceptCA = &t.ca
	}
	if t.quic {
		t.tls.BlockQUIC = new(bool)
	}
	if t.violation != "" && len(t.secrets) == 0 {
		return usageErrorf("", "--on-secret-violation needs --secret")
	}
	if len(t.secrets) > 0 {
		n.Secrets = &sandbox.Secrets{Secrets: t.secrets, OnViolation: sandbox.ViolationAction{Action: t.violation}}
		t.tls.Enabled = true
	}
	said := len(t.tls.Bypass)+len(t.tls.UpstreamCACert)+len(t.tls.ScopedUpstreamCACert)+len(t.tls.ScopedVerifyUpstream) > 0 || t.quic || t.tls.InterceptCA != nil
	switch {
	case t.tls.Enabled:
		n.TLS = &t.tls
	case said:
		return usageErrorf("add --tls-intercept", "the flags --tls-... and --no-block-quic are about TLS that is looked into")
	}
	if t.proxy == nil {
		if t.socks != (sandbox.OutboundProxy{}) {
			return usageErrorf("", "the flags --socks4-... and --socks5-... need --proxy")
		}
		return nil
	}
	t.proxy.UserID, t.proxy.Username, t.proxy.PasswordEnv = t.socks.UserID, t.socks.Username, t.socks.PasswordEnv
	n.OutboundProxy = t.proxy
	return nil
}
