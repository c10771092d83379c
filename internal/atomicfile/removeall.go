package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RemoveAll is os.RemoveAll for trees that anybody may have made: that has a file open for each level, and there may be more
// levels than files may be open. This has one open. It removes what it can, and returns the first error. Several may remove
// the same tree.
func RemoveAll(path string) error {
	for {
		err := os.Remove(path)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
			return err
		}
		if err := empty(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // another was faster, further up
			return fmt.Errorf("remove what is in %s: %w", path, err)
		}
	}
}

func empty(path string) error {
	dir, err := openDir(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	r := remover{dir: dir}
	defer func() { unix.Close(r.dir) }()
	return r.run()
}

// remover empties a directory.
type remover struct {
	dir int     // where it is
	way []level // there, from where it began
	bad error   // the first that went wrong
}

// level is a directory on the way.
type level struct {
	name     string
	dev, ino uint64
	subs     []string        // directories in it that are not empty
	stuck    map[string]bool // what cannot be removed
}

// most bounds how many directories of one are remembered at a time.
const most = 1024

func openDir(at int, name string) (int, error) {
	for {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (r *remover) run() error {
	if err := r.enter(r.dir, ""); err != nil {
		return err
	}
	for {
		here := &r.way[len(r.way)-1]
		if len(here.subs) == 0 {
			if err := r.scan(here); err != nil && err != unix.ENOENT {
				r.failed(here, "", err)
			}
		}
		if n := len(here.subs); n > 0 {
			name := here.subs[n-1]
			here.subs = here.subs[:n-1]
			sub, err := openDir(r.dir, name)
			if err == nil {
				err = r.enter(sub, name)
			}
			if err != nil && err != unix.ENOENT {
				r.failed(here, name, err)
			}
			continue
		}
		r.way = r.way[:len(r.way)-1]
		if len(r.way) == 0 {
			return r.bad
		}
		if err := r.leave(here.name); err != nil {
			return errors.Join(r.bad, err)
		}
	}
}

func (r *remover) failed(at *level, name string, err error) {
	if r.bad == nil {
		r.bad = fmt.Errorf("%.255q: %w", name, err)
	}
	if at.stuck == nil {
		at.stuck = map[string]bool{}
	}
	at.stuck[name] = true
}

// enter goes into a directory, which it takes over.
func (r *remover) enter(dir int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		if dir != r.dir {
			unix.Close(dir)
		}
		return err
	}
	if dir != r.dir {
		unix.Close(r.dir)
		r.dir = dir
	}
	r.way = append(r.way, level{name: name, dev: uint64(st.Dev), ino: st.Ino})
	return nil
}

// leave goes up, and removes the directory that it comes from.
func (r *remover) leave(name string) error {
	at := &r.way[len(r.way)-1]
	up, err := openDir(r.dir, "..")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(up, &st); err != nil || uint64(st.Dev) != at.dev || st.Ino != at.ino {
		unix.Close(up)
		return errors.Join(err, errors.New("somebody moves directories there"))
	}
	unix.Close(r.dir)
	r.dir = up
	if err := unix.Unlinkat(r.dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		r.failed(at, name, err)
	}
	return nil
}

// scan removes what is no directory, and directories that are empty, and puts others into subs.
func (r *remover) scan(at *level) error {
	if _, err := unix.Seek(r.dir, 0, unix.SEEK_SET); err != nil {
		return err
	}
	var buf [16 << 10]byte
	for len(at.subs) < most {
		n, err := unix.ReadDirent(r.dir, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if at.stuck[name] {
				continue
			}
			err := unix.Unlinkat(r.dir, name, 0)
			if err == unix.EISDIR || err == unix.EPERM {
				err = unix.Unlinkat(r.dir, name, unix.AT_REMOVEDIR)
			}
			switch err {
			case nil, unix.ENOENT:
			case unix.ENOTEMPTY, unix.EEXIST:
				at.subs = append(at.subs, name)
			default:
				r.failed(at, name, err)
			}
		}
	}
	return nil
}
