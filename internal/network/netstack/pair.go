package netstack

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WantBuffers is the socket buffer, in bytes, with which no frame was lost in our measurements.
const WantBuffers = 4 << 20

// Pair is the two ends of a link: a SEQPACKET socketpair, one frame per message.
type Pair struct {
	Sentry  *os.File // for the driver
	Gateway *os.File // for New
	// Buffers is what the kernel gave to each direction, in bytes as asked for. Below WantBuffers the sentry drops
	// frames when many connections send at once (it never waits): worth a warning.
	Buffers int
}

// NewPair makes a link. Both ends are non-blocking and close on exec. Where net.core.wmem_max does not let us have the
// buffers, root takes them by force, anyone else gets what is allowed.
func NewPair() (*Pair, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the network link: %w", err)
	}
	p := &Pair{
		Sentry:  os.NewFile(uintptr(fds[0]), "network link (sentry)"),
		Gateway: os.NewFile(uintptr(fds[1]), "network link (gateway)"),
		Buffers: WantBuffers,
	}
	for _, fd := range fds {
		n, err := growBuffers(fd)
		if err != nil {
			_ = p.Close()
			return nil, fmt.Errorf("size the buffers of the network link: %w", err)
		}
		p.Buffers = min(p.Buffers, n)
	}
	return p, nil
}

// Close closes both ends. It may be called after one or both were given away.
func (p *Pair) Close() error {
	err := errors.Join(p.Sentry.Close(), p.Gateway.Close())
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func growBuffers(fd int) (int, error) {
	for _, o := range [2][2]int{{unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}, {unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], WantBuffers); err != nil {
			return 0, err
		}
		if n, err := buffers(fd, o[0]); err != nil || n >= WantBuffers {
			if err != nil {
				return 0, err
			}
			continue
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], WantBuffers) // EPERM without CAP_NET_ADMIN
	}
	return buffers(fd, unix.SO_SNDBUF) // what a unix socket goes by; SO_RCVBUF bounds nothing there
}

// buffers reads a buffer size as it would be asked for: the kernel keeps double.
func buffers(fd, opt int) (int, error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
	return n / 2, err
}
