package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const nicID tcpip.NICID = 1

// Sizes of the stack's TCP buffers, in bytes. They are the most that a connection can hold when one side does not read.
const (
	startBuffer = 256 << 10
	maxBuffer   = 1 << 20
	grownBuffer = 2 << 20 // of what the guest sends; half of it is the window
	maxInFlight = 1024    // connections being opened
)

// The sentry drops the frames that the link has no room for, and a connection that loses its retransmissions, too, stands
// still for seconds. So the windows that are open at a time should fit in the link's buffer: they begin small, smaller
// the more connections there are, and only maxGrown connections at a time may have the large one.
const (
	maxGrown  = 2
	growAfter = 128 << 10 // bytes from the guest after which a connection asks for a large window
)

// windows are the buffers, in bytes, that connections begin with, by how many there are; half of each is the window. The first is for links
// with all of their own buffer.
var windows = [...]struct{ below, size int }{{8, 512 << 10}, {16, 256 << 10}, {64, 64 << 10}, {256, 32 << 10}, {1 << 30, 16 << 10}}

// inHandshake is the size, in bytes, with which a connection is opened that is to have size. The stack counts a segment twice that ends the
// handshake with data in it, for as long as the connection lasts. If what was before that data is lost, it must be received when all that the
// guest may send behind it is held already: of that the stack takes three quarters of the size, so the rest has to be more than what was
// counted twice, which is half of what this returns and the segment itself.
func inHandshake(size int) int { return size/2 - 2<<10 }

// timeWait is short, because the forwarder, having no listener, would ignore the SYN of a guest that uses a port again.
const timeWait = 10 * time.Millisecond

// startStack puts the stack on the link. Frames may arrive before it returns.
func (g *Gateway) startStack() error {
	// Packets to loopback addresses are let in so that they can be refused: dropped, the guest would wait for nothing.
	// The zero NDP configuration takes no router advertisements from the guest, and the address is ours without asking.
	g.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}),
			arp.NewProtocol,
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := g.setUpTCP(); err != nil {
		return err
	}
	for i, w := range windows {
		g.tcp[i] = tcp.NewForwarder(g.stack, inHandshake(w.size), maxInFlight, func(req *tcp.ForwarderRequest) { g.forward(req, w.size) })
	}
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, g.handleTCP)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, g.handleUDP)
	g.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, g.handleICMP)
	g.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, g.handleICMP)

	// Disabled until all is in place: enabled, it reads.
	if err := g.stack.CreateNICWithOptions(nicID, g.link, stack.NICOptions{Name: "link", Disabled: true}); err != nil {
		return errors.New(err.String())
	}
	e := g.cfg.Ends
	guestMAC := tcpip.LinkAddress(e.GuestMAC)
	for _, step := range []func() tcpip.Error{
		func() tcpip.Error { return g.stack.SetPromiscuousMode(nicID, true) },
		func() tcpip.Error { return g.stack.SetSpoofing(nicID, true) },
		func() tcpip.Error { return g.addAddress(header.IPv4ProtocolNumber, e.Gateway4, PrefixBits4) },
		func() tcpip.Error { return g.addAddress(header.IPv6ProtocolNumber, e.Gateway6, PrefixBits6) },
		func() tcpip.Error {
			return g.stack.AddStaticNeighbor(nicID, header.IPv4ProtocolNumber, addressOf(e.Guest4), guestMAC)
		},
		func() tcpip.Error {
			return g.stack.AddStaticNeighbor(nicID, header.IPv6ProtocolNumber, addressOf(e.Guest6), guestMAC)
		},
		func() tcpip.Error {
			g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID}})
			return g.stack.EnableNIC(nicID)
		},
	} {
		if err := step(); err != nil {
			return errors.New(err.String())
		}
	}
	return nil
}

func (g *Gateway) setUpTCP() error {
	window := grownBuffer
	sndbuf, err := g.link.port.sendBuffer()
	if err != nil {
		return fmt.Errorf("the link is not a socket: %w", err)
	}
	g.growth.Store(maxGrown)
	if sndbuf < WantBuffers {
		window = startBuffer
		g.growth.Store(1)
		g.largest = 1
	}
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: startBuffer, Max: window}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: startBuffer, Max: maxBuffer}
	sack, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&rcv, &snd, &sack, &wait} {
		if err := g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return errors.New(err.String())
		}
	}
	return nil
}

func (g *Gateway) addAddress(proto tcpip.NetworkProtocolNumber, a netip.Addr, bits int) tcpip.Error {
	return g.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          proto,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(a), PrefixLen: bits},
	}, stack.AddressProperties{})
}

func addressOf(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}
