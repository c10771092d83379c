package gofer

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fsutil"
	"gvisor.dev/gvisor/pkg/lisafs"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// newAttr is the attribute of a file that is about to be in this directory.
func (fd *control) newAttr(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID) (format.Attr, error) {
	a := format.Attr{Mode: uint32(mode), UID: fd.m.conf.UID, GID: fd.m.conf.GID}
	if uid.Ok() {
		a.UID = uint32(uid)
	}
	if gid.Ok() {
		a.GID = uint32(gid)
	}
	parent, err := fd.m.look(fd.h)
	if err != nil {
		return a, err
	}
	if parent.Mode&unix.S_ISGID != 0 { // all that comes into a set-group-id directory has its group (inode(7))
		a.GID = parent.GID
		if a.Mode&unix.S_IFMT == unix.S_IFDIR {
			a.Mode |= unix.S_ISGID
		}
	}
	return a, nil
}

// add makes a file that is no directory, with its attribute and content, and then gives it its name, so that nobody sees
// it half made. It returns the file open for reading and writing.
func (fd *control) add(name string, a format.Attr, content string) (host int, err error) {
	m := fd.m
	if m.rootStore && a.IsWhiteout() { // gVisor's overlay takes the sandbox down if it cannot make one; RenameAt2 stops in time
		m.quota.forceInode()
	} else {
		if err := m.quota.takeAll(uint64(len(content))); err != nil {
			return -1, err
		}
		if err := m.quota.takeInode(); err != nil {
			m.quota.give(uint64(len(content)))
			return -1, err
		}
	}
	defer func() {
		if err != nil {
			m.quota.give(uint64(len(content)))
			m.quota.giveInode()
		}
	}()
	perm := m.hostMode(a.Mode)
	if a.Mode&unix.S_IFMT != unix.S_IFREG {
		perm |= unix.S_ISVTX
	}
	if !m.conf.virtual() {
		perm = a.Mode & 0o777
	}
	if !m.noTmpfile.Load() {
		host, err = openMode(fd.h.fd, ".", unix.O_TMPFILE|unix.O_RDWR, perm)
		switch err {
		case nil:
			defer func() {
				if err != nil {
					unix.Close(host)
				}
			}()
			if err = m.fill(host, a, content); err != nil {
				return -1, err
			}
			return host, unix.Linkat(m.server.proc, itoa(host), fd.h.fd, name, unix.AT_SYMLINK_FOLLOW)
		case unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL:
			m.noTmpfile.Store(true)
		default:
			return -1, err
		}
	}
	if host, err = openMode(fd.h.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, perm); err != nil {
		return -1, err
	}
	if err = m.fill(host, a, content); err != nil {
		unix.Close(host)
		_ = unix.Unlinkat(fd.h.fd, name, 0)
		return -1, err
	}
	return host, nil
}

