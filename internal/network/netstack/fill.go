package netstack

import (
	"errors"
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// fill reads the host's socket into the packets that go to the guest, without a copy of its own. It is for what is there already:
// it never waits, and has nothing to say about the end of the stream.
type fill struct {
	guest tcpip.Endpoint
	host  syscall.RawConn
	try   func(fd uintptr) (done bool) // for RawConn.Read: made once

	fd   uintptr
	left int // bytes of this piece that are still to be read
	read int // bytes of it that were
	err  error
	n    int64
	terr tcpip.Error
}

const (
	fillLeast = 8 << 10
	// piece is what is sent to the guest at a time: what one frame holds (tcp.sender.sendData has 64 KiB without all possible headers).
	// More would be one frame and a very small one.
	piece = 63 << 10
)

var errLost = errors.New("bytes that were read are lost")

func newFill(host syscall.RawConn, guest tcpip.Endpoint) *fill {
	f := &fill{guest: guest, host: host}
	f.try = f.tryRead
	return f
}

// isTCP reports whether raw is a socket whose TIOCINQ is to be relied on. That of multipath TCP, which a listener of Go's accepts, counts the
// end of the stream as a byte.
func isTCP(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	var proto, size int32 = 0, 4
	var errno unix.Errno
	err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PROTOCOL, uintptr(unsafe.Pointer(&proto)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return err == nil && errno == 0 && proto == unix.IPPROTO_TCP
}

// pass moves a piece to the guest, if there is one and the guest has room (terr).
func (f *fill) pass() (n int, terr tcpip.Error, err error) {
	f.n, f.terr, f.err = 0, nil, nil
	if err := f.host.Read(f.try); err != nil {
		return 0, nil, err
	}
	return int(f.n), f.terr, f.err
}

func (f *fill) tryRead(fd uintptr) bool {
	var ready int32
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, unix.TIOCINQ, uintptr(unsafe.Pointer(&ready))); errno != 0 || ready < fillLeast {
		return true
	}
	f.fd, f.left, f.read = fd, min(int(ready), piece), 0
	f.n, f.terr = f.guest.Write(f, tcpip.WriteOptions{})
	if f.err == nil && f.read != int(f.n) {
		f.err = errLost // the connection is to be broken: its end came while we read
	}
	return true
}

// Len implements tcpip.Payloader.
func (f *fill) Len() int { return f.left }

// Read implements tcpip.Payloader. So much is there, unless the connection breaks: nobody else reads.
func (f *fill) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, errno := rawRead(f.fd, b)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			f.err = errno
		case n == 0:
			f.err = io.ErrUnexpectedEOF
		default:
			f.read += n
			f.left -= n
			return n, nil
		}
		return 0, f.err
	}
}
