package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// localFormat changes whenever DirRoot makes something else of the same directory.
const localFormat = "local 1"

// DirRoot returns the root made of a directory of this machine, or of a tar in one file, compressed or not. A path that leads through a
// symbolic link is refused: whoever is asked for one resolves it, and looks whether it may be read, first.
//
// The root is a snapshot: an EROFS file like that of an image, made again when stat says that anything in the directory
// changed. So a sandbox cannot reach the directory, however it tries, starts as fast as from an image, and sees owners,
// modes and devices as they are on the disk, whoever the user is. What the user may not read is an error. Sockets are left
// out, and so is what is mounted below the directory. Of a tar all entries count as of a layer, but whiteouts are just files.
//
// Kinds of errors: ImageNotFound when there is nothing at path, InvalidConfig when it and MSB_HOME are within each other, ImagePullFailed, IO.
func (s *Store) DirRoot(ctx context.Context, path string) (*Root, error) {
	root, err := s.dirRoot(ctx, path)
	var e *sandbox.Error
	switch {
	case err == nil || errors.As(err, &e):
		return root, err
	case ctx.Err() != nil:
		return nil, cancelled(ctx, "read "+path)
	case isMissing(err):
		return nil, &sandbox.Error{Op: "read root", Kind: sandbox.ImageNotFound, Message: path, Hint: "there is no such directory or file"}
	case ofDisk(err):
		return nil, storeError("make an image of "+path, s.home, err)
	}
	return nil, &sandbox.Error{Op: "read root", Kind: sandbox.ImagePullFailed, Message: "make an image of " + path, Err: err}
}

