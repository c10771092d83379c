package gofer

import (
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// mount is one open mount; it implements lisafs.ConnectionImpl.
type mount struct {
	conf      Mount
	server    *server
	tree      int  // the mount itself; it lasts as long as this is open
	root      int  // its root
	rootStore bool // Stat is Store
	quota     quota
	noTmpfile atomic.Bool // the host's file system has no O_TMPFILE
	node      *lisafs.Node
	seq       atomic.Uint64 // of nodes
	open      atomic.Int64  // controls

	mu     sync.Mutex
	inodes map[inodeKey]*inode
}

type inodeKey struct {
	major, minor uint32
	ino          uint64
}

// inode is a file or directory that the client has, by whatever names.
type inode struct {
	key  inodeKey
	refs int // guarded by mount.mu

	mu   sync.Mutex  // one change of attribute, size or links at a time
	attr format.Attr // of a store, where nobody else changes it
	size uint64      // bytes that are charged
	gone bool        // it has no name; it is charged until the last descriptor is closed
	// home is a directory with an entry for the inode that may not be on the disk yet.
	home *handle
}

// handle is an open file or directory of the host that several have.
type handle struct {
	fd   int
	path bool // opened for its path only
	in   *inode
	refs atomic.Int32
}

func (h *handle) hold() *handle { h.refs.Add(1); return h }

func (m *mount) drop(h *handle) {
	if h == nil || h.refs.Add(-1) > 0 {
		return
	}
	unix.Close(h.fd)
	m.release(h.in)
}

// acquire returns the inode of a file, of which the caller has a descriptor.
func (m *mount) acquire(st *unix.Statx_t) *inode {
	key := keyOf(st)
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.inodes[key]
	if in == nil {
		in = &inode{key: key}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			in.size = st.Size
		}
		m.inodes[key] = in
	}
	in.refs++
	return in
}

// release is the reverse of acquire. The last one gives back what the inode was charged for, if it has no name any more.
func (m *mount) release(in *inode) {
	m.mu.Lock()
	in.refs--
	last := in.refs == 0
	if last {
		delete(m.inodes, in.key)
	}
	m.mu.Unlock()
	if !last {
		return
	}
	in.mu.Lock()
	gone, size, home := in.gone, in.size, in.home
	in.home = nil
	in.mu.Unlock()
	if gone {
		m.quota.give(size)
		m.quota.giveInode()
	}
	m.drop(home)
}

func keyOf(st *unix.Statx_t) inodeKey { return inodeKey{st.Dev_major, st.Dev_minor, st.Ino} }

// openFlags are those of all files that we open.
const openFlags = unix.O_CLOEXEC | unix.O_NOFOLLOW

// openBeneath opens a name in a directory: not what a link of any kind stands for, nor another mount.
func openBeneath(dir int, name string, flags int) (int, error) {
	return openMode(dir, name, flags, 0)
}

// openMode is openBeneath for what is made by it. The gofer's umask is 0.
func openMode(dir int, name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | openFlags), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

func statOf(fd int) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	return st, err
}

func itoa(n int) string { return strconv.Itoa(n) }

// Mount implements lisafs.ConnectionImpl.
func (m *mount) Mount(c *lisafs.Connection, node *lisafs.Node) (*lisafs.ControlFD, lisafs.Statx, int, error) {
	fd, err := unix.Dup(m.root) // the filter knows no other way to copy one
	if err != nil {
		return nil, lisafs.Statx{}, -1, err
	}
	m.node = node
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		unix.Close(fd)
		return nil, lisafs.Statx{}, -1, err
	}
	root, st, err := m.newControl(c, fd, flags&unix.O_PATH != 0, format.Attr{})
	if err != nil {
		return nil, lisafs.Statx{}, -1, err
	}
	return root.FD(), st, -1, nil
}

// SupportedMessages implements lisafs.ConnectionImpl.
func (*mount) SupportedMessages() []lisafs.MID {
	return []lisafs.MID{
		lisafs.Mount, lisafs.Channel, lisafs.FStat, lisafs.SetStat, lisafs.Walk, lisafs.WalkStat, lisafs.OpenAt,
		lisafs.OpenCreateAt, lisafs.Close, lisafs.FSync, lisafs.PWrite, lisafs.PRead, lisafs.MkdirAt, lisafs.MknodAt,
		lisafs.SymlinkAt, lisafs.LinkAt, lisafs.FStatFS, lisafs.FAllocate, lisafs.ReadLinkAt, lisafs.UnlinkAt,
		lisafs.RenameAt, lisafs.RenameAt2, lisafs.Getdents64, lisafs.FGetXattr, lisafs.FSetXattr, lisafs.FListXattr,
		lisafs.FRemoveXattr, lisafs.BindAt, lisafs.Connect,
	}
}

