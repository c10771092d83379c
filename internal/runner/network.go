package runner

import (
	"net/netip"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/cleanup"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/rootfs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// startNetwork starts the gateway, unless the policy lets nothing through in either direction, and returns the sentry's
// end of its link and what the guest is told.
func (s *supervisor) startNetwork(n sandbox.Network) (*driver.Link, rootfs.Network, error) {
	p := n.PolicyOrDefault()
	if !n.Linked() {
		return nil, rootfs.Network{}, nil
	}
	undo := cleanup.Make()
	defer undo.Clean()
	ports, err := netstack.Listen(n.Ports)
	if err != nil {
		return nil, rootfs.Network{}, err
	}
	undo.Add(func() error { ports.Close(); return nil })
	ends, err := endsOf(n.Interface)
	if err != nil {
		return nil, rootfs.Network{}, err
	}
	pair, err := netstack.NewPair()
	if err != nil {
		return nil, rootfs.Network{}, err
	}
	undo.Add(pair.Close)
	if pair.Buffers < netstack.WantBuffers {
		s.log.Warn("the network link's buffers are small: many uploads at once will be slow", "bytes", pair.Buffers, "remedy", "sysctl net.core.wmem_max=4194304")
	}
	s.flows = newFlowLog(s.cfg.LogDir, s.log, s.event)
	undo.Add(s.flows.close)
	cfg := netstack.Config{Link: pair.Gateway, Ends: ends, Policy: p, Publish: ports, Strict: n.Strict, Logger: s.log, OnFlow: s.flows.add, OnEvent: s.flows.tell}
	if n.MaxConnections != nil {
		cfg.MaxConns, cfg.MaxFlows = *n.MaxConnections, *n.MaxConnections
	}
	if r := n.RateLimiter; r != nil {
		cfg.Egress, cfg.Ingress = r.Egress, r.Ingress
	}
	if n.DNS != nil {
		cfg.DNS.NoRebindProtection = n.DNS.NoRebindProtection
		cfg.DNS.Timeout = time.Duration(n.DNS.QueryTimeoutMS) * time.Millisecond
		for _, d := range n.DNS.Nameservers {
			at, err := sandbox.ParseNameserver(d)
			if err != nil {
				return nil, rootfs.Network{}, err
			}
			cfg.DNS.Nameservers = append(cfg.DNS.Nameservers, at)
		}
	}
	if err := s.startProxy(&cfg, n); err != nil {
		return nil, rootfs.Network{}, err
	}
	if s.gateway, err = netstack.New(cfg); err != nil {
		return nil, rootfs.Network{}, err
	}
	undo.Release()
	s.policy, s.strict, s.ports = p, n.Strict, ports.Ports()
	return linkOf(pair.Sentry, ends), withTrust(toldOf(ends), s.cfg.Proxy), nil
}

// endsOf is what the ends of the link are called. Links are not connected to each other: each may have the same slot.
func endsOf(i *sandbox.Interface) (netstack.Ends, error) {
	pool4, pool6 := netstack.Pool4, netstack.Pool6
	if i != nil && i.IPv4Pool != "" {
		var err error
		if pool4, err = sandbox.ParseIPv4Pool(i.IPv4Pool); err != nil {
			return netstack.Ends{}, err
		}
	}
	if i != nil && i.IPv6Pool != "" {
		var err error
		if pool6, err = sandbox.ParseIPv6Pool(i.IPv6Pool); err != nil {
			return netstack.Ends{}, err
		}
	}
	return netstack.AddressesIn(pool4, pool6, 1)
}

// setPolicy changes the policy of the running sandbox, and whether it is strict, unless that is nil. Kinds: InvalidConfig;
// Unsupported where it started without a network.
func (s *supervisor) setPolicy(p sandbox.NetworkPolicy, strict *bool) error {
	if s.gateway == nil {
		return &sandbox.Error{Op: "modify", Kind: sandbox.Unsupported, Message: "the sandbox was started without a network, so it has none to open",
			Hint: "start it anew with another policy"}
	}
	s.termsMu.Lock()
	defer s.termsMu.Unlock()
	now := s.strict
	if strict != nil {
		now = *strict
	}
	if err := s.gateway.SetPolicy(p, now); err != nil {
		return err
	}
	s.policy, s.strict = p, now
	s.event("the network policy is now: " + p.String())
	return nil
}

// maxFlowsTold is how many flows, the latest, one answer has.
const maxFlowsTold = 1000

// networkState is what goes on in the network now.
func (s *supervisor) networkState() sandbox.NetworkState {
	s.termsMu.Lock()
	st := sandbox.NetworkState{Policy: s.policy, Ports: s.ports}
	s.termsMu.Unlock()
	if s.gateway == nil {
		st.Policy = sandbox.DenyAllPolicy()
		return st
	}
	st.Flows = s.gateway.Flows()
	st.Flows = st.Flows[max(0, len(st.Flows)-maxFlowsTold):]
	for _, d := range s.gateway.Denied() {
		st.Denied = append(st.Denied, d.Flow())
	}
	c := s.gateway.Stats()
	st.Counters = sandbox.NetworkCounters{RxBytes: c.RxBytes, TxBytes: c.TxBytes, RxPackets: c.RxPackets, TxPackets: c.TxPackets,
		Connections: c.Conns, Flows: c.Flows, Denied: c.Denied, Refused: c.Refused, Open: uint64(c.Open)}
	return st
}

// event tells the sandbox's owner something, in one line of the system log. It may wait for the disk.
func (s *supervisor) event(text string) {
	if out := s.events.Load(); out != nil {
		out.System(text + "\n")
		return
	}
	s.log.Warn(text)
}

func linkOf(f *os.File, e netstack.Ends) *driver.Link {
	return &driver.Link{File: f, MTU: netstack.MTU, MAC: e.GuestMAC, GatewayMAC: e.GatewayMAC,
		IPv4: netip.PrefixFrom(e.Guest4, netstack.PrefixBits4), Gateway4: e.Gateway4,
		IPv6: netip.PrefixFrom(e.Guest6, netstack.PrefixBits6), Gateway6: e.Gateway6}
}

func toldOf(e netstack.Ends) rootfs.Network {
	return rootfs.Network{IPv4: e.Guest4, IPv6: e.Guest6, DNS: []netip.Addr{e.Gateway4}, Gateway: e.Gateway4}
}
