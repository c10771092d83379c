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
