package netstack

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the stack's end of a Pair. It reads in one goroutine, parked in the runtime's poller when there is nothing to
// do, and differs from gVisor's fdbased endpoint in that a writer waits for room instead of dropping the frame: a drop
// here costs a retransmission time-out there (research/netlink.md, "Loss").
//
// It never drops towards the guest, so the far end must not wait for us while it does not read: the sentry does not.
type link struct {
	port   *port
	mac    tcpip.LinkAddress
	filter filter
	onDown func() // called once by the reader when the far end is gone
	// refuse is given what the stack would drop without a word (see special).
	refuse func(proto tcpip.NetworkProtocolNumber, packet []byte)
	// judge says which packets are to be delivered now, and how those that are delivered later.
	judge func(proto tcpip.NetworkProtocolNumber, packet []byte) (fate, func(do func()))

	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	reader     sync.WaitGroup

	acks acks

	rxDropped, txDropped atomic.Uint64
	in, out              traffic // from and to the guest
}

// traffic counts packets as a wire with the link's MTU would have had them.
type traffic struct{ packets, bytes atomic.Uint64 }

func (t *traffic) add(size int, segment uint16) {
	n := 1
	if segment > 0 {
		n = (size + int(segment) - 1) / int(segment)
	}
	t.packets.Add(uint64(n))
	t.bytes.Add(uint64(size))
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(file *os.File, ends Ends) (*link, error) {
	port, err := newPort(file)
	if err != nil {
		return nil, err
	}
	l := &link{port: port, mac: tcpip.LinkAddress(ends.GatewayMAC), filter: newFilter(ends)}
	l.acks.delay, l.acks.send = ackDelay, func(pkt *stack.PacketBuffer) { _, _ = l.send([]*stack.PacketBuffer{pkt}) }
	return l, nil
}

// close wakes the reader and every writer and waits for the reader. It may be called twice.
func (l *link) close() {
	l.port.shut()
	l.acks.close()
	l.reader.Wait()
}

// Attach starts the reader (nil: the NIC is removed, see Gateway.Close).
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	if l.dispatcher.Swap(&d) == nil {
		l.reader.Go(func() {
			l.read(d)
			l.port.shut() // nor does anyone wait for it to read
			l.onDown()
		})
	}
}

// read takes frames up until the far end or the file is closed.
func (l *link) read(d stack.NetworkDispatcher) {
	in := &inbox{batch: 1}
	defer in.release()
	// What comes while frames are delivered wakes the poller, so after fewer than there was room for it need not be asked whether there are more.
	_ = l.port.read(func(fd uintptr) (ended bool) {
		for more := true; more; {
			if more, ended = l.receive(in, fd, d); ended {
				return true
			}
		}
		return false
	})
}

// receive delivers what has come, or a part of it.
func (l *link) receive(in *inbox, fd uintptr, d stack.NetworkDispatcher) (more, ended bool) {
	in.fill()
	n, errno := recvmmsg(fd, in.hdrs[:in.batch])
	if errno == unix.EAGAIN {
		return false, false
	}
	if errno != 0 {
		return false, true
	}
	for i := range n {
		size := int(in.hdrs[i].len)
		if size == 0 {
			return false, true // end of file; nobody sends an empty message
		}
		if !l.deliver(d, &in.slots[i], size) {
			l.rxDropped.Add(1)
		}
	}
	if more = n == in.batch; more {
		in.batch = min(2*n, len(in.slots))
	}
	return more, false
}

// deliver hands a message of size bytes in s to the stack.
func (l *link) deliver(d stack.NetworkDispatcher, s *slot, size int) bool {
	size -= vnetHdrLen
	if size < ethHdrLen {
		return false
	}
	head := s.gather(size)
	vnet := parseVnetHdr(&s.hdr)
	proto, ok := l.filter.admit(vnet, head, size)
	if !ok {
		return false
	}
	l.in.add(size, vnet.gsoSize)
	packet := head[ethHdrLen:]
	if l.filter.special(proto, packet) {
		l.refuse(proto, packet)
		return true
	}
	what, later := l.judge(proto, packet)
	if what == drop {
		return true
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: s.take(size, len(head))})
	defer pkt.DecRef()
	if _, ok := pkt.LinkHeader().Consume(ethHdrLen); !ok {
		return false
	}
	pkt.NetworkProtocolNumber = proto
	pkt.RXChecksumValidated = true
	if what == hold {
		pkt.IncRef()
		go func() {
			defer pkt.DecRef()
			later(func() { d.DeliverNetworkPacket(proto, pkt) })
		}()
		return true
	}
	l.acks.came(proto, packet, size-ethHdrLen)
	d.DeliverNetworkPacket(proto, pkt)
	return true
}

