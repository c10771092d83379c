package netstack

import (
	"encoding/binary"
	"sync"
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

// asked remembers the SYNs of late. A guest may send one several times (gVisor's does within a millisecond when something old reaches it), and one
// that is delivered when its connection has come and gone would open another, which nobody wants and which is in the next one's way.
type asked struct {
	mu         sync.Mutex
	now, older map[stack.TransportEndpointID]*request
	held       int
}

// request is what the guest asked for last.
type request struct {
	seq  uint32
	held bool // and is to be delivered later
}

const maxAsked = 1024 // of each half

// lastLocked returns the request of that name, or a new one.
func (a *asked) lastLocked(id stack.TransportEndpointID) (r *request, known bool) {
	if r, known = a.now[id]; known {
		return r, true
	}
	if len(a.now) >= maxAsked || a.now == nil {
		a.now, a.older = map[stack.TransportEndpointID]*request{}, a.now
	}
	if r, known = a.older[id]; !known {
		r = &request{}
	}
	a.now[id] = r
	return r, known
}

// fate is what is done with a packet.
type fate int

const (
	deliver fate = iota
	hold         // until what is there has gone
	drop
)

// judge decides about a packet from the guest. It runs in the link's reader.
func (g *Gateway) judge(proto tcpip.NetworkProtocolNumber, ip []byte) (fate, func(do func())) {
	id, seq, ok := asksFor(proto, ip)
	if !ok {
		return deliver, nil
	}
	there := g.holds(proto, id)
	g.asked.mu.Lock()
	defer g.asked.mu.Unlock()
	r, known := g.asked.lastLocked(id)
	again := known && r.seq == seq
	r.seq = seq
	switch {
	case !there:
		r.held = false
		return deliver, nil
	case again && r.held:
		return drop, nil // it will be delivered
	case again:
		return deliver, nil // what is there answers: the guest may not have got the first answer
	case g.asked.held >= maxReused || !g.begin():
		return deliver, nil
	}
	g.asked.held++
	r.held = true
	return hold, func(do func()) {
		defer g.tasks.Done()
		if g.waitGone(proto, id) && g.asked.release(r, seq) {
			do()
		}
	}
}

// release reports whether the request that was held is still wanted.
func (a *asked) release(r *request, seq uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held--
	ok := r.held && r.seq == seq
	if ok {
		r.held = false
	}
	return ok
}

// waitGone waits until there is no connection of that name, or as long as is of use. It returns false when the gateway goes down.
func (g *Gateway) waitGone(proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	for i := range reuseTries {
		select {
		case <-time.After(reusePause << i):
		case <-g.ctx.Done():
			return false
		}
		if !g.holds(proto, id) {
			return true
		}
	}
	return true
}

// holds reports whether there is a connection of that name. It may be in its handshake: what ended it is still on its way there.
func (g *Gateway) holds(proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	return g.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, nicID) != nil
}

// asksFor returns the connection that a SYN is for, as the stack names it, and its sequence number.
func asksFor(proto tcpip.NetworkProtocolNumber, ip []byte) (id stack.TransportEndpointID, seq uint32, ok bool) {
	if proto != header.IPv4ProtocolNumber && proto != header.IPv6ProtocolNumber {
		return id, 0, false
	}
	src, dst, transport, ok := parsePorts(proto, ip)
	if !ok {
		return id, 0, false
	}
	if f := header.TCPFlags(transport[header.TCPFlagsOffset]); !f.Contains(header.TCPFlagSyn) || f.Contains(header.TCPFlagAck) {
		return id, 0, false
	}
	return stack.TransportEndpointID{
		RemoteAddress: addressOf(src), RemotePort: binary.BigEndian.Uint16(transport),
		LocalAddress: addressOf(dst), LocalPort: binary.BigEndian.Uint16(transport[2:]),
	}, header.TCP(transport).SequenceNumber(), true
}
