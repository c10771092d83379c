package erofs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// model is a file system in memory that follows the rules of Writer's comments and knows nothing of the format.
type model struct{ root *file }

type file struct {
	kind    fs.FileMode
	attr    erofs.Attr
	data    []byte
	target  string
	dev     uint32
	entries map[string]*file
}

func newModel() *model {
	return &model{&file{kind: fs.ModeDir, attr: erofs.Attr{Mode: 0o755}, entries: map[string]*file{}}}
}

func (m *model) find(p string) *file {
	f := m.root
	if p == "." {
		return f
	}
	for name := range strings.SplitSeq(p, "/") {
		if f = f.entries[name]; f == nil {
			return nil
		}
	}
	return f
}

// add puts f at p and reports whether that is possible.
func (m *model) add(p string, f *file) bool {
	if p == "." {
		if f.kind == fs.ModeDir {
			m.root.attr = f.attr
		}
		return f.kind == fs.ModeDir
	}
	dir := m.root
	elements := strings.Split(path.Dir(p), "/")
	if path.Dir(p) == "." {
		elements = nil
	}
	for _, name := range elements {
		next := dir.entries[name]
		if next == nil {
			next = &file{kind: fs.ModeDir, attr: erofs.Attr{Mode: 0o755}, entries: map[string]*file{}}
			dir.entries[name] = next
		}
		if next.kind != fs.ModeDir {
			return false
		}
		dir = next
	}
	if old := dir.entries[path.Base(p)]; old != nil && old.kind == fs.ModeDir && f.kind == fs.ModeDir {
		f.entries = old.entries
	}
	dir.entries[path.Base(p)] = f
	return true
}

func (m *model) remove(p string) {
	if p == "." {
		m.root.entries = map[string]*file{}
	} else if dir := m.find(path.Dir(p)); dir != nil {
		delete(dir.entries, path.Base(p))
	}
}

// tree describes the model as the readers describe an image.
func (m *model) tree() (tree, map[string]uint32) {
	links := map[*file]uint32{}
	numbers := map[*file]uint64{}
	var count func(f *file)
	count = func(f *file) {
		links[f]++
		if numbers[f] == 0 {
			numbers[f] = uint64(len(numbers) + 1)
		}
		if f.kind == fs.ModeDir {
			links[f]++
			for _, c := range f.entries {
				count(c)
				if c.kind == fs.ModeDir {
					links[f]++
				}
			}
		}
	}
	count(m.root)
	inodes, lines, devices := map[string]uint64{}, map[string]string{}, map[string]uint32{}
	var walk func(p string, f *file)
	walk = func(p string, f *file) {
		content := f.target
		mode := f.attr.Mode
		switch {
		case f.kind == 0:
			content = sum(f.data)
		case f.kind == fs.ModeSymlink:
			mode = 0o777
		case f.kind&fs.ModeDevice != 0:
			devices[p] = f.dev
		}
		var sec int64
		var nsec uint32
		if !f.attr.ModTime.IsZero() {
			sec, nsec = f.attr.ModTime.Unix(), uint32(f.attr.ModTime.Nanosecond())
		}
		inodes[p] = numbers[f]
		lines[p] = line(unixMode(mode|f.kind), f.attr.UID, f.attr.GID, links[f], sec, nsec, numbers[f], content)
		for name, c := range f.entries {
			walk(path.Join(p, name), c)
		}
	}
	walk(".", m.root)
	return named(inodes, lines), devices
}

// both applies the same step to a Writer and the model, and finds that they agree on whether it is possible.
func both(t rapid.TB, m *model, w *erofs.Writer, what string, f *file, p, old string) {
	t.Helper()
	var err error
	ok := true
	switch what {
	case "remove":
		err = w.Remove(p)
		m.remove(p)
	case "link":
		err = w.Link(p, old)
		f = m.find(old)
		ok = f != nil && f.kind != fs.ModeDir && m.add(p, f)
	default:
		switch f.kind {
		case fs.ModeDir:
			err = w.Dir(p, f.attr)
		case 0:
			if len(p)%2 == 0 {
				err = w.File(p, f.attr, int64(len(f.data)), bytes.NewReader(f.data))
				break
			}
			s := w.Stream()
			d, e := s.Data(int64(len(f.data)), bytes.NewReader(f.data))
			if e := errors.Join(e, s.Close()); e != nil {
				t.Fatal(e)
			}
			err = w.FileAt(p, f.attr, d)
		case fs.ModeSymlink:
			err = w.Symlink(p, f.target, f.attr)
		case fs.ModeNamedPipe:
			err = w.Fifo(p, f.attr)
		default:
			err = w.Device(p, f.attr, f.kind&fs.ModeCharDevice != 0, f.dev>>8&0xfff, f.dev&0xff|f.dev>>12&0xfff00)
		}
		ok = m.add(p, f)
	}
	if ok != (err == nil) {
		t.Fatalf("%s %q (%v, to %q): the writer says %v, the model %v", what, p, f, old, err, ok)
	}
}

