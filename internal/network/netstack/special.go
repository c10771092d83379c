package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// special reports whether a packet is one of TCP or UDP to many at once: to a multicast or broadcast address. The stack
// drops these, and the guest would wait for nothing.
func (f *filter) special(proto tcpip.NetworkProtocolNumber, ip []byte) bool {
	if proto == header.IPv4ProtocolNumber {
		if p := ip[9]; p != uint8(header.TCPProtocolNumber) && p != uint8(header.UDPProtocolNumber) {
			return false
		}
		to := [4]byte(ip[16:20])
		return to[0]&0xf0 == 224 || to == [4]byte{255, 255, 255, 255} || to == f.broadcast4
	}
	return proto == header.IPv6ProtocolNumber && ip[24] == 0xff &&
		(ip[6] == uint8(header.TCPProtocolNumber) || ip[6] == uint8(header.UDPProtocolNumber))
}

// refuseSpecial refuses a packet to many. A RST from such an address the guest would not believe, so it is told by ICMP
// that nobody listens, which its sockets take at once for a refusal. It runs in the link's reader.
func (g *Gateway) refuseSpecial(proto tcpip.NetworkProtocolNumber, ip []byte) {
	src, dst, transport, tcp := parsePorts(proto, ip)
	if transport == nil {
		return
	}
	from, to := binary.BigEndian.Uint16(transport), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(transport[2:]))
	p := policy.UDP
	if tcp {
		p = policy.TCP
		if f := header.TCPFlags(transport[header.TCPFlagsOffset]); !f.Contains(header.TCPFlagSyn) || f.Contains(header.TCPFlagAck) {
			return
		}
	}
	if v, names := g.check(g.terms.Load(), p, to); !v.Allowed {
		g.deny(policy.Egress, p, to, from, first(names), v)
	}
	if src.IsValid() {
		g.writeUnreachable(noPort, g.gatewayFor(dst), ip[:min(len(ip), len(ip)-len(transport)+header.UDPMinimumSize)])
	}
}

// parsePorts returns the addresses and the transport header of a packet of TCP or UDP; none when it is cut short.
func parsePorts(proto tcpip.NetworkProtocolNumber, ip []byte) (src, dst netip.Addr, transport []byte, tcp bool) {
	var next byte
	if proto == header.IPv4ProtocolNumber {
		h := header.IPv4(ip)
		hlen := int(h.HeaderLength())
		if hlen < header.IPv4MinimumSize || len(ip) < hlen || h.FragmentOffset() != 0 {
			return
		}
		src, dst, transport, next = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])), ip[hlen:], ip[9]
	} else {
		src, dst, transport, next = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), ip[header.IPv6MinimumSize:], ip[6]
	}
	tcp = next == uint8(header.TCPProtocolNumber)
	if tcp && len(transport) < header.TCPMinimumSize || len(transport) < header.UDPMinimumSize {
		return netip.Addr{}, netip.Addr{}, nil, false
	}
	return src, dst, transport, tcp
}
