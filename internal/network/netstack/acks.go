package netstack

import (
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// acks holds back the acknowledgement of a few bytes or of the end of a stream for a moment: mostly there is something to be sent at once, an
// answer or an end, which says it too, and a frame costs the guest's kernel more than what is done with it. gVisor has no delayed
// acknowledgements (RFC 9293, 3.8.6.3). One is held at a time.
type acks struct {
	send  func(*stack.PacketBuffer) // sends what was held too long
	delay time.Duration

	mu      sync.Mutex
	last    segment // what came last, if its acknowledgement may wait
	of      segment
	held    *stack.PacketBuffer // the acknowledgement of of, or nil
	timer   *time.Timer         // of held
	leaving chan struct{}       // closed when held is sent; nil while it waits
	closed  bool
}

// segment is one of the guest's, by its acknowledgement.
type segment struct {
	guest, far netip.AddrPort
	number     uint32
}

func (s segment) sameFlow(o segment) bool { return s.guest == o.guest && s.far == o.far }

const (
	ackDelay = 2 * time.Millisecond
	ackSmall = 1024 // bytes; more may be a part of much, whose sender waits for room
)

// came is told of each packet from the guest, of size bytes, of which ip has the headers at least.
func (a *acks) came(proto tcpip.NetworkProtocolNumber, ip []byte, size int) {
	if proto != header.IPv4ProtocolNumber && proto != header.IPv6ProtocolNumber {
		return
	}
	src, dst, transport, ok := parsePorts(proto, ip)
	if !ok {
		return
	}
	h := header.TCP(transport)
	data := size - (len(ip) - len(transport)) - int(h.DataOffset())
	s := segment{
		guest: netip.AddrPortFrom(src, h.SourcePort()), far: netip.AddrPortFrom(dst, h.DestinationPort()),
		number: h.SequenceNumber() + uint32(data),
	}
	f := h.Flags()
	fin := f.Contains(header.TCPFlagFin)
	if fin {
		s.number++
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !f.Intersects(header.TCPFlagSyn|header.TCPFlagRst) && (fin || data > 0) && data >= 0 && data <= ackSmall:
		a.last = s
	case data != 0 && a.last.sameFlow(s):
		a.last = segment{}
	}
}

// keeps takes a packet that is to be sent if it can wait. What was kept before is forgotten if this says it too.
func (a *acks) keeps(pkt *stack.PacketBuffer) bool {
	s, h, ok := acknowledges(pkt)
	if !ok {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.leaving != nil && a.of.sameFlow(s) { // what is older goes first: the guest's stack takes the window of what came last
		left := a.leaving
		a.mu.Unlock()
		<-left
		a.mu.Lock()
	}
	said := a.held != nil && a.of.sameFlow(s)
	if said {
		a.dropLocked()
	}
	if s != a.last {
		return false
	}
	a.last = segment{}
	if said || a.held != nil || a.closed || h.Flags() != header.TCPFlagAck || pkt.Data().Size() > 0 || hasSACK(h.Options()) {
		return false
	}
	a.of, a.held = s, pkt.IncRef()
	if a.timer == nil {
		a.timer = time.AfterFunc(a.delay, a.late)
	} else {
		a.timer.Reset(a.delay)
	}
	return true
}

func (a *acks) dropLocked() {
	a.timer.Stop()
	a.held.DecRef()
	a.held = nil
}

// late sends what is held. Until that is done, which takes as long as there is no room on the link, nothing else is.
func (a *acks) late() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil || a.leaving != nil {
		return
	}
	a.leaving = make(chan struct{})
	a.mu.Unlock()
	a.send(a.held)
	a.mu.Lock()
	a.held.DecRef()
	a.held = nil
	close(a.leaving)
	a.leaving = nil
}

// close forgets what is held, and waits until nothing is being sent: send must not wait any more.
func (a *acks) close() {
	a.mu.Lock()
	a.closed = true
	left := a.leaving
	if a.held != nil && left == nil {
		a.dropLocked()
	}
	a.mu.Unlock()
	if left != nil {
		<-left
	}
}

// acknowledges returns what a packet to the guest acknowledges, if it is of TCP.
func acknowledges(pkt *stack.PacketBuffer) (s segment, h header.TCP, ok bool) {
	ip := pkt.NetworkHeader().Slice()
	h = header.TCP(pkt.TransportHeader().Slice())
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || len(h) < header.TCPMinimumSize {
		return s, nil, false
	}
	var src, dst netip.Addr
	switch {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(ip) >= header.IPv4MinimumSize:
		src, dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	case pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber && len(ip) >= header.IPv6MinimumSize:
		src, dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	default:
		return s, nil, false
	}
	return segment{guest: netip.AddrPortFrom(dst, h.DestinationPort()), far: netip.AddrPortFrom(src, h.SourcePort()), number: h.AckNumber()}, h, true
}

// hasSACK reports whether options of our own stack's tell of holes.
func hasSACK(options []byte) bool {
	for len(options) > 0 {
		switch {
		case options[0] == header.TCPOptionNOP:
			options = options[1:]
		case options[0] == header.TCPOptionSACK:
			return true
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return false // the end
		default:
			options = options[options[1]:]
		}
	}
	return false
}
