package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// corners writes at least one of everything that the layout treats in a way of its own.
func corners(t testing.TB, m *model, w *erofs.Writer) {
	t.Helper()
	date := time.Unix(1_700_000_000, 123_456_789)
	add := func(p string, f *file) {
		if f.attr.ModTime.IsZero() {
			f.attr.ModTime = date
		}
		both(t, m, w, "add", f, p, "")
	}
	data := func(n int) []byte {
		b := make([]byte, n)
		_, _ = (&repeat{}).Read(b)
		return b
	}
	add(".", &file{kind: fs.ModeDir, attr: erofs.Attr{Mode: 0o755}})
	add("tmp", &file{kind: fs.ModeDir, attr: erofs.Attr{Mode: 0o777 | fs.ModeSticky}, entries: map[string]*file{}})
	add("su", &file{attr: erofs.Attr{Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid}, data: data(10)})
	add("owned", &file{attr: erofs.Attr{Mode: 0o600, UID: 70_000, GID: 4_294_967_294}, data: data(1)})
	add("old", &file{attr: erofs.Attr{ModTime: time.Unix(-5, 7)}, data: data(4)})
	for _, size := range []int{0, 1, 31, 32, 33, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 1<<20 - 1, 1 << 20, 1<<20 + 4097} {
		add(fmt.Sprintf("size/%d", size), &file{attr: erofs.Attr{Mode: 0o644}, data: data(size)})
	}
	for _, n := range []int{1, 59, 60, 4031, 4032, 4033, 4094, 4095} {
		add(fmt.Sprintf("link/%d", n), &file{kind: fs.ModeSymlink, target: strings.Repeat("x", n)})
	}
	add("dev/null", &file{kind: fs.ModeDevice | fs.ModeCharDevice, attr: erofs.Attr{Mode: 0o666}, dev: 0x103})
	add("dev/big", &file{kind: fs.ModeDevice, attr: erofs.Attr{Mode: 0o660, GID: 6}, dev: 0xfff0fffe})
	add("dev/pipe", &file{kind: fs.ModeNamedPipe, attr: erofs.Attr{Mode: 0o600}})
	add("chroot/dev/zero", &file{kind: fs.ModeDevice | fs.ModeCharDevice, attr: erofs.Attr{Mode: 0o620 | fs.ModeSticky, UID: 3, GID: 70_000}, dev: 0x105})
	both(t, m, w, "link", nil, "chroot/zero-too", "chroot/dev/zero")
	add("chroot/whiteout", &file{kind: fs.ModeDevice | fs.ModeCharDevice})
	add("chroot/none", &file{kind: fs.ModeDevice})
	add("not-utf8-\xff", &file{kind: fs.ModeDevice, dev: 0x801})
	// Directories whose last block is nearly full, so that it does not fit behind the inode; whose names are longest; many.
	for n := 1; n < 420; n += 7 {
		add(fmt.Sprintf("wide/%d/%s", n, strings.Repeat("n", 255)), &file{})
		for i := range n {
			add(fmt.Sprintf("wide/%d/%d", n, i), &file{attr: erofs.Attr{Mode: 0o600}})
		}
	}
	for i := range 100 {
		add(fmt.Sprintf("long/%d%s", i, strings.Repeat("é", 126)), &file{kind: fs.ModeDir, entries: map[string]*file{}})
	}
	add("deep/"+strings.Repeat("d/", 200)+"leaf", &file{data: data(3)})
	// Links, also across directories, to what is removed afterwards, and to what is replaced.
	add("a/one", &file{data: data(5000)})
	both(t, m, w, "link", nil, "b/two", "a/one")
	both(t, m, w, "link", nil, "b/three", "b/two")
	both(t, m, w, "remove", nil, "a", "")
	both(t, m, w, "link", nil, "b/dev", "dev/null")
	both(t, m, w, "link", nil, "b/symlink", "link/60")
	add("dev/null", &file{data: data(9)})
	add("size", &file{data: data(2)}) // a file over a directory
	both(t, m, w, "remove", nil, "nothing/here", "")
}

