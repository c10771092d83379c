package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// patch writes the entries of one patch.
func (t *writer) patch(p sandbox.Patch) error {
	op := agentproto.FilesNew
	if p.Replace {
		op = ""
	}
	mode := func(dflt fs.FileMode) int64 {
		if p.Mode != nil {
			return int64(*p.Mode)
		}
		return int64(dflt)
	}
	switch p.Type {
	case sandbox.PatchText, sandbox.PatchFile:
		return t.file(p.Path, mode(0o644), string(p.Content), op)
	case sandbox.PatchAppend:
		return t.file(p.Path, mode(0o644), string(p.Content), agentproto.FilesAppend)
	case sandbox.PatchMkdir:
		return t.header(&tar.Header{Name: p.Path, Mode: mode(0o755), Typeflag: tar.TypeDir}, "")
	case sandbox.PatchRemove:
		return t.header(&tar.Header{Name: p.Path, Typeflag: tar.TypeReg}, agentproto.FilesRemove)
	case sandbox.PatchSymlink:
		return t.header(&tar.Header{Name: p.Link, Linkname: p.Target, Mode: 0o777, Typeflag: tar.TypeSymlink}, op)
	case sandbox.PatchCopyFile:
		return t.copyFile(p, op)
	case sandbox.PatchCopyDir:
		return t.copyDir(p, op)
	}
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: fmt.Sprintf("patches of the type %q are not supported", p.Type)}
}

func copyError(p sandbox.Patch, err error) error {
	var e *sandbox.Error
	if errors.As(err, &e) {
		return err
	}
	return &sandbox.Error{Kind: sandbox.PatchFailed, Message: fmt.Sprintf("copy %s to %s", p.Src, p.Dst), Err: err}
}

// openFlags opens a file, and neither waits for a pipe nor wakes a device that is in its place.
const openFlags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// openNoLinks opens a path that leads through no symbolic link: the backend resolved it when the sandbox was made.
func openNoLinks(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: uint64(openFlags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// copyFile copies the file that Src names. In the guest it is root's.
func (t *writer) copyFile(p sandbox.Patch, op agentproto.FilesOp) error {
	f, err := openNoLinks(p.Src)
	if err != nil {
		return copyError(p, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("the source is not a regular file")
	}
	if err == nil {
		err = t.regular(p.Dst, f, info, p.Mode, op)
	}
	if err != nil {
		return copyError(p, err)
	}
	return nil
}

// copyDir copies the tree below Src. Links in it are copied as links; what is neither file, directory nor link is refused.
func (t *writer) copyDir(p sandbox.Patch, op agentproto.FilesOp) error {
	dir, err := openNoLinks(p.Src)
	if err != nil {
		return copyError(p, err)
	}
	defer dir.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return copyError(p, err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		dst := path.Join(p.Dst, name)
		switch {
		case d.IsDir():
			what := op
			if name != "." {
				what = "" // that the root of the copy was not there says it all
			}
			return t.header(&tar.Header{Name: dst, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime(), Typeflag: tar.TypeDir}, what)
		case d.Type() == fs.ModeSymlink:
			target, err := root.Readlink(filepath.FromSlash(name))
			if err != nil {
				return err
			}
			return t.header(&tar.Header{Name: dst, Linkname: target, Mode: 0o777, ModTime: info.ModTime(), Typeflag: tar.TypeSymlink}, "")
		case d.Type().IsRegular():
			f, err := root.OpenFile(filepath.FromSlash(name), openFlags, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if info, err = f.Stat(); err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is no regular file any more", name)
			}
			return t.regular(dst, f, info, nil, "")
		}
		return fmt.Errorf("%s is neither a file nor a directory nor a link", name)
	})
	if err != nil {
		return copyError(p, err)
	}
	return nil
}

// regular writes a file of exactly the size that it had when it was opened.
func (t *writer) regular(dst string, f *os.File, info fs.FileInfo, mode *uint32, op agentproto.FilesOp) error {
	m := int64(info.Mode().Perm())
	if mode != nil {
		m = int64(*mode)
	}
	if err := t.header(&tar.Header{Name: dst, Mode: m, Size: info.Size(), ModTime: info.ModTime(), Typeflag: tar.TypeReg}, op); err != nil {
		return err
	}
	n, err := io.Copy(t.tar, io.LimitReader(f, info.Size()))
	if err == nil && n < info.Size() {
		err = fmt.Errorf("%s shrank while it was read", info.Name())
	}
	return err
}
