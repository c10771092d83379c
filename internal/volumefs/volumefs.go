// Package volumefs reads and writes the files of a volume from outside of sandboxes, as a guest sees and makes them: with owners, modes and
// symbolic links in the format of package format (ADR 9).
//
// What is in a volume is hostile. Each name of a path is opened by itself beneath an open directory, without links of any kind; a link
// of a guest's is shown and never followed, because it is the guest's root that it leads through.
package volumefs

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// FS is the files below a directory. The zero Limit is none.
type FS struct {
	Dir   string
	Limit int64 // bytes of all files together
	Used  int64 // of them, before what is written
}

// Info says what a guest sees of a file.
type Info struct {
	Path                        string // from the volume's root, with a slash before
	Size                        int64  // bytes
	Mode                        uint32 // with the type, as in stat(2)
	UID, GID                    uint32
	Accessed, Modified, Created time.Time // Created is zero where the file system does not know
}

// Kind is file, directory, symlink or other.
func (i Info) Kind() string {
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	}
	return "other"
}

// MaxEntries bounds a list, MaxDepth a path and how deep a removal goes.
const (
	MaxEntries = 100_000
	MaxDepth   = 256
)

// split checks a path and returns its names. Kind: Filesystem.
func split(p string) ([]string, error) {
	bad := func(why string) error {
		return &sandbox.Error{Op: "volume", Kind: sandbox.Filesystem, Message: why}
	}
	if strings.ContainsRune(p, 0) || len(p) > sandbox.MaxPathLen {
		return nil, bad("the path is too long, or has a NUL byte")
	}
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		switch name {
		case "", ".":
		case "..":
			return nil, bad("path traversal outside volume root")
		default:
			names = append(names, name)
		}
	}
	if len(names) > MaxDepth {
		return nil, bad("the path is too deep")
	}
	return names, nil
}

// fail is the error of a system call on a path, in the words of errno.
func fail(p string, err error) error {
	e := &sandbox.Error{Op: "volume", Kind: sandbox.Filesystem, Message: "/" + strings.TrimLeft(p, "/"), Err: err}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT):
		e.Kind = sandbox.PathNotFound
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		e.Err = errors.New("a symbolic link, or another mount, is on the way")
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		e.Kind = sandbox.IO
	}
	return e
}

