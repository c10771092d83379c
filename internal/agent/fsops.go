package agent

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

var errListTooLong = errors.New("readdir: too many entries for one answer; open the directory and read it in parts")

// Bounds of directory listings.
const (
	maxListed  = 1 << 16 // entries of one answer
	maxPerRead = 512     // entries of one ReadDir: they fit into a frame, however long their paths
	listBatch  = 256
)

// fileMode turns the bits of st_mode below the type into Go's.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	if mode&syscall.S_ISUID != 0 {
		m |= os.ModeSetuid
	}
	if mode&syscall.S_ISGID != 0 {
		m |= os.ModeSetgid
	}
	if mode&syscall.S_ISVTX != 0 {
		m |= os.ModeSticky
	}
	return m
}

func fileInfo(path string, st *syscall.Stat_t) agentproto.FileInfo {
	kind := agentproto.KindOther
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		kind = agentproto.KindFile
	case syscall.S_IFDIR:
		kind = agentproto.KindDir
	case syscall.S_IFLNK:
		kind = agentproto.KindSymlink
	}
	atime, mtime := int64(st.Atim.Sec), int64(st.Mtim.Sec)
	return agentproto.FileInfo{Path: path, Kind: kind, Size: uint64(st.Size), Mode: st.Mode, Modified: &mtime,
		UID: st.Uid, GID: st.Gid, ATime: &atime, MTime: &mtime}
}

func statPath(path string, follow bool) (agentproto.FileInfo, error) {
	var st syscall.Stat_t
	stat := syscall.Lstat
	if follow {
		stat = syscall.Stat
	}
	if err := stat(path, &st); err != nil {
		return agentproto.FileInfo{}, err
	}
	return fileInfo(path, &st), nil
}

func statFile(h *handle) (agentproto.FileInfo, error) {
	info, err := h.file.Stat()
	if err != nil {
		return agentproto.FileInfo{}, err
	}
	return fileInfo(h.path, info.Sys().(*syscall.Stat_t)), nil
}

// setStat changes what attrs name. A symbolic link that is not followed has owner and times, but no mode and no size.
func setStat(path string, follow bool, attrs *agentproto.FileAttrs) error {
	if follow {
		resolved, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		path = resolved
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return err
	}
	if attrs.Size != nil {
		if st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return syscall.ELOOP
		}
		if err := os.Truncate(path, int64(*attrs.Size)); err != nil {
			return err
		}
	}
	if attrs.UID != nil || attrs.GID != nil {
		if err := os.Lchown(path, id(attrs.UID), id(attrs.GID)); err != nil {
			return err
		}
	}
	if attrs.Mode != nil {
		if st.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return syscall.EOPNOTSUPP
		}
		if err := os.Chmod(path, fileMode(*attrs.Mode)); err != nil {
			return err
		}
	}
	if attrs.ATime == nil && attrs.MTime == nil {
		return nil
	}
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	return utimens(atFDCWD, p, attrs)
}

func setStatFile(f *os.File, attrs *agentproto.FileAttrs) error {
	if attrs.Size != nil {
		if err := f.Truncate(int64(*attrs.Size)); err != nil {
			return err
		}
	}
	if attrs.UID != nil || attrs.GID != nil {
		if err := f.Chown(id(attrs.UID), id(attrs.GID)); err != nil {
			return err
		}
	}
	if attrs.Mode != nil {
		if err := f.Chmod(fileMode(*attrs.Mode)); err != nil {
			return err
		}
	}
	if attrs.ATime == nil && attrs.MTime == nil {
		return nil
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(conn.Control(func(fd uintptr) { err = utimens(int(fd), nil, attrs) }), err)
}

// id is the argument of chown for a number that may be absent.
func id(n *uint32) int {
	if n == nil {
		return -1
	}
	return int(*n)
}

const (
	atFDCWD          = -100
	atSymlinkNoFollw = 0x100
	utimeOmit        = 1<<30 - 2
)

// utimens sets times; without a path, those of the file descriptor itself.
func utimens(dir int, path *byte, attrs *agentproto.FileAttrs) error {
	ts := [2]syscall.Timespec{{Nsec: utimeOmit}, {Nsec: utimeOmit}}
	for i, t := range []*int64{attrs.ATime, attrs.MTime} {
		if t != nil {
			ts[i] = syscall.Timespec{Sec: *t}
		}
	}
	flags := uintptr(0)
	if path != nil {
		flags = atSymlinkNoFollw
	}
	_, _, e := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&ts)), flags, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// realPath resolves every link on the way. The last component need not exist.
func realPath(path string) (string, error) {
	path = filepath.Join("/", path)
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return resolved, err
	}
	if _, e := os.Lstat(path); e == nil { // a link to nowhere
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// mkdir makes a directory and those above it. One that exists is fine, and keeps its mode.
func mkdir(path string, mode *uint32) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if mode == nil {
		return nil
	}
	return os.Chmod(path, fileMode(*mode))
}

func removeDir(path string, recursive bool) error {
	if !recursive {
		return syscall.Rmdir(path)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return syscall.ENOTDIR
	}
	return os.RemoveAll(path)
}

// copyFile copies a regular file's content and mode.
func copyFile(src, dst string) error {
	from, err := os.OpenFile(src, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return syscall.EINVAL
	}
	if there, err := os.Stat(dst); err == nil && os.SameFile(info, there) {
		return errors.New("copy: the two are the same file")
	}
	to, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Chmod(info.Mode()&^os.ModeType), to.Close())
}

// listDir is all of a directory, in the order of the file system.
func listDir(path string) ([]agentproto.FileInfo, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	list := []agentproto.FileInfo{}
	for {
		part, err := entries(dir, path, listBatch)
		list = append(list, part...)
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if len(list) > maxListed {
			return nil, errListTooLong
		}
	}
}

// readDir is the next part of an open directory; at its end it is empty.
func readDir(h *handle, limit uint32) ([]agentproto.FileInfo, error) {
	list, err := entries(h.file, h.path, int(min(limit, maxPerRead)))
	if err == io.EOF {
		err = nil
	}
	return list, err
}

func entries(dir *os.File, path string, limit int) ([]agentproto.FileInfo, error) {
	names, err := dir.Readdirnames(limit)
	list := make([]agentproto.FileInfo, 0, len(names))
	for _, name := range names {
		full := filepath.Join(path, name)
		info, err := statPath(full, false)
		if err != nil { // it went away meanwhile
			continue
		}
		list = append(list, info)
	}
	return list, err
}
