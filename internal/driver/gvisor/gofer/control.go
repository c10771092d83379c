package gofer

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fsutil"
	"gvisor.dev/gvisor/pkg/lisafs"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// control is a file that the client knows; it implements lisafs.ControlFDImpl.
type control struct {
	lisafs.ControlFD
	m *mount
	h *handle
}

// FD implements lisafs.ControlFDImpl.
func (fd *control) FD() *lisafs.ControlFD {
	if fd == nil {
		return nil
	}
	return &fd.ControlFD
}

// Close implements lisafs.ControlFDImpl.
func (fd *control) Close() {
	fd.m.drop(fd.h)
	if fd.m.open.Add(-1) == 0 {
		fd.m.close()
	}
}

// Stat implements lisafs.ControlFDImpl.
func (fd *control) Stat() (lisafs.Statx, error) { return fd.m.stat(fd.h) }

func (m *mount) stat(h *handle) (lisafs.Statx, error) {
	st, err := statOf(h.fd)
	if err != nil {
		return lisafs.Statx{}, err
	}
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	a, err := m.attrOf(h, &st)
	return statx(&st, a), err
}

// find opens a name in a directory: for reading if it may be, else for its path only.
func (m *mount) find(dir int, name string) (fd int, path bool, err error) {
	if m.rootStore {
		fd, err = openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != unix.ELOOP {
			return fd, false, err
		}
		// Somebody has put a link of the host there. To the guest it is one of its own.
		fd, err = openBeneath(dir, name, unix.O_PATH)
		return fd, true, err
	}
	// A device or a pipe of the host may do something when it is opened, so look first.
	at, err := openBeneath(dir, name, unix.O_PATH)
	if err != nil {
		return -1, false, err
	}
	st, err := statOf(at)
	if err != nil {
		unix.Close(at)
		return -1, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		if fd, err := m.server.reopen(at, unix.O_RDONLY|unix.O_NONBLOCK); err == nil {
			unix.Close(at)
			return fd, false, nil
		}
	case unix.S_IFLNK:
	default:
		if m.conf.virtual() { // a device, socket or pipe of the host is not the guest's business
			unix.Close(at)
			return -1, false, unix.EPERM
		}
	}
	return at, true, nil
}

// Walk implements lisafs.ControlFDImpl.
func (fd *control) Walk(name string) (*lisafs.ControlFD, lisafs.Statx, error) {
	host, path, err := fd.m.find(fd.h.fd, name)
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	child, st, err := fd.m.newControl(fd.Conn(), host, path, format.Attr{})
	if err != nil {
		return nil, lisafs.Statx{}, err
	}
	return child.FD(), st, nil
}

// WalkStat implements lisafs.ControlFDImpl.
func (fd *control) WalkStat(path lisafs.StringArray, record func(lisafs.Statx)) error {
	if len(path) > 0 && path[0] == "" {
		st, err := fd.Stat()
		if err != nil {
			return err
		}
		record(st)
		path = path[1:]
	}
	if !fd.IsDir() {
		return nil
	}
	at := fd.h.hold()
	defer func() { fd.m.drop(at) }()
	for _, name := range path {
		host, pathOnly, err := fd.m.find(at.fd, name)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			return nil
		}
		if err != nil {
			return err
		}
		st, err := statOf(host)
		if err != nil {
			unix.Close(host)
			return err
		}
		next := &handle{fd: host, path: pathOnly, in: fd.m.acquire(&st)}
		next.refs.Store(1)
		fd.m.drop(at)
		at = next
		at.in.mu.Lock()
		a, err := fd.m.attrOf(at, &st)
		at.in.mu.Unlock()
		if err != nil {
			return err
		}
		record(statx(&st, a))
		if a.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
	}
	return nil
}

// SetStat implements lisafs.ControlFDImpl.
func (fd *control) SetStat(req lisafs.SetStatReq) (failed uint32, failure error) {
	in := fd.h.in
	in.mu.Lock()
	defer in.mu.Unlock()
	set := func(mask uint32, f func() error) {
		if req.Mask&mask == 0 {
			return
		}
		if err := f(); err != nil {
			failed |= req.Mask & mask
			failure = err
		}
	}
	set(unix.STATX_SIZE, func() error { return fd.truncateLocked(req.Size) })
	if req.Mask&(unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID) != 0 {
		if fd.m.conf.virtual() {
			set(unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID, func() error { return fd.changeLocked(req) })
		} else {
			set(unix.STATX_UID|unix.STATX_GID, func() error { return chown(fd.h.fd, req) })
			set(unix.STATX_MODE, func() error { return fd.chmod(fd.offMode(req.Mode)) })
		}
	}
	set(unix.STATX_ATIME|unix.STATX_MTIME, func() error {
		times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
		if req.Mask&unix.STATX_ATIME != 0 {
			times[0] = unix.Timespec{Sec: req.Atime.Sec, Nsec: req.Atime.Nsec}
		}
		if req.Mask&unix.STATX_MTIME != 0 {
			times[1] = unix.Timespec{Sec: req.Mtime.Sec, Nsec: req.Mtime.Nsec}
		}
		if fd.h.path {
			return fsutil.Utimensat(fd.m.server.proc, itoa(fd.h.fd), times, 0)
		}
		return fsutil.Utimensat(fd.h.fd, "", times, 0)
	})
	return failed, failure
}