// inbox is where messages are received into. It starts with room for one and grows with the traffic, so that an idle
// link holds 66 KiB and not half a megabyte.
type inbox struct {
	batch int
	slots [8]slot
	hdrs  [8]mmsghdr
}

const (
	smallView = 2 << 10 // an acknowledgement costs no more than this
	largeView = 64 << 10
	// headers is the size of what is before the data in most large frames: Ethernet, IPv4, TCP with time stamps. What follows is received
	// apart, so that the data is in one piece, which takes one write.
	headers = ethHdrLen + header.IPv4MinimumSize + header.TCPMinimumSize + 12
)

// slot receives one message: header, the frame's headers, the rest.
type slot struct {
	hdr          [vnetHdrLen]byte
	small, large *buffer.View
	iov          [3]unix.Iovec
}

func (in *inbox) fill() {
	for i := range in.slots[:in.batch] {
		s := &in.slots[i]
		if s.small == nil {
			s.small = buffer.NewViewSize(smallView)
			s.iov[1] = unix.Iovec{Base: s.small.BasePtr()}
			s.iov[1].SetLen(headers)
		}
		if s.large == nil {
			s.large = buffer.NewViewSize(largeView)
			s.iov[2] = unix.Iovec{Base: s.large.BasePtr()}
			s.iov[2].SetLen(largeView)
		}
		if in.hdrs[i].msg.Iov == nil {
			s.iov[0] = unix.Iovec{Base: &s.hdr[0]}
			s.iov[0].SetLen(vnetHdrLen)
			in.hdrs[i].msg.Iov = &s.iov[0]
			in.hdrs[i].msg.SetIovlen(len(s.iov))
		}
	}
}

func (in *inbox) release() {
	for i := range in.slots {
		for _, v := range []*buffer.View{in.slots[i].small, in.slots[i].large} {
			if v != nil {
				v.Release()
			}
		}
	}
}

// gather puts a frame of size bytes together if it is small, and returns what there is of it in one piece.
func (s *slot) gather(size int) []byte {
	head := s.small.AsSlice()
	if size <= headers || size > smallView {
		return head[:min(size, headers)]
	}
	copy(head[headers:], s.large.AsSlice()[:size-headers])
	return head[:size]
}

// take returns the received frame, of which head bytes were gathered, and leaves holes in the slot for fill. The views go up as they
// are, but a large one only when at least half full: the stack counts bytes, not views, so a guest that sends frames of 3 KiB must not
// pin 64 KiB with each.
func (s *slot) take(size, head int) buffer.Buffer {
	var b buffer.Buffer
	small := s.small
	s.small = nil
	small.CapLength(head)
	_ = b.Append(small)
	switch rest := size - head; {
	case rest <= 0:
	case rest < largeView/2:
		_ = b.Append(buffer.NewViewWithData(s.large.AsSlice()[:rest]))
	default:
		large := s.large
		s.large = nil
		large.CapLength(rest)
		_ = b.Append(large)
	}
	return b
}

// MTU implements stack.NetworkLinkEndpoint.
func (l *link) MTU() uint32 { return MTU }

// SetMTU implements stack.NetworkLinkEndpoint; the MTU of a link does not change.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.NetworkLinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return ethHdrLen }

// LinkAddress implements stack.NetworkLinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// SetLinkAddress implements stack.NetworkLinkEndpoint; the MAC of a link does not change.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.NetworkLinkEndpoint.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload | stack.CapabilityTXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return 65536 }

// SupportedGSO implements stack.GSOEndpoint: the far end takes frames that were not cut.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// Wait implements stack.NetworkLinkEndpoint.
func (l *link) Wait() { l.reader.Wait() }

// ARPHardwareType implements stack.NetworkLinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.NetworkLinkEndpoint.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(ethHdrLen)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.NetworkLinkEndpoint.
func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(ethHdrLen)
	return ok
}

// Close implements stack.NetworkLinkEndpoint; the Gateway closes the file.
func (l *link) Close() {}

// SetOnCloseAction implements stack.NetworkLinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}
