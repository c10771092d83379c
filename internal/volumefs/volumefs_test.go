package volumefs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// as gives a host file what a guest would have given it.
func as(t *testing.T, path string, a format.Attr) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := format.Write(fd, a); err == unix.EOPNOTSUPP {
		t.Skip("no extended attributes here")
	} else if err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOwners: a file that is there keeps its owner and mode, a new one is root's, or of its directory's group; on the host all is private.
func TestOwners(t *testing.T) {
	fs := FS{Dir: t.TempDir()}
	must(t, fs.Write("a", strings.NewReader("one")))
	as(t, filepath.Join(fs.Dir, "a"), format.Attr{Mode: unix.S_IFREG | 0o4751, UID: 70000, GID: 8})
	must(t, fs.Write("a", strings.NewReader("another")))
	must(t, fs.Mkdir("d"))
	as(t, filepath.Join(fs.Dir, "d"), format.Attr{Mode: unix.S_IFDIR | unix.S_ISGID | 0o775, GID: 9})
	must(t, fs.Write("d/sub/b", strings.NewReader("")))
	must(t, fs.Copy("a", "d/c"))
	for path, want := range map[string]Info{
		"a":       {Mode: unix.S_IFREG | 0o4751, UID: 70000, GID: 8, Size: 7},
		"d":       {Mode: unix.S_IFDIR | unix.S_ISGID | 0o775, GID: 9},
		"d/sub":   {Mode: unix.S_IFDIR | unix.S_ISGID | 0o755, GID: 9},
		"d/sub/b": {Mode: unix.S_IFREG | 0o644, GID: 9},
		"d/c":     {Mode: unix.S_IFREG | 0o4751, GID: 9, Size: 7},
	} {
		have, err := fs.Stat(path)
		if err != nil || have.Mode != want.Mode || have.UID != want.UID || have.GID != want.GID || have.Kind() == "file" && have.Size != want.Size || have.Path != "/"+path {
			t.Errorf("%s is %+v, %v; want %+v", path, have, err, want)
		}
		host, err := os.Stat(filepath.Join(fs.Dir, path))
		if err != nil || host.Mode().Perm()&0o077 != 0 || host.Mode()&os.ModeSetuid != 0 {
			t.Errorf("%s is %v on the host, %v", path, host.Mode(), err)
		}
	}
}

// TestLinks: what is a link to the guest is shown as one, and not followed.
func TestLinks(t *testing.T) {
	fs := FS{Dir: t.TempDir()}
	link := filepath.Join(fs.Dir, "link")
	must(t, os.WriteFile(link, []byte("/etc/passwd"), 0o600))
	must(t, os.Chmod(link, 0o600|os.ModeSticky))
	as(t, link, format.Attr{Mode: unix.S_IFLNK | 0o777, UID: 5})
	i, err := fs.Stat("link")
	if err != nil || i.Kind() != "symlink" || i.UID != 5 {
		t.Errorf("%+v, %v", i, err)
	}
	if _, _, err := fs.Open("link"); sandbox.KindOf(err) != sandbox.Filesystem {
		t.Errorf("open: %v", err)
	}
	if err := fs.Write("link", strings.NewReader("x")); sandbox.KindOf(err) != sandbox.Filesystem {
		t.Errorf("write: %v", err)
	}
	if err := fs.Write("link/x", strings.NewReader("x")); sandbox.KindOf(err) != sandbox.Filesystem {
		t.Errorf("write below: %v", err)
	}
}

// TestLimit: what does not fit, or ends early, changes nothing and leaves nothing.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	fs := FS{Dir: dir, Limit: 10, Used: func() (int64, error) { return sizes(t, dir), nil }}
	must(t, fs.Write("a", strings.NewReader("abc")))
	if err := fs.Write("a", strings.NewReader("12345678901")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("too much: %v", err)
	}
	if err := fs.Write("a", io.MultiReader(strings.NewReader("1"), broken{})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
	must(t, fs.Write("a", strings.NewReader("1234567890"))) // in the place of the three
	all, err := fs.List("")
	if err != nil || len(all) != 1 || all[0].Path != "/a" || all[0].Size != 10 {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// TestLimitOfMany: files that are written at the same time fit together, or do not come.
func TestLimitOfMany(t *testing.T) {
	dir := t.TempDir()
	fs := FS{Dir: dir, Limit: 10, Used: func() (int64, error) { return sizes(t, dir), nil }}
	const writers = 8
	begun, errs := make(chan struct{}, writers), make(chan error, writers)
	all := make(chan struct{})
	for i := range writers {
		go func() {
			first := true
			r := readerFunc(func(p []byte) (int, error) {
				if !first {
					return 0, io.EOF
				}
				first = false
				begun <- struct{}{}
				<-all // each has looked how much there is
				return copy(p, "12345678"), nil
			})
			errs <- fs.Write(fmt.Sprint(i), r)
		}()
	}
	for range writers {
		<-begun
	}
	close(all)
	there := 0
	for range writers {
		if err := <-errs; err == nil {
			there++
		} else if !errors.Is(err, unix.ENOSPC) {
			t.Error(err)
		}
	}
	if got := sizes(t, dir); there != 1 || got != 8 {
		t.Errorf("%d were written, %d bytes are there", there, got)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sizes is how many bytes the files of a directory have.
func sizes(t *testing.T, dir string) (n int64) {
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range all {
		if i, err := e.Info(); err == nil {
			n += i.Size()
		}
	}
	return n
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestRemove removes only what it is told to.
func TestRemove(t *testing.T) {
	fs := FS{Dir: t.TempDir()}
	must(t, fs.Write("d/e/f", strings.NewReader("x")))
	if err := fs.Remove("d", false); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a directory that is not empty: %v", err)
	}
	must(t, fs.Remove("d", true))
	if _, err := fs.Stat("d"); sandbox.KindOf(err) != sandbox.PathNotFound {
		t.Errorf("it is there: %v", err)
	}
	if err := fs.Remove("/", true); sandbox.KindOf(err) != sandbox.Filesystem {
		t.Errorf("the volume itself: %v", err)
	}
}

// FuzzPath leads any path through all methods: none leaves the volume, none panics.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"a", "/a/b", "../x", "a//../b", ".", "", "a\x00", "link/x"} {
		f.Add(p)
	}
	top := f.TempDir()
	outside := filepath.Join(top, "outside")
	if err := errors.Join(os.Mkdir(filepath.Join(top, "volume"), 0o700), os.WriteFile(outside, []byte("outside"), 0o600), os.Symlink("..", filepath.Join(top, "volume", "link"))); err != nil {
		f.Fatal(err)
	}
	fs := FS{Dir: filepath.Join(top, "volume")}
	f.Fuzz(func(t *testing.T, p string) {
		_ = fs.Write(p, strings.NewReader("inside"))
		if file, _, err := fs.Open(p); err == nil {
			if data, _ := io.ReadAll(file); string(data) != "inside" {
				t.Errorf("%q is %q", p, data)
			}
			file.Close()
		}
		_, _ = fs.List(p)
		if p != "link" && p != "/link" {
			_ = fs.Remove(p, true)
		}
		if data, err := os.ReadFile(outside); string(data) != "outside" || err != nil {
			t.Fatalf("%q led outside: %q, %v", p, data, err)
		}
	})
}
