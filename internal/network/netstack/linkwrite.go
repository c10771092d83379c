package netstack

import (
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// outbox is one sendmmsg(2) in the making. The iovecs point into the packets, which live until it is sent.
type outbox struct {
	n, sent int
	hdrs    [64]mmsghdr
	vnet    [64][vnetHdrLen]byte
	iovs    [64][]unix.Iovec
	errno   unix.Errno
	dropped uint64
	send    func(fd uintptr) (done bool) // for port.write: made once, kept with the outbox
}

// maxIovecs is how many pieces a frame may have before it is copied into one; the kernel takes 1024.
const maxIovecs = 64

var outboxes = sync.Pool{New: func() any {
	o := new(outbox)
	o.send = o.sendTo
	return o
}}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	pkts := list.AsSlice()
	if len(pkts) == 1 && l.acks.keeps(pkts[0]) {
		return 1, nil
	}
	return l.send(pkts)
}

// send waits for room and fails only when the link is closed.
func (l *link) send(pkts []*stack.PacketBuffer) (int, tcpip.Error) {
	o := outboxes.Get().(*outbox)
	defer o.free()
	written := 0
	for len(pkts) > 0 {
		o.n, o.sent, o.errno = min(len(pkts), len(o.hdrs)), 0, 0
		for i, pkt := range pkts[:o.n] {
			l.out.add(pkt.Size(), o.put(i, pkt))
		}
		err := l.port.write(o.send)
		written += o.sent
		if err != nil || o.errno != 0 {
			l.txDropped.Add(uint64(len(pkts) - o.sent))
			return written, &tcpip.ErrClosedForSend{}
		}
		pkts = pkts[o.n:]
	}
	l.txDropped.Add(o.dropped)
	return written, nil
}

// put makes pkt the i-th message, and returns into what pieces a wire would cut it, 0 for none.
func (o *outbox) put(i int, pkt *stack.PacketBuffer) (segment uint16) {
	vnet := vnetHdrOf(pkt)
	vnet.put(&o.vnet[i])
	iovs := append(o.iovs[i][:0], iovec(o.vnet[i][:]))
	views, offset := pkt.AsViewList()
	if views.Len() > maxIovecs {
		iovs = append(iovs, iovec(pkt.ToView().AsSlice()))
	} else {
		for v := views.Front(); v != nil; v = v.Next() {
			b := v.AsSlice()
			if offset >= len(b) {
				offset -= len(b)
				continue
			}
			iovs = append(iovs, iovec(b[offset:]))
			offset = 0
		}
	}
	o.iovs[i] = iovs
	o.hdrs[i].msg.Iov = &iovs[0]
	o.hdrs[i].msg.SetIovlen(len(iovs))
	return vnet.gsoSize
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// sendTo sends what is left; false asks to be called again when there is room.
func (o *outbox) sendTo(fd uintptr) bool {
	for o.sent < o.n {
		n, errno := sendmmsg(fd, o.hdrs[o.sent:o.n])
		switch errno {
		case 0:
			o.sent += n
		case unix.EAGAIN:
			return false
		case unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE: // this frame cannot be sent; the next may
			o.sent++
			o.dropped++
		default: // EPIPE, ECONNRESET: the far end is gone
			o.errno = errno
			return true
		}
	}
	return true
}

// free forgets the packets, so that the pool does not keep them alive.
func (o *outbox) free() {
	for i := range o.hdrs {
		if o.hdrs[i].msg.Iov == nil {
			break
		}
		o.hdrs[i].msg.Iov = nil
		clear(o.iovs[i])
	}
	o.dropped = 0
	outboxes.Put(o)
}
