package gofer

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the mounts hold is counted in a memory file of the gofer, which its parent finds among the gofer's file descriptors
// and reads without asking anybody. Each mount has one slot, in the order of the spec.
const (
	usageFile = "msb-usage"
	maxMounts = 1024
	usageSize = maxMounts * int(unsafe.Sizeof(slot{}))
)

// slot is what one mount holds, and how many bytes the guest has read and written in it. It is shared with another process.
type slot struct{ bytes, inodes, read, written atomic.Uint64 }

// slots is the memory that the counters are in, made by [Register].
var slots *[maxMounts]slot

// makeUsage makes the memory file, once.
func makeUsage() error {
	fd, err := unix.MemfdCreate(usageFile, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a file for what the mounts hold: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(usageSize)); err != nil {
		return fmt.Errorf("make a file for what the mounts hold: %w", err)
	}
	b, err := unix.Mmap(fd, 0, usageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map what the mounts hold: %w", err)
	}
	slots = (*[maxMounts]slot)(unsafe.Pointer(&b[0])) // fd stays open: it is how others find the memory
	return nil
}

// Usage reads what the mounts of a running gofer hold.
type Usage struct{ mem []byte }

// OpenUsage finds the counters of the gofer with this process id.
func OpenUsage(pid int) (*Usage, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for what the mounts hold: %w", err)
	}
	for _, n := range names {
		path := dir + "/" + n.Name()
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, "/memfd:"+usageFile) {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open what the mounts hold: %w", err)
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || st.Size() != int64(usageSize) {
			return nil, fmt.Errorf("what the mounts hold is not readable: %w", err)
		}
		mem, err := unix.Mmap(int(f.Fd()), 0, usageSize, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map what the mounts hold: %w", err)
		}
		return &Usage{mem}, nil
	}
	return nil, fmt.Errorf("process %d counts no mounts", pid)
}

// Of returns the bytes and files in the mount that has this place in the list given to Annotate.
func (u *Usage) Of(mount int) (bytes, inodes uint64) {
	s := &(*[maxMounts]slot)(unsafe.Pointer(&u.mem[0]))[mount]
	return s.bytes.Load(), s.inodes.Load()
}

// Moved returns how many bytes were read from the mount and written to it.
func (u *Usage) Moved(mount int) (read, written uint64) {
	s := &(*[maxMounts]slot)(unsafe.Pointer(&u.mem[0]))[mount]
	return s.read.Load(), s.written.Load()
}

// Close gives the memory back.
func (u *Usage) Close() error { return unix.Munmap(u.mem) }
