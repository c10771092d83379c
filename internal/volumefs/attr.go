package volumefs

import (
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// newAttr is what a file that comes into a directory has.
func newAttr(dir int, mode uint32) (format.Attr, error) {
	a := format.Attr{Mode: mode}
	_, parent, err := look(dir)
	if err != nil {
		return a, err
	}
	if parent.Mode&unix.S_ISGID != 0 { // inode(7)
		a.GID = parent.GID
		if mode&unix.S_IFMT == unix.S_IFDIR {
			a.Mode |= unix.S_ISGID
		}
	}
	return a, nil
}

func makeDir(parent int, name string) error {
	a, err := newAttr(parent, unix.S_IFDIR|0o755)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return err
	}
	fd, err := open(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setAttr(fd, a)
}

// setAttr writes an attribute; a file system without them has the host's.
func setAttr(fd int, a format.Attr) error {
	if err := format.Write(fd, a); err != unix.EOPNOTSUPP {
		return err
	}
	return nil
}

// look returns the host's and the guest's view of an open file.
func look(fd int) (st unix.Statx_t, a format.Attr, err error) {
	if err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return st, a, err
	}
	a = format.Attr{Mode: uint32(st.Mode)}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		own, have, err := format.Read(fd, uint32(st.Mode))
		if err != nil {
			return st, a, err
		}
		if have {
			a = own
		}
	}
	return st, a, nil
}

func stamp(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// info is what a guest sees of a name in a directory.
func info(dir int, name, p string) (Info, error) {
	fd, err := open(dir, name, unix.O_RDONLY, 0)
	if err == unix.ENXIO || err == unix.ELOOP || err == unix.EACCES { // a socket, a link of the host: shown as it is, without an attribute
		fd, err = open(dir, name, unix.O_PATH, 0)
	}
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(fd)
	return infoOf(fd, p)
}

func infoOf(fd int, p string) (Info, error) {
	st, a, err := look(fd)
	if err != nil {
		return Info{}, err
	}
	i := Info{Path: path.Clean("/" + p), Size: int64(min(st.Size, 1<<62)), Mode: a.Mode, UID: a.UID, GID: a.GID, Accessed: stamp(st.Atime), Modified: stamp(st.Mtime)}
	if st.Mask&unix.STATX_BTIME != 0 {
		i.Created = stamp(st.Btime)
	}
	return i, nil
}
