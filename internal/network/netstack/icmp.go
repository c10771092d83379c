package netstack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
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
	key := flowKey{proto, id.LocalPort, netip.AddrPortFrom(to, 0)} // an echo's identifier is where ports are
	f := g.flow(key)
	if f == nil {
		v, names := g.check(g.terms.Load(), proto, key.to)
		if !v.Allowed {
			g.deny(policy.Egress, proto, key.to, 0, first(names), v)
			g.writeUnreachable(prohibited, g.gatewayFor(to), append(append([]byte(nil), pkt.NetworkHeader().Slice()...), h...))
			return true
		}
		if f = g.addFlow(key, names, v); f == nil {
			return true
		}
	}
	f.send(append(append([]byte(nil), h...), pkt.Data().AsRange().ToSlice()...))
	return true
}

// openPing opens a ping socket (icmp(7)), which needs no privilege where net.ipv4.ping_group_range has this process's group.
// It carries echo requests and replies, header included, with an identifier of its own.
func openPing(to netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		family, proto, sa = unix.AF_INET, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close() // FileConn has a duplicate
	if err := unix.Connect(fd, sa); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// writeEcho passes an echo reply on under the guest's identifier.
func (g *Gateway) writeEcho(key flowKey, msg []byte) {
	reply := byte(header.ICMPv4EchoReply)
	if key.proto == policy.ICMPv6 {
		reply = byte(header.ICMPv6EchoReply)
	}
	if len(msg) < header.ICMPv4MinimumSize || msg[0] != reply {
		return
	}
	binary.BigEndian.PutUint16(msg[4:], key.port)
	g.writeICMP(key.to.Addr(), [header.ICMPv4MinimumSize]byte(msg), msg[header.ICMPv4MinimumSize:])
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

// portUnreachable tells the guest that nobody listens at the far end of a UDP flow. The datagram that it is about is gone;
// its headers are all that the guest looks at.
func (g *Gateway) portUnreachable(key flowKey) {
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
	h := [header.ICMPv4MinimumSize]byte{byte(header.ICMPv4DstUnreachable), byte(code.v4)}
	if from.Is6() {
		h = [header.ICMPv4MinimumSize]byte{byte(header.ICMPv6DstUnreachable), byte(code.v6)}
	}
	g.writeICMP(from, h, orig)
}

// writeICMP sends an ICMP message to the guest. Its checksum is made here; the header is 8 bytes in both versions.
func (g *Gateway) writeICMP(from netip.Addr, h [header.ICMPv4MinimumSize]byte, payload []byte) {
	route, terr := g.route(from)
	if terr != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: len(h) + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	b := pkt.TransportHeader().Push(len(h))
	copy(b, h[:])
	b[2], b[3] = 0, 0
	params := stack.NetworkHeaderParams{Protocol: header.ICMPv4ProtocolNumber, TTL: route.DefaultTTL()}
	if from.Is4() {
		header.ICMPv4(b).SetChecksum(header.ICMPv4Checksum(header.ICMPv4(b), pkt.Data().Checksum()))
	} else {
		params.Protocol = header.ICMPv6ProtocolNumber
		header.ICMPv6(b).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: b, Src: route.LocalAddress(), Dst: route.RemoteAddress(),
			PayloadCsum: pkt.Data().Checksum(), PayloadLen: pkt.Data().Size(),
		}))
	}
	pkt.TransportProtocolNumber = params.Protocol
	_ = route.WritePacket(params, pkt)
}
