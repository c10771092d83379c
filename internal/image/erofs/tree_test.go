package erofs_test

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	reference "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
	gvisor "gvisor.dev/gvisor/pkg/erofs"
	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// tree is what an image holds: a line for each path that says everything about the file there.
type tree map[string]string

// line describes one file. Those of different readers must be equal. The inode stands for which names are links to each other,
// and is replaced by the first of them.
func line(mode, uid, gid, nlink uint32, sec int64, nsec uint32, inode uint64, content string) string {
	return fmt.Sprintf("%06o %d:%d links %d time %d.%09d inode %d %s", mode, uid, gid, nlink, sec, nsec, inode, content)
}

// sum stands for the bytes of a file.
func sum(b []byte) string {
	h := fnv.New64a()
	h.Write(b)
	return fmt.Sprintf("%d bytes %x", len(b), h.Sum64())
}

// named replaces the inode numbers, which readers are free to choose, by the first path that has them.
func named(paths map[string]uint64, lines map[string]string) tree {
	first := map[uint64]string{}
	for _, p := range slices.Sorted(mapKeys(lines)) {
		if _, ok := first[paths[p]]; !ok {
			first[paths[p]] = p
		}
	}
	out := tree{}
	for p, l := range lines {
		out[p] = strings.Replace(l, fmt.Sprintf("inode %d ", paths[p]), fmt.Sprintf("is %q ", first[paths[p]]), 1)
	}
	return out
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// readSentry reads an image as gVisor's sentry does.
func readSentry(t rapid.TB, file string) tree {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	img, err := gvisor.OpenImage(f)
	if err != nil {
		t.Fatalf("gVisor opens the image: %v", err)
	}
	defer img.Close()
	inodes, lines := map[string]uint64{}, map[string]string{}
	var walk func(p string, nid, parent uint64)
	walk = func(p string, nid, parent uint64) {
		n, err := img.Inode(nid)
		if err != nil {
			t.Fatalf("gVisor reads the inode of %q: %v", p, err)
		}
		content := ""
		switch {
		case n.IsRegular():
			if _, err := n.DataOffset(); err != nil {
				t.Errorf("gVisor could not execute %q: %v", p, err)
			}
			ranges, err := n.DataRanges()
			if err != nil {
				t.Fatalf("gVisor reads %q: %v", p, err)
			}
			if ranges[0].Off%4096 != 0 || ranges[1].Size != 0 {
				t.Errorf("%q is not a run of whole blocks", p)
			}
			content = sum(ranges[0].Bytes)
			// What is mapped behind the end must read as zeros.
			if size := ranges[0].Size; size > 0 {
				rest, err := img.BytesAt(ranges[0].Off+size, -size&4095)
				if size%4096 != 0 && (err != nil || len(bytes.TrimLeft(rest, "\x00")) > 0) {
					t.Errorf("behind the end of %q: %v, %d bytes", p, err, len(bytes.TrimLeft(rest, "\x00")))
				}
			}
		case n.IsSymlink():
			if content, err = n.Readlink(); err != nil {
				t.Fatalf("gVisor reads the link %q: %v", p, err)
			}
		case n.IsDir():
			last := ""
			err := n.IterDirents(func(name string, typ uint8, child uint64) error {
				if name <= last {
					t.Errorf("%q comes after %q in %q", name, last, p)
				}
				last = name
				if got, err := n.Lookup(name); err != nil || got != child {
					t.Errorf("gVisor looks up %q in %q: %d, %v; listed %d", name, p, got, err, child)
				}
				switch name {
				case ".":
					if child != nid {
						t.Errorf(`"." of %q leads elsewhere`, p)
					}
				case "..":
					if child != parent {
						t.Errorf(`".." of %q leads elsewhere`, p)
					}
				default:
					walk(path.Join(p, name), child, nid)
				}
				return nil
			})
			if err != nil {
				t.Fatalf("gVisor lists %q: %v", p, err)
			}
			if _, err := n.Lookup("no such name"); err != unix.ENOENT && err == nil {
				t.Errorf("gVisor finds in %q what is not there", p)
			}
		}
		inodes[p] = nid
		lines[p] = line(uint32(n.Mode()), n.UID(), n.GID(), n.Nlink(), int64(n.Mtime()), n.MtimeNsec(), nid, content)
	}
	walk(".", img.RootNid(), img.RootNid())
	return named(inodes, lines)
}

// readReference reads an image with go-erofs, which knows the numbers of devices, too: they are returned apart.
// (Its Info().Mode() loses the sticky bit; its Stat is right.)
func readReference(t rapid.TB, file string) (tree, map[string]uint32) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := reference.Open(f)
	if err != nil {
		t.Fatalf("go-erofs opens the image: %v", err)
	}
	inodes, lines, devices := map[string]uint64{}, map[string]string{}, map[string]uint32{}
	err = fs.WalkDir(img, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*reference.Stat)
		if len(st.Xattrs) > 0 {
			t.Errorf("%q has extended attributes", p)
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			data, err := fs.ReadFile(img, p)
			if err != nil {
				return err
			}
			content = sum(data)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = fs.ReadLink(img, p); err != nil {
				return err
			}
		case info.Mode()&fs.ModeDevice != 0:
			devices[p] = st.Rdev
		}
		inodes[p] = uint64(st.Ino)
		lines[p] = line(unixMode(st.Mode), st.UID, st.GID, uint32(st.Nlink), int64(st.Mtime), st.MtimeNs, uint64(st.Ino), content)
		return nil
	})
	if err != nil {
		t.Fatalf("go-erofs reads the image: %v", err)
	}
	return named(inodes, lines), devices
}