// image writes what fill says into a file of its own.
func image(t testing.TB, fill func(*erofs.Writer)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.erofs")
	if err := erofs.Publish(path, func(w *erofs.Writer) error { fill(w); return nil }); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCorners(t *testing.T) {
	m := newModel()
	file := image(t, func(w *erofs.Writer) { corners(t, m, w) })
	checkAll(t, m, file)

	t.Run("lookup", func(t *testing.T) {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n := 0
		if err := erofs.Walk(f, func(want *erofs.Entry) error {
			n++
			if n%97 != 0 && strings.HasPrefix(want.Path, "wide/") { // they are many
				return nil
			}
			got, err := erofs.Lookup(f, "/"+want.Path)
			if err != nil || got.Path != want.Path || got.Inode != want.Inode || got.Attr != want.Attr || got.Mode != want.Mode {
				t.Errorf("%s: %+v, %v", want.Path, got, err)
			}
			return nil
		}); err != nil || n < 1000 {
			t.Errorf("%d names, %v", n, err)
		}
		for _, p := range []string{"none", "su/x", "tmp/../su/y", "link/1/x"} {
			if e, err := erofs.Lookup(f, p); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %+v, %v", p, e, err)
			}
		}
	})
	t.Run("fsck", func(t *testing.T) {
		fsck, err := exec.LookPath("fsck.erofs")
		if err != nil {
			t.Skip("no fsck.erofs (package erofs-utils)")
		}
		if out, err := exec.Command(fsck, file).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("linux", func(t *testing.T) {
		want, _ := m.tree()
		diff(t, "Linux", readMounted(t, mount(t, file)), want)
	})
	t.Run("same bytes", func(t *testing.T) {
		again := image(t, func(w *erofs.Writer) { corners(t, newModel(), w) })
		a, errA := os.ReadFile(file)
		b, errB := os.ReadFile(again)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("the same steps gave different images: %v %v", errA, errB)
		}
	})
}

// mount mounts the image in a mount namespace of this goroutine's thread, which ends with the test.
func mount(t *testing.T, file string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount a block device")
	}
	dir := t.TempDir()
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skip("no mount namespace: ", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	loop, err := exec.Command("losetup", "-f", "--show", "-r", file).Output()
	if err != nil {
		t.Skip("no loop device: ", err)
	}
	device := strings.TrimSpace(string(loop))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	if err := unix.Mount(device, dir, "erofs", unix.MS_RDONLY, ""); errors.Is(err, unix.ENODEV) {
		t.Skip("this Linux has no erofs")
	} else if err != nil {
		t.Fatal("Linux refuses the image: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestExecutesFromMount(t *testing.T) {
	self, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Skip(err)
	}
	dir := mount(t, image(t, func(w *erofs.Writer) {
		if err := w.File("bin/true", erofs.Attr{Mode: 0o755}, int64(len(self)), bytes.NewReader(self)); err != nil {
			t.Fatal(err)
		}
	}))
	if out, err := exec.Command(filepath.Join(dir, "bin/true")).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

func TestHundredThousandInOneDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	const n = 100_000
	file := image(t, func(w *erofs.Writer) {
		for i := range n {
			if err := w.File(fmt.Sprintf("d/file-%07d", i*7919%n), erofs.Attr{Mode: 0o644}, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
	got := readSentry(t, file)
	if len(got) != n+2 {
		t.Errorf("%d files, want %d and two directories", len(got), n)
	}
}

// TestMemory writes a large image of many files and looks at how much was in memory at the end, when it is most.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	const files, size = 40_000, 20_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := erofs.NewWriter(discard{})
	for i := range files {
		if err := w.File(fmt.Sprintf("usr/lib/%d/a-file-with-a-name-%d", i/100, i), erofs.Attr{Mode: 0o644}, size, &repeat{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(w)
	// All that was ever allocated is an upper bound of what was in use.
	if all := (after.TotalAlloc - before.TotalAlloc) >> 20; all > 48 {
		t.Errorf("an image of %d MiB took %d MiB of memory", files*size>>20, all)
	}
}

// discard is an output that keeps nothing.
type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func TestRefusals(t *testing.T) {
	w := erofs.NewWriter(discard{})
	ok := erofs.Attr{Mode: 0o755}
	if err := errors.Join(w.Dir("d", ok), w.File("f", ok, 1, strings.NewReader("x"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"empty path", w.Dir("", ok), erofs.ErrName},
		{"absolute path", w.Dir("/d", ok), erofs.ErrName},
		{"parent", w.Dir("d/../e", ok), erofs.ErrName},
		{"only parent", w.File("..", ok, 0, nil), erofs.ErrName},
		{"trailing slash", w.Dir("d/", ok), erofs.ErrName},
		{"NUL", w.Fifo("a\x00b", ok), erofs.ErrName},
		{"long name", w.Fifo(strings.Repeat("n", 256), ok), erofs.ErrName},
		{"file as root", w.File(".", ok, 0, nil), erofs.ErrName},
		{"below a file", w.Dir("f/x", ok), erofs.ErrParent},
		{"empty target", w.Symlink("l", "", ok), erofs.ErrTarget},
		{"long target", w.Symlink("l", strings.Repeat("t", 4096), ok), erofs.ErrTarget},
		{"NUL in target", w.Symlink("l", "a\x00", ok), erofs.ErrTarget},
		{"link to nothing", w.Link("l", "none"), fs.ErrNotExist},
		{"link to a directory", w.Link("l", "d"), erofs.ErrIsDir},
		{"short file", w.File("s", ok, 3, strings.NewReader("xy")), io.ErrUnexpectedEOF},
		{"bad parent of a removal", w.Remove("d/../x"), erofs.ErrName},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, c.err, c.want)
		}
		if pe := (*fs.PathError)(nil); !errors.As(c.err, &pe) {
			t.Errorf("%s: the error does not name the path: %v", c.what, c.err)
		}
	}
	if w.File("neg", ok, -1, nil) == nil || w.Device("dev", ok, true, 1<<12, 0) == nil || w.Device("dev", ok, true, 0, 1<<20) == nil {
		t.Error("a size below zero or a device number that cannot be was accepted")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil {
		t.Error("a second Close succeeded")
	}
	if err := w.Dir("late", ok); err == nil {
		t.Error("an entry was added after Close")
	}
}

// TestGoesOnAfterAFailedFile finds that a file whose source failed leaves no trace in the tree.
func TestGoesOnAfterAFailedFile(t *testing.T) {
	m := newModel()
	file := image(t, func(w *erofs.Writer) {
		if err := w.File("x", erofs.Attr{}, 5000, strings.NewReader("too little")); err == nil {
			t.Error("a short file was accepted")
		}
		both(t, m, w, "add", &file{data: []byte("whole")}, "y", "")
	})
	checkAll(t, m, file)
}

// limited fails to write behind its end, like a full disk.
type limited int64

func (l limited) WriteAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > int64(l) {
		return 0, unix.ENOSPC
	}
	return len(b), nil
}

func TestFullDisk(t *testing.T) {
	for _, room := range []limited{0, 4096, 1 << 20, 2 << 20} {
		w := erofs.NewWriter(room)
		err := w.File("big", erofs.Attr{}, 3<<20, &repeat{})
		if err == nil {
			err = w.File("small", erofs.Attr{}, 1, &repeat{})
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}

func TestPublishLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	boom := errors.New("boom")
	if err := erofs.Publish(filepath.Join(dir, "x"), func(*erofs.Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("%v, want boom", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// BenchmarkWriter measures the writer without a disk: files of 16 KiB, as they come from an image layer.
func BenchmarkWriter(b *testing.B) {
	data := make([]byte, 16<<10)
	b.SetBytes(int64(1000 * len(data)))
	for b.Loop() {
		w := erofs.NewWriter(discard{})
		for i := range 1000 {
			if err := w.File(fmt.Sprintf("usr/lib/%d/%d", i/50, i), erofs.Attr{Mode: 0o644}, int64(len(data)), bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
