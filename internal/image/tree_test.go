package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// shown says, for each path of a file system, everything about the file there on one line.
type shown map[string]string

// ofImage reads an EROFS file.
func ofImage(t testing.TB, file string) shown {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := shown{}
	first := map[uint64]string{}
	err = erofs.Walk(f, func(e *erofs.Entry) error {
		what := e.Target
		switch {
		case e.Mode.IsRegular():
			h := sha256.New()
			if _, err := io.Copy(h, e.Open()); err != nil {
				return err
			}
			what = fmt.Sprintf("%d bytes %x", e.Size, h.Sum(nil)[:8])
		case e.Mode&fs.ModeDevice != 0:
			what = fmt.Sprintf("%d:%d", e.Major, e.Minor)
		}
		if first[e.Inode] == "" {
			first[e.Inode] = e.Path
		}
		links := e.Links
		if e.Mode.IsDir() {
			links = 0 // every reader counts them in its own way
		}
		all[e.Path] = describe(e.Mode, int(e.Attr.UID), int(e.Attr.GID), e.Attr.ModTime.UnixNano(), links, first[e.Inode], what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func describe(mode fs.FileMode, uid, gid int, mtime int64, links uint32, first, what string) string {
	return fmt.Sprintf("%v %d:%d at %d, %d links, is %q: %s", mode, uid, gid, mtime, links, first, what)
}

// simple is a file system in memory to which tars are applied one entry after another, as plainly as can be.
// It knows nothing of how images are converted.
type simple struct {
	files map[string]*simpleFile
}

type simpleFile struct {
	h     tar.Header
	data  string
	layer int
}

// apply puts one layer over what is there. Whiteouts come first: they are about the layers below only.
func (s *simple) apply(t testing.TB, layer int, tarball []byte) {
	t.Helper()
	type entry struct {
		h    *tar.Header
		data []byte
	}
	var entries []entry
	for tr := tar.NewReader(bytes.NewReader(tarball)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		h.Name = path.Clean("/" + h.Name)[1:]
		entries = append(entries, entry{h, data})
	}
	for _, e := range entries {
		dir, base := path.Split(e.h.Name)
		dir = strings.TrimSuffix(dir, "/")
		if base == whiteoutOpaque {
			for p := range s.files {
				if p != dir && (dir == "" || strings.HasPrefix(p, dir+"/")) {
					delete(s.files, p)
				}
			}
		} else if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
			s.remove(path.Join(dir, hidden))
		}
	}
	for _, e := range entries {
		name := e.h.Name
		if name == "" {
			name = "."
		}
		for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if f := s.files[dir]; f == nil || f.h.Typeflag != tar.TypeDir {
				s.files[dir] = &simpleFile{h: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, layer: layer}
			}
		}
		if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
			continue // but the directory that it is in is there
		}
		file := &simpleFile{h: *e.h, data: string(e.data), layer: layer}
		if e.h.Typeflag == tar.TypeLink {
			if file = s.files[path.Clean("/" + e.h.Linkname)[1:]]; file == nil {
				t.Fatalf("%s: a link to %s, which is not there", name, e.h.Linkname)
			}
		}
		if old := s.files[name]; old != nil && e.h.Typeflag != tar.TypeDir {
			s.remove(name)
		}
		s.files[name] = file
	}
}

func (s *simple) remove(name string) {
	for p := range s.files {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(s.files, p)
		}
	}
}

func (s *simple) shown() shown {
	links := map[*simpleFile]uint32{}
	first := map[*simpleFile]string{}
	// The order of the reader: depth first, a directory before what is in it, names by their bytes.
	paths := slices.SortedFunc(maps.Keys(s.files), func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) })
	for _, p := range paths {
		f := s.files[p]
		links[f]++
		if first[f] == "" {
			first[f] = p
		}
	}
	all := shown{}
	for _, p := range paths {
		f := s.files[p]
		mode, what, n := fileMode(f.h.Mode), "", links[f]
		switch f.h.Typeflag {
		case tar.TypeDir:
			mode |= fs.ModeDir
			n = 0
		case tar.TypeSymlink:
			mode, what = 0o777|fs.ModeSymlink, f.h.Linkname
		case tar.TypeFifo:
			mode |= fs.ModeNamedPipe
		case tar.TypeChar, tar.TypeBlock:
			if mode |= fs.ModeDevice; f.h.Typeflag == tar.TypeChar {
				mode |= fs.ModeCharDevice
			}
			what = fmt.Sprintf("%d:%d", f.h.Devmajor, f.h.Devminor)
		default:
			sum := sha256.Sum256([]byte(f.data))
			what = fmt.Sprintf("%d bytes %x", len(f.data), sum[:8])
		}
		mtime := f.h.ModTime.UnixNano()
		if f.h.ModTime.IsZero() {
			mtime = 0
		}
		all[p] = describe(mode, f.h.Uid, f.h.Gid, mtime, n, first[f], what)
	}
	return all
}

// modelOf applies the layers of an image.
func modelOf(t testing.TB, img v1.Image) *simple {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	s := &simple{files: map[string]*simpleFile{".": {h: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}}}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		plain, err := decompress(r)
		if err != nil {
			t.Fatal(err)
		}
		tarball, err := io.ReadAll(plain)
		if err != nil {
			t.Fatal(err)
		}
		s.apply(t, i, tarball)
	}
	return s
}

// same reports how two file systems differ.
func same(t testing.TB, who string, got, want shown) {
	t.Helper()
	n := 0
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			if n++; n <= 5 {
				t.Errorf("%s: %q\n got %s\nwant %s", who, p, got[p], want[p])
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(got)) {
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
