package runner

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/proxy"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/internal/network/socks"
	"github.com/microsandbox-go/microsandbox/internal/rootfs"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// startProxy makes what looks into the sandbox's connections a part of cfg, and the SOCKS server that they go through. From
// here on nothing is logged with a secret in it.
func (s *supervisor) startProxy(cfg *netstack.Config, n sandbox.Network) error {
	var from launch.Proxy
	if s.cfg.Proxy != nil {
		from = *s.cfg.Proxy
	}
	set, err := secret.New(n.Secrets, from.Secrets)
	if err != nil {
		return err
	}
	s.redactor.Add(set)
	s.log = slog.New(s.redactor.Handler(s.log.Handler()))
	cfg.Logger = s.log
	p := proxy.Config{TLS: n.TLS, CACert: from.CACert, CAKey: from.CAKey, Secrets: set, Logger: s.log,
		Terminate: func(why string) { s.end(sandbox.ReasonViolation, why) }}
	for _, a := range from.Upstream {
		var pattern sandbox.HostPattern
		if a.Pattern != "" {
			if pattern, err = sandbox.ParseHostPattern(a.Pattern); err != nil {
				return err
			}
		}
		p.Upstream = append(p.Upstream, proxy.Authority{Pattern: pattern, PEM: a.PEM})
	}
	if s.proxy, err = proxy.New(p); err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "look into connections", Err: err}
	}
	cfg.Inspector = s.proxy
	cfg.InterceptDoT = len(n.TLS.Ports()) > 0
	if n.TLS.QUICBlocked() {
		cfg.BlockQUIC = n.TLS.Ports()
	}
	if o := n.OutboundProxy; o != nil {
		cfg.Dialer, cfg.DialerError = &socks.Dialer{Proxy: *o, Password: from.Password}, socks.ErrServer
		cfg.DNS.Dialer = &net.Dialer{} // names are asked for from here
	}
	return nil
}

// setSecrets changes the secrets of the running sandbox: values for requests that begin from now on, placeholders for commands.
// Kinds: InvalidArgument; Unsupported where TLS is not looked into, since the guest would have to trust who does from its start.
func (s *supervisor) setSecrets(c *launch.Secrets) error {
	if c == nil {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "the request has no secrets"}
	}
	s.termsMu.Lock()
	defer s.termsMu.Unlock()
	n := &s.terms.Network
	if s.proxy == nil || len(n.TLS.Ports()) == 0 {
		return &sandbox.Error{Op: "modify", Kind: sandbox.Unsupported, Message: "the sandbox was started without interception of TLS, so it can be given no secrets", Hint: "restart it"}
	}
	had := map[string]string{}
	if n.Secrets != nil {
		for i, x := range n.Secrets.Secrets {
			had[x.EnvVar] = s.values[i]
		}
	}
	var values []string
	if c.Spec != nil {
		for _, x := range c.Spec.Secrets {
			v, ok := c.Values[x.EnvVar]
			if !ok {
				if v, ok = had[x.EnvVar]; !ok {
					return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "the secret " + x.EnvVar + " has no value"}
				}
			}
			values = append(values, v)
		}
	}
	set, err := secret.New(c.Spec, values)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "change secrets", Err: err}
	}
	s.redactor.Add(set)
	s.proxy.SetSecrets(set)
	n.Secrets, s.values = c.Spec, values
	return s.tellDefaults()
}

// Where the guest finds the authorities that it is to trust: those alone, and with all others of its image.
const (
	trustFile  = "/.msb/tls/ca.pem"
	bundleFile = "/.msb/tls/bundle.pem"
)

// trusted are the certificates that the guest is to trust beside those of its image.
func trusted(p *launch.Proxy) []byte {
	if p == nil {
		return nil
	}
	return bytes.TrimLeft(bytes.Join([][]byte{p.CACert, p.HostCAs}, []byte("\n")), "\n")
}

// trustEnv are the variables that make programs look for certificates there.
var trustEnv = []struct{ name, file string }{
	{"SSL_CERT_FILE", bundleFile}, {"REQUESTS_CA_BUNDLE", bundleFile}, {"CURL_CA_BUNDLE", bundleFile}, {"GIT_SSL_CAINFO", bundleFile},
	{"PIP_CERT", bundleFile}, {"AWS_CA_BUNDLE", bundleFile}, {"CARGO_HTTP_CAINFO", bundleFile},
	{"NODE_EXTRA_CA_CERTS", trustFile}, {"DENO_CERT", trustFile},
}

// proxyEnv are the guest's variables that belong to what looks into its connections: what it is to trust, unless the user
// has said so himself, and the secrets' placeholders.
func proxyEnv(spec sandbox.Spec, trusts bool) (env []agentproto.EnvVar) {
	said := map[string]bool{}
	for _, e := range spec.Env {
		said[e.Key] = true
	}
	if trusts {
		for _, v := range trustEnv {
			if !said[v.name] {
				env = append(env, agentproto.EnvVar{Key: v.name, Value: v.file})
			}
		}
	}
	if spec.Network.Secrets != nil {
		for _, x := range spec.Network.Secrets.Secrets {
			env = append(env, agentproto.EnvVar{Key: x.EnvVar, Value: x.Placeholder})
		}
	}
	return env
}

// withTrust adds to what the guest is told of its network what it is to trust there.
func withTrust(n rootfs.Network, p *launch.Proxy) rootfs.Network {
	n.Trust = trusted(p)
	return n
}

var _ fmt.Stringer = launch.Proxy{} // it shows nothing