// readOurs reads an image with Walk.
func readOurs(t rapid.TB, file string) (tree, map[string]uint32) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inodes, lines, devices := map[string]uint64{}, map[string]string{}, map[string]uint32{}
	err = erofs.Walk(f, func(e *erofs.Entry) error {
		content := e.Target
		switch {
		case e.Mode.IsRegular():
			data, err := io.ReadAll(e.Open())
			if err != nil {
				return err
			}
			content = sum(data)
		case e.Mode&fs.ModeDevice != 0:
			devices[e.Path] = e.Minor&0xff | e.Major<<8 | e.Minor&^0xff<<12
		}
		inodes[e.Path] = e.Inode
		at := e.Attr.ModTime
		lines[e.Path] = line(unixMode(e.Mode), e.Attr.UID, e.Attr.GID, e.Links, at.Unix(), uint32(at.Nanosecond()), e.Inode, content)
		return nil
	})
	if err != nil {
		t.Fatalf("Walk: %v", err)
	}
	return named(inodes, lines), devices
}

// readMounted reads a mounted image through Linux.
func readMounted(t rapid.TB, dir string) tree {
	t.Helper()
	inodes, lines := map[string]uint64{}, map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = sum(data)
		case unix.S_IFLNK:
			if content, err = os.Readlink(p); err != nil {
				return err
			}
		}
		inodes[rel] = st.Ino
		lines[rel] = line(st.Mode, st.Uid, st.Gid, uint32(st.Nlink), st.Mtim.Sec, uint32(st.Mtim.Nsec), st.Ino, content)
		return nil
	})
	if err != nil {
		t.Fatalf("Linux reads the image: %v", err)
	}
	return named(inodes, lines)
}

func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, value := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			u |= value
		}
	}
	switch {
	case m.IsRegular():
		return u | unix.S_IFREG
	case m.IsDir():
		return u | unix.S_IFDIR
	case m&fs.ModeSymlink != 0:
		return u | unix.S_IFLNK
	case m&fs.ModeCharDevice != 0:
		return u | unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		return u | unix.S_IFBLK
	case m&fs.ModeNamedPipe != 0:
		return u | unix.S_IFIFO
	}
	return u
}

// diff reports how two trees differ.
func diff(t rapid.TB, who string, got, want tree) {
	t.Helper()
	n := 0
	for _, p := range slices.Sorted(mapKeys(want)) {
		if got[p] != want[p] {
			if n++; n <= 5 {
				t.Errorf("%s: %q\n got %s\nwant %s", who, p, got[p], want[p])
			}
		}
	}
	for _, p := range slices.Sorted(mapKeys(got)) {
		if _, ok := want[p]; !ok {
			if n++; n <= 5 {
				t.Errorf("%s: %q should not be there: %s", who, p, got[p])
			}
		}
	}
	if n > 5 {
		t.Errorf("%s: %d differences in all", who, n)
	}
}

// repeat is an endless stream that differs from block to block.
type repeat struct{ off int64 }

func (r *repeat) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte((r.off + int64(i)) * 31 >> 4)
	}
	r.off += int64(len(b))
	return len(b), nil
}

var _ io.Reader = (*repeat)(nil)
