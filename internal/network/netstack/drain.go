package netstack

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// drain writes what the guest has sent into the host's socket from the packets that it came in, without a copy of its own.
type drain struct {
	guest tcpip.Endpoint
	host  syscall.RawConn
	try   func(fd uintptr) (done bool) // for RawConn.Write: made once

	fd   uintptr
	left int // of a turn
	n    int
	terr tcpip.Error
	err  error
}

// drainTurn is how many bytes are written at a time. The guest's side takes no segments meanwhile.
const drainTurn = 256 << 10

var errTurn = errors.New("the turn is over")

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

func (d *drain) tryWrite(fd uintptr) bool {
	d.fd, d.left, d.n, d.err = fd, drainTurn, 0, nil
	_, d.terr = d.guest.Read(d, tcpip.ReadOptions{})
	if d.err != nil {
		d.terr = nil // it was ours
	}
	full := errors.Is(d.err, unix.EAGAIN)
	if full || errors.Is(d.err, errTurn) {
		d.err = nil
	}
	return !full || d.n > 0
}

// Write takes b for the host, or as much of it as goes. It is called by Read, which keeps the rest.
func (d *drain) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		if d.left == 0 {
			d.err = errTurn
			return done, d.err
		}
		part := b[done:min(len(b), done+d.left)]
		n, errno := rawWrite(d.fd, part)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			d.err = errno
			return done, errno
		}
		done += n
		d.n += n
		d.left -= n
	}
	return done, nil
}