// MaxMessageSize implements lisafs.ConnectionImpl.
func (*mount) MaxMessageSize() uint32 { return lisafs.MaxMessageSize() }

// newControl makes what the client knows a file by, of an open file, which it takes ownership of. In a store known is the
// attribute of one that was made just now; it is zero for others.
//
// Each gets a node of its own below the mount's, under a name that no file can have. gVisor's library keeps a tree of
// nodes by name for servers that open files by path; it takes nodes out under the wrong name after a rename over a hard
// link, and marks an inode as deleted when one of its names is. This server needs no paths.
func (m *mount) newControl(c *lisafs.Connection, fd int, path bool, known format.Attr) (*control, lisafs.Statx, error) {
	st, err := statOf(fd)
	if err != nil {
		unix.Close(fd)
		return nil, lisafs.Statx{}, err
	}
	in := m.acquire(&st)
	h := &handle{fd: fd, path: path, in: in}
	h.refs.Store(1)
	in.mu.Lock()
	if m.rootStore && known.Mode != 0 {
		in.attr = known
	}
	a, err := m.attrOf(h, &st)
	in.mu.Unlock()
	if err != nil {
		m.drop(h)
		return nil, lisafs.Statx{}, err
	}
	control := &control{m: m, h: h}
	node := m.node
	if m.open.Add(1) == 1 { // the root, which is the first
		node.IncRef()
	} else {
		node = &lisafs.Node{}
		name := "/" + strconv.FormatUint(m.seq.Add(1), 36)
		m.node.WithChildrenMu(func() { node.InitLocked(name, m.node) })
	}
	control.ControlFD.Init(c, node, linux.FileMode(a.Mode), control)
	return control, statx(&st, a), nil
}

// look returns what the guest sees of an open file.
func (m *mount) look(h *handle) (format.Attr, error) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if m.rootStore && h.in.attr.Mode != 0 {
		return h.in.attr, nil
	}
	st, err := statOf(h.fd)
	if err != nil {
		return format.Attr{}, err
	}
	return m.attrOf(h, &st)
}

// attrOf returns what the guest sees of a file. Its inode is locked, which in a store saves reading it each time.
func (m *mount) attrOf(h *handle, st *unix.Statx_t) (format.Attr, error) {
	if m.rootStore && h.in.attr.Mode != 0 {
		return h.in.attr, nil
	}
	a := m.hostAttr(st)
	if kind := st.Mode & unix.S_IFMT; m.conf.virtual() && !h.path && (kind == unix.S_IFREG || kind == unix.S_IFDIR) {
		own, have, err := format.Read(h.fd, uint32(st.Mode))
		if err != nil {
			return format.Attr{}, err
		}
		if have {
			a = own
		}
	}
	if m.rootStore {
		h.in.attr = a
	}
	return a, nil
}

// hostAttr returns what the guest sees of a file that has no attribute.
func (m *mount) hostAttr(st *unix.Statx_t) format.Attr {
	a := format.Attr{Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Major: st.Rdev_major, Minor: st.Rdev_minor}
	if m.conf.virtual() {
		a.UID, a.GID = m.conf.UID, m.conf.GID
	}
	return a
}

// statx returns a host file's status as the guest sees it.
func statx(st *unix.Statx_t, a format.Attr) lisafs.Statx {
	s := lisafs.Statx{
		Mask: st.Mask, Mode: uint16(a.Mode), UID: a.UID, GID: a.GID, RdevMajor: a.Major, RdevMinor: a.Minor,
		DevMajor: st.Dev_major, DevMinor: st.Dev_minor, Ino: st.Ino, Nlink: st.Nlink, Size: st.Size, Blksize: st.Blksize, Blocks: st.Blocks,
		Atime: lisafs.StatxTimestamp{Sec: st.Atime.Sec, Nsec: st.Atime.Nsec}, Btime: lisafs.StatxTimestamp{Sec: st.Btime.Sec, Nsec: st.Btime.Nsec},
		Ctime: lisafs.StatxTimestamp{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec}, Mtime: lisafs.StatxTimestamp{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
	}
	return s
}

// close is the end of the connection: nothing is open any more.
func (m *mount) close() {
	if m.rootStore {
		mark := format.CleanMark{Boot: m.server.boot, Bytes: m.quota.used.bytes.Load(), Inodes: m.quota.used.inodes.Load()}
		_ = unix.Fsetxattr(m.root, format.CleanName, mark.Encode(), 0) // without it the next start counts
	}
}
