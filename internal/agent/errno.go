package agent

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// kindOf is the table of contract msb-0.6 §4.5.
func kindOf(e syscall.Errno) agentproto.FailureKind {
	switch e {
	case syscall.ENOENT:
		return agentproto.FailNotFound
	case syscall.ENOTDIR:
		return agentproto.FailBadCwd
	case syscall.EACCES, syscall.EPERM:
		return agentproto.FailPermissionDenied
	case syscall.ENOEXEC, syscall.EISDIR, syscall.ETXTBSY:
		return agentproto.FailNotExecutable
	case syscall.E2BIG, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EFAULT:
		return agentproto.FailBadArgs
	case syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN:
		return agentproto.FailResourceLimit
	case syscall.ENOMEM:
		return agentproto.FailOutOfMemory
	}
	return agentproto.FailOther
}

// errno returns the number and the name of the system error in err's chain, or nothing.
func errno(err error) (int32, string) {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return 0, ""
	}
	return int32(e), unix.ErrnoName(e)
}

// connectionGone reports the errors of a socket whose peer is gone.
func connectionGone(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) ||
		errors.Is(err, syscall.EBADF)
}