// checkAll compares the image with the model through every reader there is.
func checkAll(t rapid.TB, m *model, image string) {
	t.Helper()
	want, devices := m.tree()
	diff(t, "gVisor", readSentry(t, image), want)
	ours, oursDevices := readOurs(t, image)
	diff(t, "Walk", ours, want)
	if !maps.Equal(oursDevices, devices) {
		t.Errorf("devices %v, want %v", oursDevices, devices)
	}
	checkDevices(t, image)
	for p := range want {
		if !utf8.ValidString(p) {
			return // an fs.FS has no such names
		}
	}
	got, gotDevices := readReference(t, image)
	diff(t, "go-erofs", got, want)
	if !maps.Equal(gotDevices, devices) {
		t.Errorf("devices %v, want %v", gotDevices, devices)
	}
}

var (
	genName = rapid.OneOf(
		rapid.SampledFrom([]string{"a", "b", "c", ".x", "!", "é", "zz"}), // few, so that they meet
		rapid.StringMatching(`[a-z]{1,255}`),
		rapid.Custom(func(t *rapid.T) string { return "\xff\xfe" + rapid.StringMatching(`[a-z]{0,9}`).Draw(t, "raw") }),
	)
	genPath = rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(genName, 1, 4).Draw(t, "path"), "/")
	})
	genAttr = rapid.Custom(func(t *rapid.T) erofs.Attr {
		bits := rapid.Uint32Range(0, 0o7777).Draw(t, "mode")
		a := erofs.Attr{
			Mode: fs.FileMode(bits & 0o777),
			UID:  rapid.Uint32().Draw(t, "uid"),
			GID:  rapid.Uint32().Draw(t, "gid"),
		}
		for bit, mode := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
			if bits&bit != 0 {
				a.Mode |= mode
			}
		}
		if rapid.Bool().Draw(t, "dated") {
			a.ModTime = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec"))
		}
		return a
	})
	genFile = rapid.Custom(func(t *rapid.T) *file {
		f := &file{attr: genAttr.Draw(t, "attr")}
		f.kind = rapid.SampledFrom([]fs.FileMode{0, fs.ModeDir, fs.ModeSymlink, fs.ModeNamedPipe, fs.ModeDevice,
			fs.ModeDevice | fs.ModeCharDevice}).Draw(t, "kind")
		switch f.kind {
		case 0:
			f.data = make([]byte, rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(4000, 4200), rapid.Just(8192)).Draw(t, "size"))
			_, _ = (&repeat{off: int64(len(f.data))}).Read(f.data)
		case fs.ModeDir:
			f.entries = map[string]*file{}
		case fs.ModeSymlink:
			f.target = strings.Repeat("t", rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(4000, 4095)).Draw(t, "target"))
		case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			f.dev = rapid.Uint32().Draw(t, "dev")
		}
		return f
	})
)

// checkRandom writes random steps and reads them back.
func checkRandom(t *rapid.T, dir string) {
	m := newModel()
	image := filepath.Join(dir, "image.erofs")
	f, err := os.Create(image) // not Publish, which waits for the disk
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f)
	var paths []string
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		what := rapid.SampledFrom([]string{"add", "add", "add", "add", "link", "remove"}).Draw(t, "step")
		p := genPath.Draw(t, "path")
		if len(paths) > 0 && rapid.Bool().Draw(t, "again") {
			p = rapid.SampledFrom(paths).Draw(t, "which")
		}
		old := p
		if len(paths) > 0 {
			old = rapid.SampledFrom(paths).Draw(t, "old")
		}
		both(t, m, w, what, genFile.Draw(t, "file"), p, old)
		paths = append(paths, p)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	checkAll(t, m, image)
}

func TestRandomTrees(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) { checkRandom(t, dir) })
}

func FuzzWriter(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(strings.Repeat("\x01\x00\x00\x00\x00\x00\x00\x00", 64)))
	noise := make([]byte, 64<<10) // rapid takes eight bytes for a choice
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	f.Add(noise)
	dir := f.TempDir()
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { checkRandom(t, dir) }))
}
