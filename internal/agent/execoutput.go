package agent

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// readSize is how much output one frame carries at most. Each byte of it waits for a page of memory the first time.
const readSize = 64 << 10

var readBuffers = sync.Pool{New: func() any { return agentproto.NewDataBuffer(readSize) }}

// floodSize is the same for a command whose output comes faster than it is read: to wake who waits costs a guest more than to copy.
const floodSize = 256 << 10

var floodBuffers = sync.Pool{New: func() any { return agentproto.NewDataBuffer(floodSize) }}

// fSetPipeSize is F_SETPIPE_SZ.
const fSetPipeSize = 1031

// floodPipe is how much the pipe of such a command holds, in bytes: it goes on while its output is on the way. An ordinary user may have as much.
const floodPipe = 4 * floodSize

// enlarge lets a pipe hold floodPipe. It reports whether it does; a terminal does not.
func enlarge(pipe *os.File) (ok bool) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) {
		_, _, e := syscall.Syscall(syscall.SYS_FCNTL, fd, fSetPipeSize, floodPipe)
		ok = e == 0
	})
	return ok
}

// copy sends what the command writes, until nobody can write it any more.
func (s *execSession) copy(t agentproto.Type, from *os.File) {
	pool := &readBuffers
	buf := pool.Get().(*agentproto.DataBuffer)
	defer func() { pool.Put(buf) }()
	for {
		s.window.wait()
		n, err := readAvailable(from, buf.Space())
		if n == readSize && pool == &readBuffers && enlarge(from) { // it is a flood
			old := buf
			pool = &floodBuffers
			buf = pool.Get().(*agentproto.DataBuffer)
			copy(buf.Space(), old.Space()[:n])
			readBuffers.Put(old)
		}
		s.reads.Add(1)
		if n > 0 && s.left.Load() {
			n = 0 // nobody hears it
		}
		if n > 0 {
			s.window.sent(n)
			s.a.out.count(t)
			if s.isDropped() || s.a.out.write(buf.Frame(s.id, t, n)) != nil {
				return
			}
		}
		if err != nil { // EOF; EIO from a PTY without a user; closed by drop
			return
		}
	}
}

// readAvailable waits until there is something to read, then reads as much as there is and fits. A command that writes little
// at a time costs fewer frames, and nothing more: the read that finds nothing comes before the frame, not after it.
func readAvailable(from *os.File, p []byte) (n int, err error) {
	conn, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		for n < len(p) {
			got, err := readNow(fd, p[n:])
			switch {
			case err == syscall.EAGAIN:
				return n > 0
			case err != nil:
				failed = err
				return true
			case got == 0:
				failed = io.EOF
				return true
			default:
				n += got
			}
		}
		return true
	})
	return n, errors.Join(err, failed)
}
