package netstack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	msg unix.Msghdr
	len uint32
	_   [4]byte
}

// recvmmsg and sendmmsg never wait. They are made as ordinary (not raw) system calls: eight frames of 64 KiB are
// half a megabyte to copy, and meanwhile other goroutines may have the processor.
func recvmmsg(fd uintptr, hdrs []mmsghdr) (int, unix.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, hdrs)
}

func sendmmsg(fd uintptr, hdrs []mmsghdr) (int, unix.Errno) {
	return mmsg(unix.SYS_SENDMMSG, fd, hdrs)
}

func mmsg(call, fd uintptr, hdrs []mmsghdr) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
