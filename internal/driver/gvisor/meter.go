package gvisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

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
		var st unix.Stat_t
		if err := unix.Fstat(int(i.memfile.Fd()), &st); err != nil {
			return 0, fmt.Errorf("read the size of the guest's memory: %w", err)
		}
		total += uint64(st.Blocks) * 512
	}
	for _, pid := range []int{i.sentry, i.gofer} {
		if pid == 0 {
			continue
		}
		n, err := privateMemory(pid)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// privateMemory is a process's resident memory that is neither a file's nor shared, from /proc/PID/statm.
func privateMemory(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	f := strings.Fields(string(b))
	if len(f) < 3 {
		return 0, fmt.Errorf("read the memory of process %d: short statm", pid)
	}
	res, err1 := strconv.ParseUint(f[1], 10, 64)
	shr, err2 := strconv.ParseUint(f[2], 10, 64)
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
