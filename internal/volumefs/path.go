package volumefs

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
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
