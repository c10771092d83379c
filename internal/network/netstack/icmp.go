package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// handleICMP gets echo requests. Those to the gateway the stack answers itself; to anyone else's it must not, or
// every address would seem alive. It runs in the link's reader and must not wait.
func (g *Gateway) handleICMP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	to := addrOf(id.LocalAddress)
	if g.isGateway(to) {
		return false
	}
	h := pkt.TransportHeader().Slice()
	if len(h) < header.ICMPv4MinimumSize {
		return true
	}
	proto := policy.ICMPv4
	isEcho := header.ICMPv4(h).Type() == header.ICMPv4Echo
	if pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		proto = policy.ICMPv6
		isEcho = header.ICMPv6(h).Type() == header.ICMPv6EchoRequest
	}
	if !isEcho || to.IsMulticast() {
		return true
	}
	if !g.allows(proto, netip.AddrPortFrom(to, 0)) {
		g.writeUnreachable(prohibited, g.gatewayFor(to), append(append([]byte(nil), pkt.NetworkHeader().Slice()...), h...))
	}
	// Echoes of the outside need a ping socket: issue 8.
	return true
}

func (g *Gateway) gatewayFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return g.cfg.Ends.Gateway4
	}
	return g.cfg.Ends.Gateway6
}

// unreachableCode says why, in both versions of ICMP.
type unreachableCode struct {
	v4 header.ICMPv4Code
	v6 header.ICMPv6Code
}

var (
	prohibited = unreachableCode{header.ICMPv4AdminProhibited, header.ICMPv6Prohibited}
	noPort     = unreachableCode{header.ICMPv4PortUnreachable, header.ICMPv6PortUnreachable}
)

// unreachable tells the guest that nobody listens at the far end of a UDP flow. The datagram that it is about is gone;
// its headers are all that the guest looks at.
func (g *Gateway) unreachable(key flowKey) {
	const length = header.UDPMinimumSize
	e := g.cfg.Ends
	var orig []byte
	if to := key.to.Addr(); to.Is4() {
		orig = make([]byte, header.IPv4MinimumSize+length)
		header.IPv4(orig).Encode(&header.IPv4Fields{TotalLength: uint16(len(orig)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: addressOf(e.Guest4), DstAddr: addressOf(to)})
		header.IPv4(orig).SetChecksum(^header.IPv4(orig).CalculateChecksum())
	} else {
		orig = make([]byte, header.IPv6MinimumSize+length)
		header.IPv6(orig).Encode(&header.IPv6Fields{PayloadLength: length, TransportProtocol: header.UDPProtocolNumber, HopLimit: 64, SrcAddr: addressOf(e.Guest6), DstAddr: addressOf(to)})
	}
	header.UDP(orig[len(orig)-length:]).Encode(&header.UDPFields{SrcPort: key.port, DstPort: key.to.Port(), Length: length})
	g.writeUnreachable(noPort, key.to.Addr(), orig)
}

// writeUnreachable sends "destination unreachable" about the packet that began with orig.
func (g *Gateway) writeUnreachable(code unreachableCode, from netip.Addr, orig []byte) {
	route, terr := g.route(from)
	if terr != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.ICMPv4MinimumSize + int(route.MaxHeaderLength()), // both versions have 8 bytes here
		Payload:            buffer.MakeWithData(orig),
	})
	defer pkt.DecRef()
	b := pkt.TransportHeader().Push(header.ICMPv4MinimumSize)
	params := stack.NetworkHeaderParams{TTL: route.DefaultTTL()}
	if from.Is4() {
		h := header.ICMPv4(b)
		h.SetType(header.ICMPv4DstUnreachable)
		h.SetCode(code.v4)
		h.SetChecksum(header.ICMPv4Checksum(h, pkt.Data().Checksum()))
		params.Protocol = header.ICMPv4ProtocolNumber
	} else {
		h := header.ICMPv6(b)
		h.SetType(header.ICMPv6DstUnreachable)
		h.SetCode(code.v6)
		h.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: h, Src: route.LocalAddress(), Dst: route.RemoteAddress(),
			PayloadCsum: pkt.Data().Checksum(), PayloadLen: pkt.Data().Size(),
		}))
		params.Protocol = header.ICMPv6ProtocolNumber
	}
	pkt.TransportProtocolNumber = params.Protocol
	_ = route.WritePacket(params, pkt)
}
