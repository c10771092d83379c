package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// maxDNSFlight is how many queries over UDP are answered at once; the rest is dropped, and asked again by the guest.
const maxDNSFlight = 64

// handleUDP gets every datagram. Those it does not take, the stack answers with "port unreachable". It runs in the link's
// reader and must not wait.
func (g *Gateway) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	key := flowKey{policy.UDP, id.RemotePort, farEnd(id)}
	f := g.flow(key)
	if f == nil {
		v, names := g.check(g.terms.Load(), policy.UDP, key.to)
		isDNS := g.isDNS(key.to)
		if !v.Allowed {
			name := first(names)
			if isDNS { // more telling than that the resolver was refused
				name = dns.QueryName(pkt.Data().AsRange().ToSlice())
			}
			g.deny(policy.Egress, policy.UDP, key.to, key.port, name, v)
			return false
		}
		if isDNS {
			g.answerDNS(key, pkt.Data().AsRange().ToSlice())
			return true
		}
		if f = g.addFlow(key, names, v); f == nil {
			return true
		}
	}
	data := pkt.Data().AsRange().ToSlice()
	f.send(data)
	return true
}

// answerDNS answers a query in a goroutine of its own.
func (g *Gateway) answerDNS(key flowKey, query []byte) {
	if g.dnsInFlight.Add(1) > maxDNSFlight || !g.begin() {
		g.dnsInFlight.Add(-1)
		return
	}
	go func() {
		defer g.tasks.Done()
		defer g.dnsInFlight.Add(-1)
		if answer := g.names.Answer(g.ctx, query, true); answer != nil {
			g.writeUDP(key, answer)
		}
	}()
}

// writeUDP sends a datagram to the guest as if from the far end.
func (g *Gateway) writeUDP(key flowKey, data []byte) {
	route, terr := g.route(key.to.Addr())
	if terr != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(data),
	})
	defer pkt.DecRef()
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	length := uint16(pkt.Size())
	h.Encode(&header.UDPFields{SrcPort: key.to.Port(), DstPort: key.port, Length: length})
	sum := route.PseudoHeaderChecksum(udp.ProtocolNumber, length)
	sum = ^h.CalculateChecksum(checksum.Combine(sum, pkt.Data().Checksum()))
	if sum == 0 {
		sum = 0xffff // 0 would mean: none (RFC 768)
	}
	h.SetChecksum(sum)
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: route.DefaultTTL()}, pkt)
}

// route leads to the guest, from an address that it believes to speak to.
func (g *Gateway) route(from netip.Addr) (*stack.Route, tcpip.Error) {
	proto, to := header.IPv4ProtocolNumber, g.cfg.Ends.Guest4
	if from.Is6() {
		proto, to = header.IPv6ProtocolNumber, g.cfg.Ends.Guest6
	}
	return g.stack.FindRoute(nicID, addressOf(from), addressOf(to), proto, false)
}
