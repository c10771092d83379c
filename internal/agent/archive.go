package agent

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Archive is the argument with which the agent's binary writes a tar of a directory to stdout: "agent archive DIR SKIP...". The
// contents of the directories SKIP, which are below DIR, are left out.
const Archive = "archive"

// WriteArchive writes what is below dir, with owners, modes, times, links and devices. Sockets are left out, as tar cannot hold them.
func WriteArchive(out io.Writer, dir string, skip []string) error {
	buffered := bufio.NewWriterSize(out, 1<<16)
	w := tar.NewWriter(buffered)
	skipped := map[string]bool{}
	for _, s := range skip {
		skipped[filepath.Clean(s)] = true
	}
	type inode struct{ dev, ino uint64 }
	links := map[inode]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just gone
		}
		if err != nil {
			return err
		}
		if skipped[filepath.Clean(path)] && !info.IsDir() {
			return nil
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("stat of %s says nothing", path)
		}
		h := &tar.Header{Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: info.ModTime(), Format: tar.FormatPAX}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			h.Typeflag, h.Name = tar.TypeDir, rel+"/"
		case unix.S_IFLNK:
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
			if st.Mode&unix.S_IFMT == unix.S_IFBLK {
				h.Typeflag = tar.TypeBlock
			}
		case unix.S_IFIFO:
			h.Typeflag = tar.TypeFifo
		case unix.S_IFREG:
			h.Typeflag, h.Size = tar.TypeReg, st.Size
		default:
			return nil
		}
		if at := (inode{st.Dev, st.Ino}); st.Nlink > 1 && !info.IsDir() {
			if first := links[at]; first != "" {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			} else {
				links[at] = rel
			}
		}
		if h.Typeflag != tar.TypeReg {
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if info.IsDir() && skipped[filepath.Clean(path)] {
				return fs.SkipDir
			}
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.CopyN(w, f, h.Size) // one that shrinks meanwhile is an error: its length is said already
		return err
	})
	return errors.Join(err, w.Close(), buffered.Flush())
}
