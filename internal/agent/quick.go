package agent

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A system call that package syscall makes wakes the Go runtime's monitor, which then looks every 20 µs whether the call takes long. Where
// the kernel is one in user space, these looks cost more than what is done between them. Calls that cannot block, on the way from a request
// for a command to the news of its end, go without that.

// quick is a file that is not blocking, of which every read and write is such a call.
type quick struct {
	*os.File
	raw syscall.RawConn
}

// quickFile returns f itself if it cannot be one: a call that does block would stop every goroutine.
func quickFile(f *os.File) io.ReadWriteCloser {
	raw, err := f.SyscallConn()
	if err != nil {
		return f
	}
	flags := 0
	if raw.Control(func(fd uintptr) { flags, err = unix.FcntlInt(fd, syscall.F_GETFL, 0) }) != nil || err != nil || flags&syscall.O_NONBLOCK == 0 {
		return f
	}
	return &quick{File: f, raw: raw}
}

func (q *quick) Read(p []byte) (n int, err error) {
	failed := q.raw.Read(func(fd uintptr) bool {
		n, err = readNow(fd, p)
		return err != syscall.EAGAIN
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (q *quick) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		failed := q.raw.Write(func(fd uintptr) bool {
			var done int
			done, err = writeNow(fd, p[n:])
			n += done
			return err != syscall.EAGAIN
		})
		if failed != nil {
			return n, failed
		}
	}
	return n, os.NewSyscallError("write", err)
}

func readNow(fd uintptr, p []byte) (int, error)  { return now(syscall.SYS_READ, fd, p) }
func writeNow(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_WRITE, fd, p) }

// now reads or writes a file that is not blocking.
func now(number, fd uintptr, p []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall(number, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, e
		}
	}
}

// closeNow closes a file that has nothing to write back.
func closeNow(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// statNow looks at a small file of the guest's root.
func statNow(path string, st *syscall.Stat_t) error {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_NEWFSTATAT, ^uintptr(99), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(st)), 0, 0, 0) // AT_FDCWD
	if e != 0 {
		return e
	}
	return nil
}

// waitNow reaps a child if it has ended.
func waitNow(pid int) (status syscall.WaitStatus, got int, err error) {
	var word int32
	n, _, e := syscall.RawSyscall6(syscall.SYS_WAIT4, uintptr(pid), uintptr(unsafe.Pointer(&word)), syscall.WNOHANG, 0, 0, 0)
	if e != 0 {
		return 0, -1, e
	}
	return syscall.WaitStatus(word), int(n), nil
}

// ignoreChildren takes back the Go runtime's handler of SIGCHLD: nobody here wants to hear of one, and it would interrupt a thread.
func ignoreChildren() {
	var def [4]uint64 // struct sigaction of SIG_DFL
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGCHLD), uintptr(unsafe.Pointer(&def)), 0, 8, 0, 0)
}
