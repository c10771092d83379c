package runner

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/rootfs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// startNetwork starts the gateway, unless the policy lets nothing through in either direction, and returns the sentry's
// end of its link and what the guest is told.
func (s *supervisor) startNetwork(n sandbox.Network) (*driver.Link, rootfs.Network, error) {
	p := sandbox.PublicPolicy()
	if n.Policy != nil {
		p = *n.Policy
	}
	if !n.Enabled || p.DefaultEgress != sandbox.Allow && p.DefaultIngress != sandbox.Allow && len(p.Rules) == 0 {
		return nil, rootfs.Network{}, nil
	}
	ends, err := netstack.Addresses(1)
	if err != nil {
		return nil, rootfs.Network{}, err
	}
	pair, err := netstack.NewPair()
	if err != nil {
		return nil, rootfs.Network{}, err
	}
	if pair.Buffers < netstack.WantBuffers {
		s.log.Warn("the network link's buffers are small: many uploads at once will be slow", "bytes", pair.Buffers, "remedy", "sysctl net.core.wmem_max=4194304")
	}
	cfg := netstack.Config{Link: pair.Gateway, Ends: ends, Policy: p, Logger: s.log}
	if n.MaxConnections != nil {
		cfg.MaxConns = *n.MaxConnections
	}
	if n.DNS != nil {
		cfg.DNS.NoRebindProtection = n.DNS.NoRebindProtection
		cfg.DNS.Timeout = time.Duration(n.DNS.QueryTimeoutMS) * time.Millisecond
		if cfg.DNS.Nameservers, err = nameservers(n.DNS.Nameservers); err != nil {
			pair.Close()
			return nil, rootfs.Network{}, err
		}
	}
	if s.gateway, err = netstack.New(cfg); err != nil {
		pair.Sentry.Close()
		return nil, rootfs.Network{}, err
	}
	return linkOf(pair.Sentry, ends), toldOf(ends), nil
}

func linkOf(f *os.File, e netstack.Ends) *driver.Link {
	return &driver.Link{File: f, MTU: netstack.MTU, MAC: e.GuestMAC, GatewayMAC: e.GatewayMAC,
		IPv4: netip.PrefixFrom(e.Guest4, netstack.PrefixBits4), Gateway4: e.Gateway4,
		IPv6: netip.PrefixFrom(e.Guest6, netstack.PrefixBits6), Gateway6: e.Gateway6}
}

func toldOf(e netstack.Ends) rootfs.Network {
	return rootfs.Network{IPv4: e.Guest4, IPv6: e.Guest6, DNS: []netip.Addr{e.Gateway4}, Gateway: e.Gateway4}
}

// nameservers reads addresses with or without a port.
func nameservers(list []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, s := range list {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, ap)
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("nameserver %q is not an IP address", s)}
		}
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	return out, nil
}
