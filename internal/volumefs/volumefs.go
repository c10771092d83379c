// Package volumefs reads and writes the files of a volume from outside of sandboxes, as a guest sees and makes them: with owners, modes and
// symbolic links in the format of package format (ADR 9).
//
// What is in a volume is hostile. Each name of a path is opened by itself beneath an open directory, without links of any kind; a link
// of a guest's is shown and never followed, because it is the guest's root that it leads through.
package volumefs

import (
	"cmp"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FS is the files below a directory. The zero Limit is none.
type FS struct {
	Dir   string
	Limit int64                 // bytes of all files together
	Used  func() (int64, error) // measures how many there are; asked with a Limit only
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
