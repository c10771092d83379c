package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hostConn is a connection to a server. It is net.TCPConn in fewer and cheaper steps: its socket is made and in the runtime's poller before
// anybody wants it, and what is on the way of a new connection is raw (ADR 21).
type hostConn struct {
	file *os.File
	raw  syscall.RawConn
	to   netip.AddrPort

	spares *spares     // whose it is, or nil
	over   atomic.Bool // see finished
	closed sync.Once   // after that
}

var _ net.Conn = (*hostConn)(nil)

// newSocket makes a socket for connections of IPv4 or IPv6, as net.Dialer has them.
func newSocket(v6 bool) (*hostConn, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	for _, o := range [][3]uintptr{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
	} {
		value := int32(o[2])
		if _, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, fd, o[0], o[1], uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0); errno != 0 {
			_ = unix.Close(int(fd))
			return nil, os.NewSyscallError("setsockopt", errno)
		}
	}
	c := &hostConn{file: os.NewFile(fd, "connection")}
	var err error
	if c.raw, err = c.file.SyscallConn(); err != nil {
		_ = c.file.Close()
		return nil, err
	}
	return c, nil
}

// connect opens the connection.
func (c *hostConn) connect(to netip.AddrPort, deadline time.Time) error {
	c.to = to
	var sa [unix.SizeofSockaddrInet6]byte // of IPv4, the first 16 bytes
	size := uintptr(unix.SizeofSockaddrInet4)
	binary.BigEndian.PutUint16(sa[2:], to.Port())
	if a := to.Addr(); a.Is4() {
		binary.NativeEndian.PutUint16(sa[:], unix.AF_INET)
		*(*[4]byte)(sa[4:]) = a.As4()
	} else {
		binary.NativeEndian.PutUint16(sa[:], unix.AF_INET6)
		*(*[16]byte)(sa[8:]) = a.As16()
		size = unix.SizeofSockaddrInet6
	}
	var errno unix.Errno
	try := func(fd uintptr) (done bool) {
		_, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), size)
		return errno != unix.EINPROGRESS && errno != unix.EALREADY && errno != unix.EINTR
	}
	done := false // of a server on this machine: the handshake is over when the first call returns, and the second says so
	err := c.raw.Control(func(fd uintptr) { done = try(fd) || try(fd) })
	if err == nil && !done {
		if err = c.file.SetWriteDeadline(deadline); err == nil {
			err = c.raw.Write(try)
		}
		if err == nil {
			err = c.file.SetWriteDeadline(time.Time{})
		}
	}
	if err != nil {
		return err
	}
	if errno != 0 && errno != unix.EISCONN {
		return os.NewSyscallError("connect", errno)
	}
	if c.isItself() {
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return nil
}

// isItself reports whether the kernel has given the socket the port that it was to connect to, where nobody listens: then it has a connection
// with itself.
func (c *hostConn) isItself() bool {
	var sa [unix.SizeofSockaddrInet6]byte
	size := uint32(len(sa))
	var errno unix.Errno
	err := c.raw.Control(func(fd uintptr) {
		_, _, errno = unix.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	})
	if err != nil || errno != 0 || binary.BigEndian.Uint16(sa[2:]) != c.to.Port() {
		return false
	}
	if c.to.Addr().Is4() {
		return [4]byte(sa[4:8]) == c.to.Addr().As4()
	}
	return [16]byte(sa[8:24]) == c.to.Addr().As16()
}

// Read implements net.Conn.
func (c *hostConn) Read(b []byte) (int, error) {
	n, err := c.file.Read(b)
	return n, c.failed("read", err)
}

// Write implements net.Conn.
func (c *hostConn) Write(b []byte) (int, error) {
	n, err := c.file.Write(b)
	return n, c.failed("write", err)
}

// failed makes of a file's error that of a net.Conn: crypto/tls goes on after a time-out only if that is a net.Error.
func (c *hostConn) failed(op string, err error) error {
	var path *os.PathError
	if !errors.As(err, &path) {
		return err // none, or io.EOF
	}
	if err = path.Err; errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: c.RemoteAddr(), Err: err}
}

// finished says that both directions have ended in order. The far end does not see any more when the socket is closed.
func (c *hostConn) finished() { c.over.Store(c.spares != nil) }

// Close implements net.Conn. It may be called twice.
func (c *hostConn) Close() error {
	if !c.over.Load() {
		return c.file.Close()
	}
	c.closed.Do(func() { c.spares.retire(c.file) })
	return nil
}

