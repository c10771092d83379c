package gofer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Extended attributes of ours. The guest does not see them.
const (
	reserved  = "user.microsandbox."
	statName  = reserved + "stat"  // of every file: an encoded attr
	storeName = reserved + "store" // of a store's root: its format and id
	cleanName = reserved + "clean" // of a store's root: what was counted when it was closed
)

// attr is what the guest sees of a file in place of what the host has.
type attr struct {
	mode         uint32 // with the type, as in stat(2)
	uid, gid     uint32
	major, minor uint32 // of a device
}

// attrVersion is the first byte of an encoded attr, attrSize its length.
const (
	attrVersion = 1
	attrSize    = 1 + 5*4
)

func (a attr) encode() []byte {
	b := make([]byte, 1, attrSize)
	b[0] = attrVersion
	for _, v := range []uint32{a.mode, a.uid, a.gid, a.major, a.minor} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// errAttr is an attribute that was not written by us.
var errAttr = errors.New("bad attribute " + statName)

func decodeAttr(b []byte) (attr, error) {
	if len(b) != attrSize || b[0] != attrVersion {
		return attr{}, errAttr
	}
	var v [5]uint32
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(b[1+4*i:])
	}
	a := attr{mode: v[0], uid: v[1], gid: v[2], major: v[3], minor: v[4]}
	device := a.isDevice()
	switch {
	case a.mode&^uint32(unix.S_IFMT|0o7777) != 0, a.uid == ^uint32(0), a.gid == ^uint32(0):
		return attr{}, errAttr
	case !device && (a.major != 0 || a.minor != 0):
		return attr{}, errAttr
	}
	switch a.mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK:
		return a, nil
	}
	return attr{}, errAttr
}

func (a attr) isDevice() bool {
	return a.mode&unix.S_IFMT == unix.S_IFCHR || a.mode&unix.S_IFMT == unix.S_IFBLK
}

// isWhiteout reports whether it is what an overlay puts in the place of a deleted file.
func (a attr) isWhiteout() bool {
	return a.mode&unix.S_IFMT == unix.S_IFCHR && a.major == 0 && a.minor == 0
}

// fits reports whether a file of this host type may have the attribute: a directory is one on both sides, and all else is
// a regular file on the host, which has the sticky bit if it is something else to the guest.
func (a attr) fits(hostMode uint32) bool {
	switch a.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return hostMode&unix.S_IFMT == unix.S_IFDIR
	case unix.S_IFREG:
		return hostMode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG
	}
	return hostMode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG|unix.S_ISVTX
}

// readAttr returns the attribute of an open file, and whether it has one. One that is not ours to have counts as none.
func readAttr(fd int, hostMode uint32) (attr, bool, error) {
	var b [attrSize + 1]byte
	n, err := unix.Fgetxattr(fd, statName, b[:])
	switch err {
	case nil:
	case unix.ENODATA, unix.EOPNOTSUPP, unix.EBADF, unix.ERANGE:
		return attr{}, false, nil
	default:
		return attr{}, false, err
	}
	a, err := decodeAttr(b[:n])
	return a, err == nil && a.fits(hostMode), nil
}

func writeAttr(fd int, a attr) error { return unix.Fsetxattr(fd, statName, a.encode(), 0) }

// hidden reports whether a name of an extended attribute is not the guest's to use.
func hidden(name string) bool { return strings.HasPrefix(name, reserved) }

// storeHeader is the value of storeName: the version of the format and the store's id.
const (
	storeVersion = 1
	storeIDSize  = 16
)

func encodeStore(id [storeIDSize]byte) []byte { return append([]byte{storeVersion}, id[:]...) }

func decodeStore(b []byte) (id [storeIDSize]byte, err error) {
	if len(b) == 0 {
		return id, errors.New("the directory's format is empty")
	}
	if b[0] != storeVersion {
		return id, fmt.Errorf("the directory has format %d; this version knows %d", b[0], storeVersion)
	}
	if len(b) != 1+storeIDSize {
		return id, errors.New("the directory's id is damaged")
	}
	return [storeIDSize]byte(b[1:]), nil
}

// cleanMark is the value of cleanName: a store that was closed and what was counted in it. It holds until the machine
// boots again, since nobody knows what of a mark reached the disk before a crash.
type cleanMark struct {
	boot   string // the kernel's boot id
	bytes  uint64
	inodes uint64
}

func (c cleanMark) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, c.bytes)
	b = binary.LittleEndian.AppendUint64(b, c.inodes)
	return append(b, c.boot...)
}

func decodeClean(b []byte) (cleanMark, bool) {
	if len(b) < 16 {
		return cleanMark{}, false
	}
	c := cleanMark{bytes: binary.LittleEndian.Uint64(b), inodes: binary.LittleEndian.Uint64(b[8:]), boot: string(b[16:])}
	return c, c.boot != "" && c.bytes < 1<<63 && c.inodes < 1<<63
}
