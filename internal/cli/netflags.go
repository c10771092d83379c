package cli

import (
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// netFlags are the flags that say what a sandbox may reach.
type netFlags struct {
	policy   sandbox.NetworkFlags
	strict   bool
	dns      sandbox.DNS
	maxConns int
	ports    []sandbox.Port
	pools    sandbox.Interface
	limits   [2]rateFlags // out of the sandbox, into it
	tls      tlsFlags
}

// rateFlags are the bounds of one direction.
type rateFlags struct {
	bandwidth, ops           sandbox.TokenBucket
	bandwidthBurst, opsBurst uint64
}

// declarePolicy declares the flags that are the policy.
func declarePolicy(f *flags, p *sandbox.NetworkFlags, strict *bool) {
	f.toggle("", "no-net", "No network at all, but for what --net-rule allows", &p.NoNet)
	f.value("", "net", "PROFILE", "What it may reach: public (default), private, host, all or none; repeatable", func(v string) error {
		profiles := strings.Split(v, ",")
		_, err := sandbox.ProfilePolicy(profiles...)
		p.Profiles = append(p.Profiles, profiles...)
		return err
	})
	f.suggest("net", sandbox.GroupPublic, sandbox.GroupPrivate, sandbox.GroupHost, "all", "none")
	f.value("", "net-rule", "RULES", "Rule that comes first, e.g. deny@10.0.0.0/8 or allow@example.com:tcp:443; repeatable", func(v string) error {
		_, err := sandbox.ParseNetworkRules(v)
		p.Rules = append(p.Rules, v)
		return err
	})
	f.words("", "net-default", "ACTION", "allow or deny other traffic", &p.Default, sandbox.Allow, sandbox.Deny)
	f.words("", "net-default-egress", "ACTION", "The same, only out of the sandbox", &p.DefaultEgress, sandbox.Allow, sandbox.Deny)
	f.words("", "net-default-ingress", "ACTION", "The same, only into it", &p.DefaultIngress, sandbox.Allow, sandbox.Deny)
	f.toggle("", "net-strict", "Rules about names count only for traffic that shows its name", strict)
}

func (n *netFlags) declare(f *flags) {
	declarePolicy(f, &n.policy, &n.strict)
	f.value("p", "port", "[BIND:]HOST:GUEST[/udp]", "Publish a port of the guest on this machine (BIND is 127.0.0.1, HOST 0 any free one); repeatable", setAppend(&n.ports, sandbox.ParsePort))
	f.toggle("", "no-dns-rebind-protection", "Let names lead to private addresses", &n.dns.NoRebindProtection)
	f.value("", "dns-nameserver", "ADDR", "Nameserver to ask, IP or IP:PORT; repeatable", func(v string) error {
		_, err := sandbox.ParseNameserver(v)
		n.dns.Nameservers = append(n.dns.Nameservers, v)
		return err
	})
	f.value("", "dns-query-timeout-ms", "MS", "How long it may take to answer (default 5000)", setInt(&n.dns.QueryTimeoutMS, 1, 600_000))
	f.value("", "max-connections", "N", "Connections at the same time (default 256)", setInt(&n.maxConns, 1, 65535))
	f.value("", "net-ipv4-pool", "CIDR", "Where the guest's IPv4 address comes from (default 172.16.0.0/12)", func(v string) error {
		_, err := sandbox.ParseIPv4Pool(v)
		n.pools.IPv4Pool = v
		return err
	})
	f.value("", "net-ipv6-pool", "CIDR", "Where the guest's IPv6 address comes from (default fd42:6d73:62::/48)", func(v string) error {
		_, err := sandbox.ParseIPv6Pool(v)
		n.pools.IPv6Pool = v
		return err
	})
	n.tls.declare(f)
	for i, d := range [...]struct{ word, way string }{{"egress", "out"}, {"ingress", "in"}} {
		l := &n.limits[i]
		f.value("", "net-"+d.word+"-bandwidth", "SIZE[/DURATION]", "Bytes "+d.way+" per time, e.g. 10M (per second) or 512K/100ms", setParsed(&l.bandwidth, sandbox.ParseBandwidth))
		f.value("", "net-"+d.word+"-bandwidth-burst", "SIZE", "Bytes "+d.way+" at the start, above that", setParsed(&l.bandwidthBurst, sandbox.ParseByteSize))
		f.value("", "net-"+d.word+"-ops", "COUNT[/DURATION]", "Packets "+d.way+" per time", setParsed(&l.ops, sandbox.ParseOps))
		f.value("", "net-"+d.word+"-ops-burst", "COUNT", "Packets "+d.way+" at the start, above that", setParsed(&l.opsBurst, sandbox.ParseCount))
	}
}

// limiter is what the rate flags ask for, nil for no bound.
func (n *netFlags) limiter() (*sandbox.RateLimiter, error) {
	var r sandbox.RateLimiter
	for i, d := range [...]struct {
		word string
		to   **sandbox.RateLimit
	}{{"egress", &r.Egress}, {"ingress", &r.Ingress}} {
		l := n.limits[i]
		var one sandbox.RateLimit
		for _, b := range [...]struct {
			flag   string
			bucket sandbox.TokenBucket
			burst  uint64
			to     **sandbox.TokenBucket
		}{{"bandwidth", l.bandwidth, l.bandwidthBurst, &one.Bandwidth}, {"ops", l.ops, l.opsBurst, &one.Ops}} {
			if b.bucket.Size == 0 {
				if b.burst > 0 {
					return nil, usageErrorf("", "--net-%s-%s-burst needs --net-%s-%s", d.word, b.flag, d.word, b.flag)
				}
				continue
			}
			bucket := b.bucket
			bucket.OneTimeBurst = b.burst
			*b.to = &bucket
		}
		if one != (sandbox.RateLimit{}) {
			*d.to = &one
		}
	}
	if r == (sandbox.RateLimiter{}) {
		return nil, nil
	}
	return &r, nil
}

func (n *netFlags) network() (sandbox.Network, error) {
	p, err := n.policy.Policy()
	if err != nil {
		return sandbox.Network{}, err
	}
	net := sandbox.Network{Enabled: true, Policy: p, Strict: n.strict, Ports: n.ports}
	if net.RateLimiter, err = n.limiter(); err != nil {
		return sandbox.Network{}, err
	}
	if n.pools != (sandbox.Interface{}) {
		net.Interface = &n.pools
	}
	if n.maxConns > 0 {
		net.MaxConnections = &n.maxConns
	}
	if n.dns.NoRebindProtection || len(n.dns.Nameservers) > 0 || n.dns.QueryTimeoutMS > 0 {
		net.DNS = &n.dns
	}
	return net, n.tls.network(&net)
}