// changeLocked changes the attribute: mode, owner, group.
func (fd *control) changeLocked(req lisafs.SetStatReq) error {
	st, err := statOf(fd.h.fd)
	if err != nil {
		return err
	}
	a, err := fd.m.attrOf(fd.h, &st)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if req.Mask&unix.STATX_MODE != 0 {
			return unix.EOPNOTSUPP
		}
		return nil // a link of the host cannot carry an owner
	}
	if req.Mask&unix.STATX_MODE != 0 {
		a.Mode = a.Mode&unix.S_IFMT | req.Mode&0o7777
	}
	if req.Mask&unix.STATX_UID != 0 {
		a.UID = uint32(req.UID)
	}
	if req.Mask&unix.STATX_GID != 0 {
		a.GID = uint32(req.GID)
	}
	if err := fd.m.store(fd.h, &st, a); err != nil {
		return err
	}
	if fd.m.conf.Mirror && req.Mask&unix.STATX_MODE != 0 && !a.IsDevice() {
		return fd.m.forgive(fd.chmod(fd.m.hostMode(a.Mode)))
	}
	return nil
}

// store writes the attribute of a file, whose inode is locked.
func (m *mount) store(h *handle, st *unix.Statx_t, a format.Attr) error {
	err := error(unix.EPERM)
	if !h.path {
		if st.Mode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG|unix.S_ISVTX && a.Mode&unix.S_IFMT == unix.S_IFREG {
			_ = unix.Fchmod(h.fd, uint32(st.Mode)&0o777) // a sticky file of the host: the bit has a meaning of ours
		}
		err = format.Write(h.fd, a)
	}
	if err = m.forgive(err); err == nil && m.rootStore {
		h.in.attr = a
	}
	return err
}

// forgive lets what could not be stored be forgotten, where that was asked for.
func (m *mount) forgive(err error) error {
	if m.conf.Stat == Relaxed {
		switch err {
		case unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.EROFS, unix.ENOSPC, unix.EDQUOT, unix.E2BIG:
			return nil
		}
	}
	return err
}

// hostMode returns the permissions on the host of a file that has this mode in the guest. The owner, who is us, may
// always read and write.
func (m *mount) hostMode(mode uint32) uint32 {
	host := uint32(0o600)
	if mode&unix.S_IFMT == unix.S_IFDIR {
		host = 0o700
	}
	if m.conf.Mirror && m.conf.Stat != Store {
		host |= mode & 0o777
	}
	return host
}

// offMode returns what of a mode a host file may get from a guest: no bits that run a program as somebody else.
func (fd *control) offMode(mode uint32) uint32 {
	if fd.IsDir() {
		return mode & (0o1777 | unix.S_ISGID)
	}
	return mode & 0o1777
}

func (fd *control) chmod(mode uint32) error {
	if fd.h.path {
		return unix.Fchmodat(fd.m.server.proc, itoa(fd.h.fd), mode, 0)
	}
	return unix.Fchmod(fd.h.fd, mode)
}

func chown(fd int, req lisafs.SetStatReq) error {
	uid, gid := -1, -1
	if req.Mask&unix.STATX_UID != 0 {
		uid = int(req.UID)
	}
	if req.Mask&unix.STATX_GID != 0 {
		gid = int(req.GID)
	}
	return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// truncateLocked sets the size of a file, whose inode is locked.
func (fd *control) truncateLocked(size uint64) error {
	if !fd.IsRegular() {
		return unix.EINVAL
	}
	w, err := fd.m.server.reopen(fd.h.fd, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(w)
	in := fd.h.in
	if err := fd.m.refreshLocked(in, w); err != nil {
		return err
	}
	if size > 1<<62 {
		return unix.EFBIG
	}
	if size > in.size {
		if err := fd.m.quota.takeAll(size - in.size); err != nil {
			return err
		}
	}
	if err := unix.Ftruncate(w, int64(size)); err != nil {
		if size > in.size {
			fd.m.quota.give(size - in.size)
		}
		return err
	}
	if size < in.size {
		fd.m.quota.give(in.size - size)
	}
	in.size = size
	return nil
}

// refreshLocked reads the size of a file that others than we may change.
func (m *mount) refreshLocked(in *inode, fd int) error {
	if m.rootStore || !m.quota.on {
		return nil
	}
	st, err := statOf(fd)
	if err != nil {
		return err
	}
	if st.Size > in.size {
		_ = m.quota.take(st.Size - in.size)
	} else {
		m.quota.give(in.size - st.Size)
	}
	in.size = st.Size
	return nil
}

// StatFS implements lisafs.ControlFDImpl.
func (fd *control) StatFS() (lisafs.StatFS, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd.h.fd, &s); err != nil {
		return lisafs.StatFS{}, err
	}
	out := lisafs.StatFS{Type: uint64(s.Type), BlockSize: s.Bsize, Blocks: s.Blocks, BlocksFree: s.Bfree, BlocksAvailable: s.Bavail,
		Files: s.Files, FilesFree: s.Ffree, NameLength: uint64(s.Namelen)}
	q := &fd.m.quota
	if q.bytes > 0 {
		block := uint64(s.Bsize)
		free := (q.bytes - min(q.used.bytes.Load(), q.bytes)) / block
		out.Blocks = q.bytes / block
		out.BlocksFree = free
		out.BlocksAvailable = min(free, s.Bavail)
	}
	if q.inodes > 0 {
		out.Files = q.inodes
		out.FilesFree = q.inodes - min(q.used.inodes.Load(), q.inodes)
	}
	return out, nil
}

// Connect implements lisafs.ControlFDImpl. Sockets of the host are not the guest's.
func (*control) Connect(uint32) (int, error) { return -1, unix.EPERM }

// ConnectWithCreds implements lisafs.ControlFDImpl.
func (*control) ConnectWithCreds(uint32, lisafs.UID, lisafs.GID) (int, error) { return -1, unix.EPERM }

// Renamed implements lisafs.ControlFDImpl.
func (*control) Renamed() {}
