package runner

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alarm wakes one goroutine when it is time. It is a timerfd and no time.Timer: for each of those that runs out in an idle
// process Go's runtime wakes its monitor thread, too, which then looks around for a while; together that costs several times
// what a look at the sandbox does. A descriptor wakes the one thread that waits for descriptors, and this thread goes on with
// the goroutine. For the same reason its system calls, which never wait, are not announced to the runtime, nor are those
// of the looks: the first one that is wakes the monitor.
type alarm struct {
	f    *os.File
	conn syscall.RawConn
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &alarm{f: os.NewFile(uintptr(fd), "alarm")}
	if a.conn, err = a.f.SyscallConn(); err != nil {
		a.f.Close()
		return nil, fmt.Errorf("wait for a timer: %w", err)
	}
	return a, nil
}

// wait returns after d, or with an error when the alarm is closed. It is for one goroutine.
func (a *alarm) wait(d time.Duration) error {
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))} // 0 would never ring
	var errno syscall.Errno
	set := false
	err := a.conn.Read(func(fd uintptr) (done bool) {
		if !set {
			set = true
			_, _, errno = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&once)), 0, 0, 0)
			return errno != 0
		}
		var rung uint64
		_, _, errno = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&rung)), unsafe.Sizeof(rung))
		return errno != unix.EAGAIN
	})
	if err == nil && errno != 0 {
		err = fmt.Errorf("wait for a timer: %w", errno)
	}
	return err
}

// close ends a wait. It may be called twice, and on nil.
func (a *alarm) close() {
	if a != nil {
		_ = a.f.Close()
	}
}
