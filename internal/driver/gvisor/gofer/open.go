package gofer

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fsutil"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
)

// opened is a file that the client reads or writes; it implements lisafs.OpenFDImpl.
type opened struct {
	lisafs.OpenFD
	m  *mount
	h  *handle // the control's
	fd int
}

func (fd *control) newOpen(host int, flags uint32) *opened {
	o := &opened{m: fd.m, h: fd.h.hold(), fd: host}
	o.OpenFD.Init(fd.FD(), flags, o)
	return o
}

// donate returns a copy of a descriptor for the client, or -1. The client writes past us with one, so there is none where
// what there is is counted.
func (m *mount) donate(host int) int {
	if !m.conf.Shared || m.conf.counted() {
		return -1
	}
	fd, err := unix.Dup(host)
	if err != nil {
		return -1
	}
	return fd
}

// Open implements lisafs.ControlFDImpl.
func (fd *control) Open(flags uint32) (*lisafs.OpenFD, int, error) {
	var host int
	var err error
	switch {
	case fd.IsDir():
		host, err = openBeneath(fd.h.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	case fd.IsRegular():
		if host, err = fd.m.server.reopen(fd.h.fd, int(flags&unix.O_ACCMODE)|unix.O_NONBLOCK); err == nil && flags&unix.O_TRUNC != 0 {
			fd.h.in.mu.Lock()
			err = fd.truncateLocked(0)
			fd.h.in.mu.Unlock()
			if err != nil {
				unix.Close(host)
			}
		}
	default:
		err = unix.EPERM // what it is to the guest is not what it is here
	}
	if err != nil {
		return nil, -1, err
	}
	donated := -1
	if fd.IsRegular() {
		donated = fd.m.donate(host)
	}
	return fd.newOpen(host, flags).FD(), donated, nil
}

// FD implements lisafs.OpenFDImpl.
func (o *opened) FD() *lisafs.OpenFD {
	if o == nil {
		return nil
	}
	return &o.OpenFD
}

// Close implements lisafs.OpenFDImpl.
func (o *opened) Close() {
	unix.Close(o.fd)
	o.m.drop(o.h)
}

// Stat implements lisafs.OpenFDImpl.
func (o *opened) Stat() (lisafs.Statx, error) { return o.m.stat(o.h) }

// Sync implements lisafs.OpenFDImpl: the file, and the directories that it is new in, up to one that is on the disk.
func (o *opened) Sync() error {
	if err := unix.Fsync(o.fd); err != nil {
		return err
	}
	for in := o.h.in; ; {
		in.mu.Lock()
		home := in.home
		in.home = nil
		in.mu.Unlock()
		if home == nil {
			return nil
		}
		err := unix.Fsync(home.fd)
		in = home.in
		o.m.drop(home)
		if err != nil {
			return err
		}
	}
}

// Write implements lisafs.OpenFDImpl. It writes as much as there is room for.
func (o *opened) Write(b []byte, off uint64) (uint64, error) {
	if off > 1<<62 {
		return 0, unix.EFBIG
	}
	in := o.h.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := o.m.refreshLocked(in, o.fd); err != nil {
		return 0, err
	}
	var taken uint64
	if end := off + uint64(len(b)); end > in.size {
		want := end - in.size
		if taken = o.m.quota.take(want); taken < want {
			room := in.size + taken
			if off >= room {
				o.m.quota.give(taken)
				return 0, unix.ENOSPC
			}
			b = b[:room-off]
		}
	}
	n, err := writeAll(o.fd, b, int64(off))
	grown := uint64(0)
	if end := off + n; n > 0 && end > in.size {
		grown = end - in.size
		in.size = end
	}
	o.m.quota.give(taken - grown)
	o.m.quota.used.written.Add(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func writeAll(fd int, b []byte, off int64) (n uint64, err error) {
	for len(b) > 0 {
		w, err := unix.Pwrite(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil || w == 0 {
			return n, err
		}
		n += uint64(w)
		b, off = b[w:], off+int64(w)
	}
	return n, nil
}

// Read implements lisafs.OpenFDImpl.
func (o *opened) Read(b []byte, off uint64) (uint64, error) {
	if off > 1<<62 {
		return 0, unix.EINVAL
	}
	var n uint64
	for len(b) > 0 {
		r, err := unix.Pread(o.fd, b, int64(off))
		if err == unix.EINTR {
			continue
		}
		if err != nil && n == 0 {
			return 0, err
		}
		if err != nil || r == 0 {
			break
		}
		n += uint64(r)
		b, off = b[r:], off+uint64(r)
	}
	o.m.quota.used.read.Add(n)
	return n, nil
}

// Allocate implements lisafs.OpenFDImpl: mode 0 only, as gVisor's filter has it.
func (o *opened) Allocate(mode, off, length uint64) error {
	if mode != 0 {
		return unix.EOPNOTSUPP
	}
	if off > 1<<62 || length > 1<<62 {
		return unix.EFBIG
	}
	in := o.h.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := o.m.refreshLocked(in, o.fd); err != nil {
		return err
	}
	end := off + length
	if end > in.size {
		if err := o.m.quota.takeAll(end - in.size); err != nil {
			return err
		}
	}
	if err := unix.Fallocate(o.fd, 0, int64(off), int64(length)); err != nil {
		if end > in.size {
			o.m.quota.give(end - in.size)
		}
		return err
	}
	in.size = max(in.size, end)
	return nil
}

// Flush implements lisafs.OpenFDImpl.
func (*opened) Flush() error { return nil }

// Renamed implements lisafs.OpenFDImpl.
func (*opened) Renamed() {}

// maxDirents is the most bytes of entries that one answer has, on the host; with the protocol's additions they fit in one.
const maxDirents = 64 << 10

// Getdent64 implements lisafs.OpenFDImpl.
func (o *opened) Getdent64(count uint32, seek0 bool, record func(lisafs.Dirent64)) error {
	if seek0 {
		if _, err := unix.Seek(o.fd, 0, unix.SEEK_SET); err != nil {
			return err
		}
	}
	st, err := statOf(o.fd)
	if err != nil {
		return err
	}
	var buf [8 << 10]byte
	for read := 0; read < int(min(count, maxDirents)); {
		n, err := unix.Getdents(o.fd, buf[:min(len(buf), int(count)-read)])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EINVAL && read > 0 {
			return nil // no room for the next one
		}
		if err != nil || n <= 0 {
			return err
		}
		read += n
		fsutil.ParseDirents(buf[:n], func(ino uint64, off int64, kind uint8, name string, _ uint16) {
			record(lisafs.Dirent64{Ino: primitive.Uint64(ino), Off: primitive.Uint64(off), Type: primitive.Uint8(o.m.kindOf(o.fd, name, kind)),
				DevMajor: primitive.Uint32(st.Dev_major), DevMinor: primitive.Uint32(st.Dev_minor), Name: lisafs.SizedString(name)})
		})
	}
	return nil
}

// kindOf returns the type of an entry as the guest sees it. The sticky bit says which regular files are something else.
func (m *mount) kindOf(dir int, name string, kind uint8) uint8 {
	if kind != unix.DT_REG && kind != unix.DT_UNKNOWN || !m.conf.virtual() {
		return kind
	}
	st, err := fsutil.StatAt(dir, name)
	if err != nil {
		return kind
	}
	mode := uint32(st.Mode)
	if mode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG|unix.S_ISVTX {
		if a, have, err := attrOfName(dir, name, mode); err == nil && have {
			mode = a.Mode
		}
	}
	return uint8(mode & unix.S_IFMT >> 12)
}

// Readlink implements lisafs.ControlFDImpl.
func (fd *control) Readlink(buffer func(uint32) []byte) (uint16, error) {
	const most = 4096 // PATH_MAX
	b := buffer(most)
	var n int
	var err error
	if fd.h.path {
		n, err = unix.Readlinkat(fd.h.fd, "", b)
	} else {
		n, err = unix.Pread(fd.h.fd, b, 0)
	}
	return uint16(max(n, 0)), err
}
