package cli

import (
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// netFlags are the flags that say what a sandbox may reach.
type netFlags struct {
	policy   sandbox.NetworkFlags
	dns      sandbox.DNS
	maxConns int
}

func (n *netFlags) declare(f *flags) {
	f.toggle("", "no-net", "No network at all, but for what --net-rule allows", &n.policy.NoNet)
	f.value("", "net", "PROFILE", "What it may reach: public (default), private, host, all or none; repeatable", func(v string) error {
		n.policy.Profiles = append(n.policy.Profiles, strings.Split(v, ",")...)
		return nil
	})
	f.value("", "net-rule", "RULES", "Rule that comes first, e.g. deny@10.0.0.0/8 or allow@example.com:tcp:443; repeatable", func(v string) error {
		_, err := sandbox.ParseNetworkRules(v)
		n.policy.Rules = append(n.policy.Rules, v)
		return err
	})
	f.value("", "net-default", "ACTION", "allow or deny other traffic", setWord(&n.policy.Default, sandbox.Allow, sandbox.Deny))
	f.value("", "net-default-egress", "ACTION", "The same, only out of the sandbox", setWord(&n.policy.DefaultEgress, sandbox.Allow, sandbox.Deny))
	f.value("", "net-default-ingress", "ACTION", "The same, only into it", setWord(&n.policy.DefaultIngress, sandbox.Allow, sandbox.Deny))
	f.toggle("", "no-dns-rebind-protection", "Let names lead to private addresses", &n.dns.NoRebindProtection)
	f.value("", "dns-nameserver", "ADDR", "Nameserver to ask, IP or IP:PORT; repeatable", func(v string) error {
		n.dns.Nameservers = append(n.dns.Nameservers, v)
		return nil
	})
	f.value("", "dns-query-timeout-ms", "MS", "How long it may take to answer (default 5000)", setInt(&n.dns.QueryTimeoutMS, 1, 600_000))
	f.value("", "max-connections", "N", "Connections at the same time (default 256)", setInt(&n.maxConns, 1, 65535))
}

func (n *netFlags) network() (sandbox.Network, error) {
	p, err := n.policy.Policy()
	if err != nil {
		return sandbox.Network{}, err
	}
	net := sandbox.Network{Enabled: true, Policy: p}
	if n.maxConns > 0 {
		net.MaxConnections = &n.maxConns
	}
	if n.dns.NoRebindProtection || len(n.dns.Nameservers) > 0 || n.dns.QueryTimeoutMS > 0 {
		net.DNS = &n.dns
	}
	return net, nil
}