// fill gives a new file its attribute and then its content: count knows what is unfinished by it.
func (m *mount) fill(host int, a format.Attr, content string) error {
	if m.conf.virtual() {
		if err := m.forgive(format.Write(host, a)); err != nil {
			return err
		}
	} else if err := ownedBy(host, a); err != nil {
		return err
	}
	for b := []byte(content); len(b) > 0; {
		n, err := unix.Pwrite(host, b, int64(len(content)-len(b)))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// ownedBy gives a host file its owner, if it is not the one already.
func ownedBy(fd int, a format.Attr) error {
	st, err := statOf(fd)
	if err != nil || st.Uid == a.UID && st.Gid == a.GID {
		return err
	}
	return unix.Fchownat(fd, "", int(a.UID), int(a.GID), unix.AT_EMPTY_PATH)
}

// made makes the control of a new file, whose entry in this directory is not on the disk yet.
func (fd *control) made(host int, path bool, a format.Attr) (*control, lisafs.Statx, error) {
	child, st, err := fd.m.newControl(fd.Conn(), host, path, a)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	fd.m.entered(child.h.in, fd.h)
	return child, st, nil
}

// entered notes that a directory has a new entry for an inode.
func (m *mount) entered(in *inode, dir *handle) {
	if in == dir.in {
		return
	}
	in.mu.Lock()
	old := in.home
	in.home = dir.hold()
	in.mu.Unlock()
	m.drop(old)
}

// OpenCreate implements lisafs.ControlFDImpl.
func (fd *control) OpenCreate(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string, flags uint32) (*lisafs.ControlFD, lisafs.Statx, *lisafs.OpenFD, int, error) {
	fail := func(err error) (*lisafs.ControlFD, lisafs.Statx, *lisafs.OpenFD, int, error) {
		return nil, lisafs.Statx{}, nil, -1, err
	}
	a, err := fd.newAttr(unix.S_IFREG|mode&0o7777, uid, gid)
	if err != nil {
		return fail(err)
	}
	host, err := fd.add(name, a, "")
	if err != nil {
		return fail(err)
	}
	again, err := fd.m.server.reopen(host, int(flags&unix.O_ACCMODE))
	if err != nil {
		unix.Close(host)
		return fail(err)
	}
	child, st, err := fd.made(host, false, a)
	if err != nil {
		unix.Close(again)
		return fail(err)
	}
	return child.FD(), st, child.newOpen(again, flags).FD(), fd.m.donate(again), nil
}

// Mkdir implements lisafs.ControlFDImpl. A directory cannot be given its name later; count removes one that has no
// attribute.
func (fd *control) Mkdir(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	m := fd.m
	a, err := fd.newAttr(unix.S_IFDIR|mode&0o7777, uid, gid)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	if err := m.quota.takeInode(); err != nil {
		return nil, lisafs.Statx{}, err
	}
	perm := m.hostMode(a.Mode)
	if !m.conf.virtual() {
		perm = a.Mode & 0o777
	}
	if err := unix.Mkdirat(fd.h.fd, name, perm); err != nil {
		m.quota.giveInode()
		return nil, lisafs.Statx{}, err
	}
	host, err := openBeneath(fd.h.fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		if m.conf.virtual() {
			err = m.forgive(format.Write(host, a))
		} else {
			err = ownedBy(host, a)
		}
		if err != nil {
			unix.Close(host)
		}
	}
	if err != nil {
		_ = unix.Unlinkat(fd.h.fd, name, unix.AT_REMOVEDIR)
		m.quota.giveInode()
		return nil, lisafs.Statx{}, err
	}
	child, st, err := fd.made(host, false, a)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	return child.FD(), st, nil
}

// Mknod implements lisafs.ControlFDImpl. The client keeps pipes and sockets in memory when they are refused here.
func (fd *control) Mknod(mode linux.FileMode, uid lisafs.UID, gid lisafs.GID, name string, minor, major uint32) (*lisafs.ControlFD, lisafs.Statx, error) {
	a, err := fd.newAttr(mode.FileType()|mode&0o7777, uid, gid)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	switch uint32(mode.FileType()) {
	case unix.S_IFREG:
	case unix.S_IFCHR, unix.S_IFBLK:
		if !fd.m.conf.virtual() {
			return nil, lisafs.Statx{}, unix.EPERM
		}
		a.Major, a.Minor = major, minor
	default:
		return nil, lisafs.Statx{}, unix.EPERM
	}
	host, err := fd.add(name, a, "")
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	child, st, err := fd.made(host, false, a)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	return child.FD(), st, nil
}

// Symlink implements lisafs.ControlFDImpl.
func (fd *control) Symlink(name, target string, uid lisafs.UID, gid lisafs.GID) (*lisafs.ControlFD, lisafs.Statx, error) {
	m := fd.m
	a, err := fd.newAttr(unix.S_IFLNK|0o777, uid, gid)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	if len(target) == 0 || len(target) >= linux.PATH_MAX {
		return nil, lisafs.Statx{}, unix.ENAMETOOLONG
	}
	var host int
	if m.rootStore {
		host, err = fd.add(name, a, target)
	} else {
		if err := m.quota.takeInode(); err != nil {
			return nil, lisafs.Statx{}, err
		}
		if err = unix.Symlinkat(target, fd.h.fd, name); err == nil {
			host, err = openBeneath(fd.h.fd, name, unix.O_PATH)
		}
		if err != nil {
			m.quota.giveInode()
		}
	}
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	child, st, err := fd.made(host, !m.rootStore, a)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	return child.FD(), st, nil
}

// Link implements lisafs.ControlFDImpl.
func (fd *control) Link(dir lisafs.ControlFDImpl, name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	to := dir.(*control)
	if to.m != fd.m {
		return nil, lisafs.Statx{}, unix.EXDEV
	}
	fd.h.in.mu.Lock()
	err := unix.Linkat(fd.m.server.proc, itoa(fd.h.fd), to.h.fd, name, unix.AT_SYMLINK_FOLLOW)
	if err == nil {
		fd.h.in.gone = false
	}
	fd.h.in.mu.Unlock()
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	host, path, err := fd.m.find(to.h.fd, name)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	child, st, err := to.made(host, path, format.Attr{})
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	return child.FD(), st, nil
}

// victim is a name that is about to go, by removal or by another's taking its place.
type victim struct {
	in   *inode
	last bool // it is the inode's last name, or a directory
}

// lookAt finds out what a name stands for before it goes, and locks its inode. It returns nil if nothing needs counting.
func (m *mount) lookAt(dir int, name string) (*victim, error) {
	if !m.quota.on {
		return nil, nil
	}
	fd, path, err := m.find(dir, name)
	if err == unix.EPERM { // a device of the host, which goes without our knowing it
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	st, err := statOf(fd)
	if err != nil {
		return nil, err
	}
	in := m.acquire(&st)
	in.mu.Lock()
	if st, err = statOf(fd); err == nil { // again, now that nobody else takes a name away
		var a format.Attr
		if a, err = m.attrOf(&handle{fd: fd, path: path, in: in}, &st); err == nil {
			return &victim{in: in, last: st.Nlink <= 1 || a.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
		}
	}
	in.mu.Unlock()
	m.release(in)
	return nil, err
}

// went ends what lookAt began.
func (m *mount) went(v *victim, gone bool) {
	if v == nil {
		return
	}
	if gone && v.last {
		v.in.gone = true
	}
	v.in.mu.Unlock()
	m.release(v.in)
}

// Unlink implements lisafs.ControlFDImpl.
func (fd *control) Unlink(name string, flags uint32) error {
	v, err := fd.m.lookAt(fd.h.fd, name)
	if err != nil {
		return err
	}
	err = unix.Unlinkat(fd.h.fd, name, int(flags)&unix.AT_REMOVEDIR)
	fd.m.went(v, err == nil)
	return err
}

// RenameAt implements lisafs.ControlFDImpl.
func (fd *control) RenameAt(name string, dir lisafs.ControlFDImpl, to string) error {
	return fd.RenameAt2(name, dir, to, 0)
}

// RenameAt2 implements lisafs.ControlFDImpl. Nothing else runs meanwhile.
func (fd *control) RenameAt2(name string, dir lisafs.ControlFDImpl, to string, flags uint32) error {
	m, at := fd.m, dir.(*control)
	if at.m != m {
		return unix.EXDEV
	}
	if flags&^uint32(linux.RENAME_NOREPLACE|linux.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	from, err := openBeneath(fd.h.fd, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	st, err := statOf(from)
	if err != nil {
		return err
	}
	var v *victim
	if flags == 0 {
		v, err = m.lookAt(at.h.fd, to)
		switch err {
		case nil, unix.ENOENT:
		default:
			return err
		}
		if m.rootStore && (v == nil || !v.last) && !m.quota.hasInode() { // the overlay puts a whiteout at the old name
			m.went(v, false)
			return unix.ENOSPC
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && m.sameAt(at.h.fd, to, &st) {
			// Two names of one inode. By rename(2) both stay, and so they would on the host; but gVisor's overlay takes the
			// old one for gone, and the sandbox ends in a panic when it is not. So it goes.
			m.went(v, false)
			return unix.Unlinkat(fd.h.fd, name, 0)
		}
	}
	err = fsutil.RenameAt2(fd.h.fd, name, at.h.fd, to, flags)
	m.went(v, err == nil)
	if err != nil {
		return err
	}
	m.mu.Lock()
	in := m.inodes[keyOf(&st)]
	if in != nil {
		in.refs++
	}
	m.mu.Unlock()
	if in != nil {
		m.entered(in, at.h)
		m.release(in)
	}
	return nil
}

// sameAt reports whether a name stands for this file.
func (m *mount) sameAt(dir int, name string, file *unix.Statx_t) bool {
	fd, err := openBeneath(dir, name, unix.O_PATH)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	st, err := statOf(fd)
	return err == nil && keyOf(&st) == keyOf(file)
}

// BindAt implements lisafs.ControlFDImpl. The client keeps sockets in memory when they are refused here.
func (*control) BindAt(string, uint32, linux.FileMode, lisafs.UID, lisafs.GID) (*lisafs.ControlFD, lisafs.Statx, *lisafs.BoundSocketFD, int, error) {
	return nil, lisafs.Statx{}, nil, -1, unix.EPERM
}