// open opens a name in a directory.
func open(dir int, name string, flags int, mode uint32) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_PATH == 0 { // which goes with little else
		flags |= unix.O_NONBLOCK
	}
	how := unix.OpenHow{Flags: uint64(flags), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// dir opens the directory that names lead to; with create what is missing on the way is made.
func (f FS) dir(names []string, create bool) (int, error) {
	fd, err := unix.Open(f.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, name := range names {
		next, err := open(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == unix.ENOENT && create {
			if err = makeDir(fd, name); err == nil || err == unix.EEXIST {
				next, err = open(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			}
		}
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// parent opens the directory of a path and returns the last name.
func (f FS) parent(p string, create bool) (dir int, name string, err error) {
	names, err := split(p)
	if err != nil {
		return -1, "", err
	}
	if len(names) == 0 {
		return -1, "", fail(p, errors.New("it is the volume itself"))
	}
	last := len(names) - 1
	dir, err = f.dir(names[:last], create)
	return dir, names[last], fail(p, err)
}

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

// Stat says what is known of a path. Kinds of all methods: PathNotFound; Filesystem for what cannot be done there; IO.
func (f FS) Stat(p string) (Info, error) {
	names, err := split(p)
	if err != nil {
		return Info{}, err
	}
	if len(names) == 0 {
		fd, err := f.dir(nil, false)
		if err != nil {
			return Info{}, fail(p, err)
		}
		defer unix.Close(fd)
		i, err := infoOf(fd, "/")
		return i, fail(p, err)
	}
	dir, name, err := f.parent(p, false)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(dir)
	i, err := info(dir, name, p)
	return i, fail(p, err)
}

// List returns what is in a directory, by name.
func (f FS) List(p string) ([]Info, error) {
	names, err := split(p)
	if err != nil {
		return nil, err
	}
	fd, err := f.dir(names, false)
	if err != nil {
		return nil, fail(p, err)
	}
	dir := os.NewFile(uintptr(fd), p)
	defer dir.Close()
	entries, err := dir.Readdirnames(MaxEntries + 1)
	if err != nil && err != io.EOF {
		return nil, fail(p, err)
	}
	if len(entries) > MaxEntries {
		return nil, fail(p, errors.New("there are too many files in it"))
	}
	all := make([]Info, 0, len(entries))
	for _, name := range entries {
		i, err := info(fd, name, path.Join(p, name))
		if err == unix.ENOENT || err != nil && strings.HasPrefix(name, uploading) {
			continue // just removed
		}
		if err != nil {
			return nil, fail(path.Join(p, name), err)
		}
		if m := i.Mode & unix.S_IFMT; m == unix.S_IFCHR || m == unix.S_IFBLK || strings.HasPrefix(name, uploading) {
			continue
		}
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b Info) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// Open opens a file for reading.
func (f FS) Open(p string) (*os.File, Info, error) {
	dir, name, err := f.parent(p, false)
	if err != nil {
		return nil, Info{}, err
	}
	defer unix.Close(dir)
	fd, err := open(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, Info{}, fail(p, err)
	}
	i, err := infoOf(fd, p)
	if err == nil && i.Kind() != "file" {
		err = errors.New("it is no file, but a " + i.Kind())
	}
	if err != nil {
		unix.Close(fd)
		return nil, Info{}, fail(p, err)
	}
	return os.NewFile(uintptr(fd), p), i, nil
}

// uploading is how the name of a file begins that is about to get another's.
const uploading = ".microsandbox-upload-"

// Write makes a file, or gives one that is there other content and leaves its owner and mode. What is there stays until all of r was
// read. Directories that are missing on the way are made.
func (f FS) Write(p string, r io.Reader) error {
	dir, name, err := f.parent(p, true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	a, err := newAttr(dir, unix.S_IFREG|0o644)
	if err != nil {
		return fail(p, err)
	}
	var old int64
	switch have, err := info(dir, name, p); {
	case err == unix.ENOENT:
	case err != nil:
		return fail(p, err)
	case have.Kind() != "file":
		return fail(p, errors.New("it is no file, but a "+have.Kind()))
	default:
		a, old = format.Attr{Mode: have.Mode, UID: have.UID, GID: have.GID}, have.Size
	}
	fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fail(p, err)
	}
	file := os.NewFile(uintptr(fd), p)
	defer file.Close()
	if err := setAttr(fd, a); err != nil {
		return fail(p, err)
	}
	if err := f.fill(file, r, old); err != nil {
		var read *readError
		if errors.As(err, &read) {
			return read.err
		}
		return fail(p, err)
	}
	return fail(p, christen(fd, dir, name))
}

// readError is of the one who sends.
type readError struct{ err error }

func (r *readError) Error() string { return r.err.Error() }

// fill copies r into a new file, and no more than the limit leaves. old is what goes for it.
func (f FS) fill(file *os.File, r io.Reader, old int64) error {
	room := int64(1) << 62
	if f.Limit > 0 {
		room = max(0, f.Limit-f.Used+old)
	}
	var n int64
	buf := make([]byte, 256<<10)
	for {
		got, err := r.Read(buf)
		if n += int64(got); n > room {
			return unix.ENOSPC
		}
		if got > 0 {
			if _, werr := file.Write(buf[:got]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &readError{err}
		}
	}
}

// christen gives an open file without a name its own, whatever has it.
func christen(fd, dir int, name string) error {
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	err := unix.Linkat(unix.AT_FDCWD, self, dir, name, unix.AT_SYMLINK_FOLLOW)
	if err != unix.EEXIST {
		return err
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	temp := uploading + hex.EncodeToString(b[:])
	if err := unix.Linkat(unix.AT_FDCWD, self, dir, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	if err := unix.Renameat(dir, temp, dir, name); err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return err
	}
	return nil
}

// Mkdir makes a directory and those above it. One that is there is as good.
func (f FS) Mkdir(p string) error {
	names, err := split(p)
	if err != nil {
		return err
	}
	fd, err := f.dir(names, true)
	if err == nil {
		unix.Close(fd)
	}
	return fail(p, err)
}

// Copy copies a file.
func (f FS) Copy(from, to string) error {
	src, i, err := f.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := f.Write(to, src); err != nil {
		return err
	}
	dir, name, err := f.parent(to, false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	fd, err := open(dir, name, unix.O_RDONLY, 0)
	if err != nil {
		return fail(to, err)
	}
	defer unix.Close(fd)
	_, a, err := look(fd)
	if err != nil {
		return fail(to, err)
	}
	a.Mode = i.Mode
	return fail(to, setAttr(fd, a))
}

// Rename gives a file or directory another name; a file that has it already goes.
func (f FS) Rename(from, to string) error {
	src, old, err := f.parent(from, false)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, name, err := f.parent(to, true)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	return fail(from, unix.Renameat(src, old, dst, name))
}

// Remove removes a file, a link or an empty directory; with all what is below, too.
func (f FS) Remove(p string, all bool) error {
	dir, name, err := f.parent(p, false)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return fail(p, remove(dir, name, all, 0))
}

func remove(dir int, name string, all bool, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err != unix.EISDIR {
		return err
	}
	err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY || !all {
		return err
	}
	if depth > MaxDepth {
		return unix.ELOOP
	}
	fd, err := open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()
	for {
		names, err := sub.Readdirnames(1024)
		for _, n := range names {
			if err := remove(fd, n, true, depth+1); err != nil && err != unix.ENOENT {
				return err
			}
		}
		if err == io.EOF {
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		if err != nil {
			return err
		}
	}
}
