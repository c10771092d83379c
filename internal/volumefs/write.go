package volumefs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

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
	n, err := f.fill(file, r, old)
	if err != nil {
		var read *readError
		if errors.As(err, &read) {
			return read.err
		}
		return fail(p, err)
	}
	return fail(p, f.publish(fd, dir, name, p, n))
}

// publish gives a file of n bytes its name if there still is room for it: others may have been written meanwhile.
func (f FS) publish(fd, dir int, name, p string, n int64) error {
	if f.Limit == 0 {
		return christen(fd, dir, name)
	}
	root, err := unix.Open(f.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(root, unix.LOCK_EX) // one after the other
	}
	if err != nil {
		return err
	}
	var old int64
	if have, err := info(dir, name, p); err == nil {
		old = have.Size
	}
	used, err := f.Used()
	if err != nil {
		return err
	}
	if used-old+n > f.Limit {
		return unix.ENOSPC
	}
	return christen(fd, dir, name)
}

// readError is of the one who sends.
type readError struct{ err error }

func (r *readError) Error() string { return r.err.Error() }

// fill copies r into a new file, n bytes, and no more than the limit leaves. old is what goes for it.
func (f FS) fill(file *os.File, r io.Reader, old int64) (n int64, err error) {
	room := int64(1) << 62
	if f.Limit > 0 {
		used, err := f.Used()
		if err != nil {
			return 0, err
		}
		room = max(0, f.Limit-used+old)
	}
	buf := make([]byte, 256<<10)
	for {
		got, err := r.Read(buf)
		if n += int64(got); n > room {
			return n, unix.ENOSPC
		}
		if got > 0 {
			if _, werr := file.Write(buf[:got]); werr != nil {
				return n, werr
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, &readError{err}
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
