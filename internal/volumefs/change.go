package volumefs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

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