func (s *Store) dirRoot(ctx context.Context, path string) (*Root, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	top, err := openNoLinks(path)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	info, err := top.Stat()
	if err != nil {
		return nil, err
	}
	home, err := real(s.home)
	if err != nil {
		return nil, err
	}
	if within(path, home) || within(home, path) {
		return nil, &sandbox.Error{Op: "read root", Kind: sandbox.InvalidConfig,
			Message: fmt.Sprintf("MSB_HOME (%s) and %s are within each other", home, path), Hint: "have them in different directories"}
	}
	place := newKey(localFormat)
	place.add(path)
	id := newKey(localFormat)
	l := &local{top: top, limits: s.cfg.Limits, key: id}
	if info.IsDir() {
		if err := l.inspect(ctx); err != nil {
			return nil, err
		}
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is neither a directory nor a tar", path)
	} else {
		l.key.addStat(info)
	}
	root := &Root{Digest: l.key.sum(), Config: Config{Env: []string{defaultPath}, Cmd: []string{"/bin/sh"}}}
	prefix := place.sum() + "-"
	root.Path = filepath.Join(s.dir, "roots", prefix+root.Digest+".erofs")
	if cached(root.Path) {
		return root, nil
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	s.sweep()
	w, err := s.begin(ctx, prefix+root.Digest, nil)
	if err != nil {
		return nil, err
	}
	defer w.end()
	if cached(root.Path) {
		return root, nil
	}
	var f *os.File
	if info.IsDir() {
		f, err = l.convert(ctx, w.path("image"))
	} else {
		src := source{descriptor: descriptor{Size: info.Size()}, open: func(context.Context) (io.ReadCloser, error) { return os.Open(opened(top)) }}
		f, _, err = s.convert(ctx, w.path("image"), []source{src}, true, func(Phase, int, int64) {})
	}
	if err != nil {
		return nil, err
	}
	if err := publish(f, root.Path); err != nil {
		return nil, err
	}
	s.sweepRoots(prefix, root.Path)
	return root, nil
}

// openNoLinks finds a file or directory whose path leads through no symbolic link, and wakes no device in its place: see opened.
func openNoLinks(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ELOOP) {
		return nil, &sandbox.Error{Op: "read root", Kind: sandbox.InvalidConfig, Message: path + " leads through a symbolic link", Hint: "name what it leads to"}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// opened is a path to read what was found, whatever is at its own by now.
func opened(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// sweepRoots removes what was made of the same path before, unless somebody runs from it or used it lately.
func (s *Store) sweepRoots(prefix, keep string) {
	old, _ := filepath.Glob(filepath.Join(s.dir, "roots", prefix+"*.erofs"))
	for _, p := range old {
		if info, err := os.Stat(p); err == nil && p != keep && time.Since(info.ModTime()) > grace {
			_ = removeUnleased(p, false)
		}
	}
}

func (k key) addStat(info fs.FileInfo) {
	st := info.Sys().(*syscall.Stat_t)
	k.add(st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Rdev, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// local is a directory of this machine that becomes an image.
type local struct {
	top    *os.File
	limits Limits
	key    key
}

// inspect takes into the key what stat says of everything in the directory.
func (l *local) inspect(ctx context.Context) error {
	return l.walk(ctx, func(p string, _ *os.Root, info fs.FileInfo) error {
		l.key.add(p)
		l.key.addStat(info)
		return nil
	})
}

// walk visits everything on the directory's file system, beneath its root.
func (l *local) walk(ctx context.Context, visit func(p string, root *os.Root, info fs.FileInfo) error) error {
	root, err := os.OpenRoot(opened(l.top))
	if err != nil {
		return err
	}
	defer root.Close()
	var dev uint64
	n, bytes := 0, int64(0)
	// Not fs.WalkDir, which refuses names that are not UTF-8.
	var down func(p string) error
	down = func(p string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := root.Lstat(p)
		if err != nil || info.Mode()&fs.ModeSocket != 0 {
			return err
		}
		if n++; n > l.limits.Entries {
			return fmt.Errorf("%w of %d entries", ErrTooLarge, l.limits.Entries)
		}
		if info.Mode().IsRegular() {
			if bytes += info.Size(); bytes > l.limits.Bytes {
				return fmt.Errorf("%w of %d bytes", ErrTooLarge, l.limits.Bytes)
			}
		}
		st := info.Sys().(*syscall.Stat_t)
		if p == "." {
			dev = st.Dev
		}
		if err := visit(p, root, info); err != nil {
			return err
		}
		if !info.IsDir() || st.Dev != dev { // something else is mounted here
			return nil
		}
		names, err := namesIn(root, p)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := down(filepath.Join(p, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return down(".")
}

func namesIn(root *os.Root, p string) ([]string, error) {
	d, err := root.Open(p)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// convert writes the directory to an image.
func (l *local) convert(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	w := erofs.NewWriter(&early{File: f})
	first := map[[2]uint64]string{}
	err = l.walk(ctx, func(p string, root *os.Root, info fs.FileInfo) error {
		st := info.Sys().(*syscall.Stat_t)
		if !info.IsDir() && st.Nlink > 1 {
			id := [2]uint64{st.Dev, st.Ino}
			if old, ok := first[id]; ok {
				return w.Link(p, old)
			}
			first[id] = p
		}
		return addLocal(w, p, root, info)
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func addLocal(w *erofs.Writer, p string, root *os.Root, info fs.FileInfo) error {
	a := attrOf(info)
	switch mode := info.Mode(); {
	case mode.IsDir():
		return w.Dir(p, a)
	case mode.IsRegular():
		f, err := root.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return w.File(p, a, info.Size(), f)
	case mode&fs.ModeSymlink != 0:
		target, err := root.Readlink(p)
		if err != nil {
			return err
		}
		return w.Symlink(p, target, a)
	case mode&fs.ModeNamedPipe != 0:
		return w.Fifo(p, a)
	case mode&fs.ModeDevice != 0:
		dev := info.Sys().(*syscall.Stat_t).Rdev
		return w.Device(p, a, mode&fs.ModeCharDevice != 0, unix.Major(dev), unix.Minor(dev))
	}
	return nil
}
