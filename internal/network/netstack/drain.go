package netstack

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// drain writes what the guest has sent into the host's socket from the packets that it came in, without a copy of its own. What is small is
// put together first.
type drain struct {
	guest tcpip.Endpoint
	host  syscall.RawConn
	try   func(fd uintptr) (done bool) // for RawConn.Write: made once

	small *[64 << 10]byte // of copyBuffers, while there is something in it
	rest  []byte          // of small: what was taken from the guest and is still to be written
	iov   [2]unix.Iovec

	fd      uintptr
	left    int // bytes of a turn
	n       int // bytes that were taken
	stopped bool
	terr    tcpip.Error
	err     error
}

const (
	drainTurn  = 256 << 10 // bytes that are taken at a time: meanwhile the guest's side takes no segments
	drainSmall = 16 << 10  // what is smaller is copied
)

var errStopped = errors.New("no more is taken now")

func newDrain(host syscall.RawConn, guest tcpip.Endpoint) *drain {
	d := &drain{guest: guest, host: host}
	d.try = d.tryWrite
	return d
}

// pass is relay.copyToHost, for more at a time. It waits for the host.
func (d *drain) pass() (n int, terr tcpip.Error, err error) {
	if err := d.host.Write(d.try); err != nil {
		return 0, nil, err
	}
	return d.n, d.terr, d.err
}

// close gives up what is not written yet.
func (d *drain) close() {
	if d.small != nil {
		copyBuffers.Put(d.small)
		d.small, d.rest = nil, nil
	}
}

func (d *drain) tryWrite(fd uintptr) bool {
	d.fd, d.left, d.n, d.stopped, d.terr, d.err = fd, drainTurn, 0, false, nil, nil
	if d.send(nil); d.err != nil || len(d.rest) > 0 {
		return d.err != nil
	}
	_, d.terr = d.guest.Read(d, tcpip.ReadOptions{})
	if d.stopped {
		d.terr = nil // it was ours
	}
	if d.err == nil {
		d.send(nil)
	}
	return d.err != nil || d.terr != nil || d.n > 0
}

// Write takes b for the host, or as much of it as goes. It is called by Read, which keeps the rest.
func (d *drain) Write(b []byte) (int, error) {
	part := b[:min(len(b), d.left)]
	n := 0
	switch {
	case len(part) == 0: // the turn is over
	case len(part) < drainSmall:
		if d.small == nil {
			d.small = copyBuffers.Get().(*[64 << 10]byte)
			d.rest = d.small[:0]
		}
		n = copy(d.rest[len(d.rest):cap(d.rest)], part)
		d.rest = d.rest[:len(d.rest)+n]
	default:
		n = d.send(part)
	}
	d.n += n
	d.left -= n
	if n < len(b) {
		d.stopped = true
		return n, errStopped
	}
	return n, nil
}

// send writes what is left, and then b. It returns how much of b was written.
func (d *drain) send(b []byte) int {
	pieces := d.iov[:0]
	for _, p := range [][]byte{d.rest, b} {
		if len(p) > 0 {
			pieces = append(pieces, iovec(p))
		}
	}
	for len(pieces) > 0 {
		n, errno := rawWritev(d.fd, pieces)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0
		case 0:
		default:
			d.err = errno
			return 0
		}
		old := min(n, len(d.rest))
		if d.rest = d.rest[old:]; len(d.rest) == 0 {
			d.close()
		}
		return n - old
	}
	return 0
}
