package format

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAttr encodes and decodes, and refuses what we would not write.
func TestAttr(t *testing.T) {
	for _, a := range []Attr{{Mode: unix.S_IFREG | 0o4755, UID: 1, GID: 4294967294}, {Mode: unix.S_IFDIR | 0o1777}, {Mode: unix.S_IFLNK | 0o777, UID: 7},
		{Mode: unix.S_IFCHR, Major: 1, Minor: 3}, {Mode: unix.S_IFBLK | 0o600, Major: 259, Minor: 1 << 19}, {Mode: unix.S_IFCHR}} {
		if have, err := DecodeAttr(a.Encode()); err != nil || have != a {
			t.Errorf("%+v became %+v, %v", a, have, err)
		}
	}
	for _, a := range []Attr{{}, {Mode: 0o644}, {Mode: unix.S_IFSOCK}, {Mode: unix.S_IFIFO}, {Mode: unix.S_IFREG | 1<<20}, {Mode: unix.S_IFREG, UID: 1<<32 - 1}, {Mode: unix.S_IFREG, Minor: 1}} {
		if have, err := DecodeAttr(a.Encode()); err == nil {
			t.Errorf("%+v was taken for %+v", a, have)
		}
	}
	good := Attr{Mode: unix.S_IFREG}.Encode()
	for _, b := range [][]byte{nil, good[:20], append(good, 0), append([]byte{2}, good[1:]...)} {
		if have, err := DecodeAttr(b); err == nil {
			t.Errorf("%x was taken for %+v", b, have)
		}
	}
}

// FuzzAttr decodes what may be in a host file's attribute: never more than was written, and the same when encoded again.
func FuzzAttr(f *testing.F) {
	f.Add(Attr{Mode: unix.S_IFREG | 0o644, UID: 1000, GID: 1000}.Encode(), uint32(unix.S_IFREG|0o600))
	f.Add(Attr{Mode: unix.S_IFCHR, Major: 1, Minor: 3}.Encode(), uint32(unix.S_IFREG|unix.S_ISVTX))
	f.Add(Attr{Mode: unix.S_IFDIR | 0o1777}.Encode(), uint32(unix.S_IFDIR))
	f.Add([]byte{1}, uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, host uint32) {
		a, err := DecodeAttr(b)
		if err != nil {
			if a != (Attr{}) {
				t.Errorf("have %+v with an error", a)
			}
			return
		}
		if !bytes.Equal(a.Encode(), b) {
			t.Errorf("%x became %x", b, a.Encode())
		}
		if a.Fits(host) && (a.Mode&unix.S_IFMT == unix.S_IFDIR) != (host&unix.S_IFMT == unix.S_IFDIR) {
			t.Errorf("%+v fits a host file of mode %o", a, host)
		}
		if a.IsWhiteout() && !a.IsDevice() {
			t.Errorf("%+v is a whiteout and no device", a)
		}
	})
}

// FuzzStore decodes what may be in the attributes of a store's root.
func FuzzStore(f *testing.F) {
	f.Add(EncodeStore([StoreIDSize]byte{1, 2, 3}))
	f.Add(CleanMark{Boot: "boot", Bytes: 1, Inodes: 2}.Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := DecodeStore(b); err == nil && !bytes.Equal(EncodeStore(id), b) {
			t.Errorf("%x is a store's", b)
		}
		if c, ok := DecodeClean(b); ok && !bytes.Equal(c.Encode(), b) {
			t.Errorf("%x is a mark", b)
		}
	})
}
