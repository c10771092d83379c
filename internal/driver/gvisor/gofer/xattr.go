package gofer

import (
	"strings"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/lisafs"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// guestXattr reports whether the guest may have an extended attribute of this name: those of users, but for ours.
func guestXattr(name string) bool {
	return strings.HasPrefix(name, linux.XATTR_USER_PREFIX) && !format.Hidden(name)
}

// GetXattr implements lisafs.ControlFDImpl.
func (fd *control) GetXattr(name string, size uint32, buffer func(uint32) []byte) (uint16, error) {
	if !guestXattr(name) || fd.h.path {
		return 0, unix.ENODATA
	}
	if size == 0 || size > linux.XATTR_SIZE_MAX {
		size = linux.XATTR_SIZE_MAX
	}
	n, err := unix.Fgetxattr(fd.h.fd, name, buffer(size))
	return uint16(max(n, 0)), err
}

// SetXattr implements lisafs.ControlFDImpl.
func (fd *control) SetXattr(name, value string, flags uint32) error {
	switch {
	case format.Hidden(name), fd.h.path:
		return unix.EPERM
	case !guestXattr(name):
		return unix.EOPNOTSUPP
	}
	return unix.Fsetxattr(fd.h.fd, name, []byte(value), int(flags))
}

// ListXattr implements lisafs.ControlFDImpl.
func (fd *control) ListXattr(uint64) (lisafs.StringArray, error) {
	if fd.h.path {
		return nil, nil
	}
	b := make([]byte, linux.XATTR_LIST_MAX)
	n, err := unix.Flistxattr(fd.h.fd, b)
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names lisafs.StringArray
	for name := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		if guestXattr(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// RemoveXattr implements lisafs.ControlFDImpl.
func (fd *control) RemoveXattr(name string) error {
	switch {
	case format.Hidden(name), fd.h.path:
		return unix.EPERM
	case !guestXattr(name):
		return unix.ENODATA
	}
	return unix.Fremovexattr(fd.h.fd, name)
}