func (c *hostConn) SetDeadline(t time.Time) error      { return c.file.SetDeadline(t) }
func (c *hostConn) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *hostConn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }
func (c *hostConn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.to) }

// SyscallConn implements syscall.Conn.
func (c *hostConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// LocalAddr is the socket's address; nothing if it has gone.
func (c *hostConn) LocalAddr() net.Addr {
	var sa unix.Sockaddr
	_ = c.raw.Control(func(fd uintptr) { sa, _ = unix.Getsockname(int(fd)) })
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}
	}
	return &net.TCPAddr{}
}

// CloseWrite sends a FIN.
func (c *hostConn) CloseWrite() error {
	var errno unix.Errno
	if err := c.raw.Control(func(fd uintptr) { _, _, errno = unix.RawSyscall(unix.SYS_SHUTDOWN, fd, unix.SHUT_WR, 0) }); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("shutdown", errno)
	}
	return nil
}

// SetLinger is that of net.TCPConn.
func (c *hostConn) SetLinger(sec int) error {
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &l) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

// DialTCP opens a connection as a gateway does that has no other Dialer.
func DialTCP(to netip.AddrPort, deadline time.Time) (net.Conn, error) {
	c, err := newSocket(to.Addr().Is6())
	if err != nil {
		return nil, err
	}
	if err := c.connect(to, deadline); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// spares are sockets for the next connections, one of each family, and those of the last, still to be closed.
type spares struct {
	next [2]chan *hostConn

	mu  sync.Mutex
	old []*os.File
}

// Closing a file wakes the runtime's monitor, which then looks for something to do for a while: so files are closed together.
const (
	maxOld   = 16
	oldDelay = 20 * time.Millisecond
)

func newSpares() *spares {
	return &spares{next: [2]chan *hostConn{make(chan *hostConn, 1), make(chan *hostConn, 1)}}
}

func (s *spares) of(v6 bool) chan *hostConn {
	if v6 {
		return s.next[1]
	}
	return s.next[0]
}

// take returns a socket.
func (s *spares) take(v6 bool) (*hostConn, error) {
	select {
	case c := <-s.of(v6):
		return c, nil
	default:
		return s.make(v6)
	}
}

func (s *spares) make(v6 bool) (*hostConn, error) {
	c, err := newSocket(v6)
	if c != nil {
		c.spares = s
	}
	return c, err
}

// prepare makes the next connection's socket, if there is none.
func (s *spares) prepare(v6 bool) {
	of := s.of(v6)
	if len(of) > 0 {
		return
	}
	c, err := s.make(v6)
	if err != nil {
		return // the next connection says why
	}
	select {
	case of <- c:
	default:
		_ = c.Close()
	}
}

// retire closes the socket of a connection that is over, soon.
func (s *spares) retire(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.old = append(s.old, f); len(s.old) {
	case 1:
		time.AfterFunc(oldDelay, s.closeOld)
	case maxOld:
		s.closeOldLocked()
	}
}

func (s *spares) closeOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeOldLocked()
}

func (s *spares) closeOldLocked() {
	for _, f := range s.old {
		_ = f.Close()
	}
	clear(s.old)
	s.old = s.old[:0]
}

func (s *spares) close() {
	s.closeOld()
	for _, of := range s.next {
		select {
		case c := <-of:
			_ = c.Close()
		default:
		}
	}
}

// dialTCP opens the host's side of a TCP connection. It is closed when the gateway goes down; closeNow closes it before.
func (g *Gateway) dialTCP(to netip.AddrPort) (host net.Conn, closeNow func(), err error) {
	if g.spares == nil {
		ctx, cancel := context.WithTimeout(g.ctx, g.cfg.DialTimeout)
		defer cancel()
		if host, err = g.dial(ctx, "tcp", to); err != nil {
			if g.cfg.DialerError != nil && errors.Is(err, g.cfg.DialerError) && g.ctx.Err() == nil {
				g.tellTrouble(noDialer, err.Error())
			}
			return nil, nil, err
		}
		if closeNow, ok := g.keep(host); ok {
			return host, closeNow, nil
		}
		return nil, nil, net.ErrClosed
	}
	to = g.onHost(to)
	c, err := g.spares.take(to.Addr().Is6())
	if err != nil {
		return nil, nil, err
	}
	closeNow, ok := g.keep(c)
	if !ok {
		return nil, nil, net.ErrClosed
	}
	if err := c.connect(to, time.Now().Add(g.cfg.DialTimeout)); err != nil {
		closeNow()
		if g.ctx.Err() != nil {
			err = net.ErrClosed
		}
		return nil, nil, err
	}
	return c, closeNow, nil
}
