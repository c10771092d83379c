package netstack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A guest that has done with a connection may ask for another from the same port at once, while what is left of the old one here still
// gets what comes for it. The stack would answer such a SYN with RST if that closes meanwhile (it looks for a listener, and the forwarder is
// none), or not at all in TIME-WAIT. So it waits until the old one is gone.
const (
	reusePause = 2 * time.Millisecond // and then twice as long each time
	reuseTries = 8                    // together half a second; what is there then answers as TCP has it
	maxReused  = 256
)

// reused returns nil for a packet that can be delivered at once, and otherwise what delivers it later. It runs in the link's reader.
func (g *Gateway) reused(proto tcpip.NetworkProtocolNumber, ip []byte) func(deliver func()) {
	id, ok := asksFor(proto, ip)
	if !ok || !g.holds(proto, id) {
		return nil
	}
	if g.waiting.Add(1) > maxReused || !g.begin() {
		g.waiting.Add(-1)
		return nil
	}
	return func(deliver func()) {
		defer g.tasks.Done()
		defer g.waiting.Add(-1)
		for i := range reuseTries {
			select {
			case <-time.After(reusePause << i):
			case <-g.ctx.Done():
				return
			}
			if !g.holds(proto, id) {
				break
			}
		}
		deliver()
	}
}

// holds reports whether there is a connection of that name. It may be in its handshake: either what the guest asked for before is still on
// its way there, or the guest asks again for what it has asked for, which can wait, too.
func (g *Gateway) holds(proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	return g.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID) != nil
}

// asksFor returns the connection that a SYN is for, as the stack names it.
func asksFor(proto tcpip.NetworkProtocolNumber, ip []byte) (id stack.TransportEndpointID, ok bool) {
	if proto != header.IPv4ProtocolNumber && proto != header.IPv6ProtocolNumber {
		return id, false
	}
	src, dst, transport, ok := parsePorts(proto, ip)
	if !ok {
		return id, false
	}
	if f := header.TCPFlags(transport[header.TCPFlagsOffset]); !f.Contains(header.TCPFlagSyn) || f.Contains(header.TCPFlagAck) {
		return id, false
	}
	return stack.TransportEndpointID{
		RemoteAddress: addressOf(src), RemotePort: binary.BigEndian.Uint16(transport),
		LocalAddress: addressOf(dst), LocalPort: binary.BigEndian.Uint16(transport[2:]),
	}, true
}
