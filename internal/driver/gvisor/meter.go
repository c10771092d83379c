package gvisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// openMemory finds the file that holds the guest's memory among the sentry's descriptors and opens it, so that its size
// on the host can be read at any time by one fstat. It returns nil if it is not found.
func openMemory(sentry int) *os.File {
	dir := fmt.Sprintf("/proc/%d/fd", sentry)
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, n := range names {
		target, err := os.Readlink(dir + "/" + n)
		if err != nil || !strings.HasPrefix(target, "/memfd:runsc-memory") {
			continue
		}
		f, err := os.OpenFile(dir+"/"+n, os.O_RDONLY, 0)
		if err != nil {
			return nil
		}
		return f
	}
	return nil
}

// Memory is the guest's memory file plus the private memory of the sentry and the gofer.
func (i *instance) Memory() (uint64, error) {
	var total uint64
	if i.memfile != nil {
		n, err := allocated(i.memfile)
		if err != nil {
			return 0, fmt.Errorf("read the size of the guest's memory: %w", err)
		}
		total += n
	}
	n, err := i.privateMemory()
	return total + n, err
}

// privateMemory is the resident memory of the sentry and the gofer that is neither a file's nor shared.
func (i *instance) privateMemory() (uint64, error) {
	n, err := i.statm.private(i.sentry)
	if err == nil && i.gofer != 0 {
		var more uint64
		more, err = i.goferStatm.private(i.gofer)
		n += more
	}
	return n, err
}

// procFile is a file of a process in /proc that is read again and again, and opened once. The zero value is not open.
type procFile struct {
	mu     sync.Mutex
	f      *os.File
	fd     uintptr // f's
	closed bool
	buf    [512]byte
}

// readLocked returns the content of a short file. It is valid while mu is held.
func (p *procFile) readLocked(pid int, name string) ([]byte, error) {
	if p.closed {
		return nil, os.ErrClosed
	}
	if p.f == nil {
		f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/" + name)
		if err != nil {
			return nil, err
		}
		p.f, p.fd = f, f.Fd()
	}
	n, err := look(p.fd, p.buf[:]) // one call: os.File would look for the end
	return p.buf[:n], err
}

func (p *procFile) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.f == nil {
		return nil
	}
	return p.f.Close()
}

// private is a process's resident memory that is neither a file's nor shared, from /proc/PID/statm.
func (p *procFile) private(pid int) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.readLocked(pid, "statm")
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0, fmt.Errorf("read the memory of process %d: short statm", pid)
	}
	res, err1 := strconv.ParseUint(string(f[1]), 10, 64)
	shr, err2 := strconv.ParseUint(string(f[2]), 10, 64)
	if err1 != nil || err2 != nil || shr > res {
		return 0, fmt.Errorf("read the memory of process %d: bad statm", pid)
	}
	return (res - shr) * uint64(os.Getpagesize()), nil
}

// Disks reads the gofer's counters.
func (i *instance) Disks() []driver.DiskUsage {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.usage == nil || i.waited {
		return nil
	}
	var all []driver.DiskUsage
	for n, m := range i.served {
		bytes, inodes := i.usage.Of(n)
		read, written := i.usage.Moved(n)
		all = append(all, driver.DiskUsage{Target: m.Target, Bytes: bytes, Inodes: inodes, LimitBytes: m.Bytes, LimitInodes: m.Inodes, Read: read, Written: written})
	}
	return all
}
