package netstack

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A message on the link is a virtio_net_hdr of 10 bytes, little endian (virtio 1.0, 5.1.6), and an Ethernet frame. The
// header carries what makes the link fast: frames of up to 64 KiB that were never cut to the MTU, and checksums that
// were never computed, since the bytes never leave memory.
const (
	vnetHdrLen = 10
	ethHdrLen  = header.EthernetMinimumSize
	maxFrame   = ethHdrLen + 65535

	vnetNeedsCsum = 1 // flags
	vnetDataValid = 2
	vnetGSOTCPv4  = 1 // gso_type
	vnetGSOTCPv6  = 4
	vnetGSOECN    = 0x80
)

type vnetHdr struct {
	flags, gsoType                         uint8
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

func parseVnetHdr(b *[vnetHdrLen]byte) vnetHdr {
	le := binary.LittleEndian
	return vnetHdr{b[0], b[1], le.Uint16(b[2:]), le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint16(b[8:])}
}

func (h vnetHdr) put(b *[vnetHdrLen]byte) {
	le := binary.LittleEndian
	b[0], b[1] = h.flags, h.gsoType
	le.PutUint16(b[2:], h.hdrLen)
	le.PutUint16(b[4:], h.gsoSize)
	le.PutUint16(b[6:], h.csumStart)
	le.PutUint16(b[8:], h.csumOffset)
}

// ok reports whether the header makes sense for a frame of size bytes. The stack needs none of its fields, so this is
// only to refuse early what no honest sender sends.
func (h vnetHdr) ok(size int) bool {
	if h.flags&^(vnetNeedsCsum|vnetDataValid) != 0 || int(h.hdrLen) > size {
		return false
	}
	if h.flags&vnetNeedsCsum != 0 && int(h.csumStart)+int(h.csumOffset)+2 > size {
		return false
	}
	switch h.gsoType &^ vnetGSOECN {
	case 0:
		return size <= ethHdrLen+MTU
	case vnetGSOTCPv4, vnetGSOTCPv6:
		return h.gsoSize > 0
	}
	return false
}

// vnetHdrOf describes an outgoing packet.
func vnetHdrOf(pkt *stack.PacketBuffer) vnetHdr {
	var h vnetHdr
	gso := &pkt.GSOOptions
	if gso.Type != stack.GSOTCPv4 && gso.Type != stack.GSOTCPv6 {
		return h
	}
	h.hdrLen = uint16(pkt.HeaderSize())
	if gso.NeedsCsum {
		h.flags = vnetNeedsCsum
		h.csumStart = ethHdrLen + gso.L3HdrLen
		h.csumOffset = gso.CsumOffset
	}
	if pkt.Data().Size() > int(gso.MSS) {
		h.gsoSize = gso.MSS
		h.gsoType = vnetGSOTCPv4
		if gso.Type == stack.GSOTCPv6 {
			h.gsoType = vnetGSOTCPv6
		}
	}
	return h
}

// filter knows whose frames are taken from the guest.
type filter struct {
	mac    [6]byte // ours
	guest4 [4]byte
	guest6 [16]byte

	broadcast4 [4]byte // of the guest's own network
}

func newFilter(e Ends) filter {
	f := filter{mac: [6]byte(e.GatewayMAC), guest4: e.Guest4.As4(), guest6: e.Guest6.As16()}
	f.broadcast4 = f.guest4
	f.broadcast4[3] |= 1<<(32-PrefixBits4) - 1
	return f
}

// admit decides whether a frame goes to the stack, and as which protocol. head is the first part of the frame, all of a
// small one; size is that of all of it. Frames for other MACs, of other protocols or from a source address that is not
// the guest's are dropped: nothing behind the link has a reason to send them.
func (f *filter) admit(h vnetHdr, head []byte, size int) (tcpip.NetworkProtocolNumber, bool) {
	if len(head) < ethHdrLen || size > maxFrame || !h.ok(size) {
		return 0, false
	}
	if head[0]&1 == 0 && !bytes.Equal(head[:6], f.mac[:]) {
		return 0, false
	}
	proto := tcpip.NetworkProtocolNumber(binary.BigEndian.Uint16(head[12:]))
	ip := head[ethHdrLen:]
	switch proto {
	case header.IPv4ProtocolNumber:
		return proto, len(ip) >= header.IPv4MinimumSize && ip[0]>>4 == 4 && [4]byte(ip[12:]) == f.guest4
	case header.IPv6ProtocolNumber:
		if len(ip) < header.IPv6MinimumSize || ip[0]>>4 != 6 {
			return 0, false
		}
		src := [16]byte(ip[8:])
		if src == f.guest6 {
			return proto, true
		}
		// Neighbour discovery and MLD come from the link-local address, or from none yet.
		next := tcpip.TransportProtocolNumber(ip[6])
		local := src == [16]byte{} || src[0] == 0xfe && src[1]&0xc0 == 0x80
		return proto, local && (next == header.ICMPv6ProtocolNumber || ip[6] == uint8(header.IPv6HopByHopOptionsExtHdrIdentifier))
	case header.ARPProtocolNumber:
		return proto, len(ip) >= header.ARPSize
	}
	return 0, false
}
