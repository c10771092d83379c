package sandbox

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Protocols of a published [Port].
const (
	PortTCP = "tcp"
	PortUDP = "udp"
)

// MaxPorts bounds the ports that one sandbox publishes.
const MaxPorts = 256

// Port publishes a port of the guest on this machine.
type Port struct {
	HostPort  uint16 `json:"host_port"` // 0: any free one, see Info.Ports
	GuestPort uint16 `json:"guest_port"`
	Protocol  string `json:"protocol"`            // tcp | udp
	HostBind  string `json:"host_bind,omitempty"` // an address of this machine; "" is 127.0.0.1
}

// Bind is the address of this machine that the port is published on.
func (p Port) Bind() string {
	if p.HostBind == "" {
		return "127.0.0.1"
	}
	return p.HostBind
}

// String is the form of contract msb-0.6 §1.3: 127.0.0.1:8080->80/tcp.
func (p Port) String() string {
	bind := p.Bind()
	if strings.Contains(bind, ":") {
		bind = "[" + bind + "]"
	}
	return fmt.Sprintf("%s:%d->%d/%s", bind, p.HostPort, p.GuestPort, p.Protocol)
}

// Text says a port as ParsePort reads it.
func (p Port) Text() string {
	s := fmt.Sprintf("%d:%d", p.HostPort, p.GuestPort)
	switch {
	case strings.Contains(p.HostBind, ":"):
		s = "[" + p.HostBind + "]:" + s
	case p.HostBind != "":
		s = p.HostBind + ":" + s
	}
	if p.Protocol != "" && p.Protocol != PortTCP {
		s += "/" + p.Protocol
	}
	return s
}

// ParsePort reads HOST:GUEST, BIND:HOST:GUEST or [V6]:HOST:GUEST, with /tcp (the default) or /udp behind.
func ParsePort(s string) (Port, error) {
	const want = "a port such as 8080:80, 0.0.0.0:53:53/udp or [::1]:8080:80"
	p := Port{Protocol: PortTCP}
	rest, proto, ok := strings.Cut(s, "/")
	if ok {
		p.Protocol = proto
	}
	if at := strings.LastIndexByte(rest, ':'); at >= 0 {
		host, guest := rest[:at], rest[at+1:]
		if at = strings.LastIndexByte(host, ':'); at >= 0 {
			bind := host[:at]
			host = host[at+1:]
			inside, bracket := strings.CutPrefix(bind, "[")
			if bracket {
				var closed bool
				if inside, closed = strings.CutSuffix(inside, "]"); !closed {
					return Port{}, unreadable("port", s, want)
				}
			}
			a, err := netip.ParseAddr(inside)
			if err != nil || a.Is6() != bracket {
				return Port{}, unreadable("port", s, want)
			}
			p.HostBind = a.String()
		}
		h, herr := parsePortNumber(host)
		g, gerr := parsePortNumber(guest)
		if herr == nil && gerr == nil && g > 0 && (p.Protocol == PortTCP || p.Protocol == PortUDP) {
			p.HostPort, p.GuestPort = h, g
			return p, nil
		}
	}
	return Port{}, unreadable("port", s, want)
}

func parsePortNumber(s string) (uint16, error) {
	if n, rest, ok := digits(s); !ok || rest != "" || n > 65535 {
		return 0, strconv.ErrSyntax
	} else {
		return uint16(n), nil
	}
}

// validatePorts refuses what cannot be published, and two ports that would be the same on this machine.
func validatePorts(ports []Port) error {
	if len(ports) > MaxPorts {
		return invalid("", "%d ports are more than %d", len(ports), MaxPorts)
	}
	for i, p := range ports {
		bind, err := netip.ParseAddr(p.Bind())
		switch {
		case err != nil:
			return invalid("use an IP address", "port %s: %q is no address", p, clip(p.HostBind))
		case p.GuestPort == 0:
			return invalid("", "port %s: the guest's port is 0", p)
		case p.Protocol != PortTCP && p.Protocol != PortUDP:
			return invalid("", "port %s: protocol %q is not tcp or udp", p, clip(p.Protocol))
		}
		if p.HostPort != 0 && slices.ContainsFunc(ports[:i], func(q Port) bool {
			other, err := netip.ParseAddr(q.Bind())
			return err == nil && q.HostPort == p.HostPort && q.Protocol == p.Protocol && bindsClash(bind, other)
		}) {
			return invalid("choose another port, or 0 for any that is free", "port %d/%s of this machine is published twice", p.HostPort, p.Protocol)
		}
	}
	return nil
}

// bindsClash reports whether a port cannot be bound on both. All of IPv6 takes only IPv6 here.
func bindsClash(a, b netip.Addr) bool {
	return a == b || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}
