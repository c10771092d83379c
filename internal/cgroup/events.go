package cgroup

import (
	"bytes"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// events is the file of a group that counts what happened to it. It is read again and again, so it is opened once; and it is no
// os.File, for whose like the kernel would wake this process by poll(2). The zero value is not open.
type events struct {
	mu     sync.Mutex
	open   bool
	closed bool
	fd     int
	kills  int
}

// oomKills reads the file's line "oom_kill". Once the file is closed, or gone, it is what was read last.
func (e *events) oomKills(path string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return e.kills
	}
	if !e.open {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return e.kills
		}
		e.fd, e.open = fd, true
	}
	var b [512]byte // both versions' have less
	// Never waits, so Go's runtime is not told: in an idle process that would wake its monitor thread.
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(e.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return e.kills
	}
	for line := range bytes.Lines(b[:n]) {
		if count, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			e.kills, _ = strconv.Atoi(string(bytes.TrimSpace(count)))
		}
	}
	return e.kills
}

func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open && !e.closed {
		_ = unix.Close(e.fd)
	}
	e.closed = true
}
