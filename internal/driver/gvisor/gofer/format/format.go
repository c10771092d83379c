// Package format says how the guest's view of a file is kept in extended attributes of a host's file, and what a store's
// root has. It needs nothing of gVisor.
package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Extended attributes of ours. The guest does not see them.
const (
	Reserved  = "user.microsandbox."
	StatName  = Reserved + "stat"  // of every file: an encoded Attr
	StoreName = Reserved + "store" // of a store's root: its format and id
	CleanName = Reserved + "clean" // of a store's root: what was counted when it was closed

	PrunedName = Reserved + "pruned" // of a store's root: how many files it had when whiteouts were last pruned
)

// Attr is what the guest sees of a file in place of what the host has.
type Attr struct {
	Mode         uint32 // with the type, as in stat(2)
	UID, GID     uint32
	Major, Minor uint32 // of a device
}

// attrVersion is the first byte of an encoded Attr, attrSize its length.
const (
	attrVersion = 1
	attrSize    = 1 + 5*4
)

// Encode is the reverse of [DecodeAttr].
func (a Attr) Encode() []byte {
	b := make([]byte, 1, attrSize)
	b[0] = attrVersion
	for _, v := range []uint32{a.Mode, a.UID, a.GID, a.Major, a.Minor} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// errAttr is an attribute that was not written by us.
var errAttr = errors.New("bad attribute " + StatName)

// DecodeAttr reads the value of [StatName].
func DecodeAttr(b []byte) (Attr, error) {
	if len(b) != attrSize || b[0] != attrVersion {
		return Attr{}, errAttr
	}
	var v [5]uint32
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(b[1+4*i:])
	}
	a := Attr{Mode: v[0], UID: v[1], GID: v[2], Major: v[3], Minor: v[4]}
	device := a.IsDevice()
	switch {
	case a.Mode&^uint32(unix.S_IFMT|0o7777) != 0, a.UID == ^uint32(0), a.GID == ^uint32(0):
		return Attr{}, errAttr
	case !device && (a.Major != 0 || a.Minor != 0):
		return Attr{}, errAttr
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK:
		return a, nil
	}
	return Attr{}, errAttr
}

// IsDevice reports whether it is a character or block device.
func (a Attr) IsDevice() bool {
	return a.Mode&unix.S_IFMT == unix.S_IFCHR || a.Mode&unix.S_IFMT == unix.S_IFBLK
}

// IsWhiteout reports whether it is what an overlay puts in the place of a deleted file.
func (a Attr) IsWhiteout() bool {
	return a.Mode&unix.S_IFMT == unix.S_IFCHR && a.Major == 0 && a.Minor == 0
}

// fits reports whether a file of this host type may have the attribute: a directory is one on both sides, and all else is
// a regular file on the host, which has the sticky bit if it is something else to the guest.
func (a Attr) Fits(hostMode uint32) bool {
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return hostMode&unix.S_IFMT == unix.S_IFDIR
	case unix.S_IFREG:
		return hostMode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG
	}
	return hostMode&(unix.S_IFMT|unix.S_ISVTX) == unix.S_IFREG|unix.S_ISVTX
}

// Read returns the attribute of an open file, and whether it has one. One that is not ours to have counts as none.
func Read(fd int, hostMode uint32) (Attr, bool, error) {
	var b [attrSize + 1]byte
	n, err := unix.Fgetxattr(fd, StatName, b[:])
	switch err {
	case nil:
	case unix.ENODATA, unix.EOPNOTSUPP, unix.EBADF, unix.ERANGE:
		return Attr{}, false, nil
	default:
		return Attr{}, false, err
	}
	a, err := DecodeAttr(b[:n])
	return a, err == nil && a.Fits(hostMode), nil
}

// Write sets the attribute of an open file.
func Write(fd int, a Attr) error { return unix.Fsetxattr(fd, StatName, a.Encode(), 0) }

// Hidden reports whether a name of an extended attribute is not the guest's to use.
func Hidden(name string) bool { return strings.HasPrefix(name, Reserved) }

// storeHeader is the value of StoreName: the version of the format and the store's id.
const (
	storeVersion = 1
	StoreIDSize  = 16
)

// EncodeStore is the value of [StoreName].
func EncodeStore(id [StoreIDSize]byte) []byte { return append([]byte{storeVersion}, id[:]...) }

// DecodeStore reads the value of [StoreName].
func DecodeStore(b []byte) (id [StoreIDSize]byte, err error) {
	if len(b) == 0 {
		return id, errors.New("the directory's format is empty")
	}
	if b[0] != storeVersion {
		return id, fmt.Errorf("the directory has format %d; this version knows %d", b[0], storeVersion)
	}
	if len(b) != 1+StoreIDSize {
		return id, errors.New("the directory's id is damaged")
	}
	return [StoreIDSize]byte(b[1:]), nil
}

// CleanMark is the value of CleanName: a store that was closed and what was counted in it. It holds until the machine
// boots again, since nobody knows what of a mark reached the disk before a crash. One of version 1, which had no byte for its
// version and did not count whiteouts, is no mark.
type CleanMark struct {
	Boot   string // the kernel's boot id
	Bytes  uint64
	Inodes uint64
}

const cleanVersion = 2

// Encode is the reverse of [DecodeClean].
func (c CleanMark) Encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, c.Bytes)
	b = binary.LittleEndian.AppendUint64(b, c.Inodes)
	return append(append(b, cleanVersion), c.Boot...)
}

// DecodeClean reads the value of [CleanName].
func DecodeClean(b []byte) (CleanMark, bool) {
	if len(b) < 17 || b[16] != cleanVersion {
		return CleanMark{}, false
	}
	c := CleanMark{Bytes: binary.LittleEndian.Uint64(b), Inodes: binary.LittleEndian.Uint64(b[8:]), Boot: string(b[17:])}
	return c, c.Boot != "" && c.Bytes < 1<<63 && c.Inodes < 1<<63
}
