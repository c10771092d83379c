package netstack

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// port is the gateway's socket of a Pair. The Go runtime's poller always asks for room to write, too, and a unix socket tells of room each time
// that its far end has read a message: every frame sent would wake us once more, for nothing. So the poller has two epoll instances in its
// place, one that is ready when there is something to read, and one that is told to look for room only when there was none.
type port struct {
	in, out   *os.File
	inc, outc syscall.RawConn

	mu   sync.RWMutex // held while fd is in use
	fd   int
	gone bool
}

// newPort takes over file.
func newPort(file *os.File) (*port, error) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &port{fd: -1}
	var derr error
	if err := raw.Control(func(fd uintptr) { p.fd, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, os.NewSyscallError("fcntl", derr)
	}
	p.in, p.inc, err = epoll(p.fd, unix.EPOLLIN|unix.EPOLLRDHUP)
	if err == nil {
		p.out, p.outc, err = epoll(p.fd, 0)
	}
	if err != nil {
		p.shut()
		p.free()
		return nil, err
	}
	return p, nil
}

// epoll returns an epoll instance for fd that the runtime's poller has.
func epoll(fd int, events uint32) (*os.File, syscall.RawConn, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.SetNonblock(ep, true); err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	}
	if err != nil {
		_ = unix.Close(ep)
		return nil, nil, os.NewSyscallError("epoll_ctl", err)
	}
	f := os.NewFile(uintptr(ep), "network link")
	raw, err := f.SyscallConn()
	if err == nil {
		err = f.SetDeadline(time.Time{}) // fails unless the runtime's poller has it
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, raw, nil
}

// read calls try, which is to return false when it has read all that there was, until it returns true or the port is shut.
func (p *port) read(try func(fd uintptr) bool) error {
	return p.inc.Read(func(uintptr) bool { return try(uintptr(p.fd)) })
}

// write calls try, which is to return false if there is no room, until it returns true or the port is shut.
func (p *port) write(try func(fd uintptr) bool) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.gone {
		return os.ErrClosed
	}
	fd := uintptr(p.fd)
	if try(fd) {
		return nil
	}
	looks := false // one writer at a time is in Read
	return p.outc.Read(func(ep uintptr) bool {
		done := try(fd)
		if !done && !looks {
			looks = true
			p.look(ep, unix.EPOLLOUT)
			done = try(fd) // there may be room since
		}
		if done && looks {
			p.look(ep, 0) // EPOLLONESHOT would not do it: nobody waits in this instance
		}
		return done
	})
}

// look says what the epoll instance ep is to tell of.
func (p *port) look(ep uintptr, events uint32) {
	_ = unix.EpollCtl(int(ep), unix.EPOLL_CTL_MOD, p.fd, &unix.EpollEvent{Events: events, Fd: int32(p.fd)})
}

// shut ends both directions: the far end sees it, and nobody waits any more. It may be called twice.
func (p *port) shut() {
	p.mu.RLock()
	if !p.gone {
		_ = unix.Shutdown(p.fd, unix.SHUT_RDWR)
	}
	p.mu.RUnlock()
	for _, f := range []*os.File{p.out, p.in} { // who reads may be waiting for room
		if f != nil {
			_ = f.Close()
		}
	}
}

// free gives the socket back, after shut and when nobody reads any more.
func (p *port) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.gone = true
		_ = unix.Close(p.fd)
	}
}

// sendBuffer is the size of the socket's buffer, in bytes.
func (p *port) sendBuffer() (int, error) { return buffers(p.fd, unix.SO_SNDBUF) }
