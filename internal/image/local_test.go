package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ofDir reads a directory of this machine as ofImage reads an image.
func ofDir(t testing.TB, top string) shown {
	t.Helper()
	all := shown{}
	first := map[uint64]string{}
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&fs.ModeSocket != 0 {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(top, p)
		what, links := "", uint32(st.Nlink)
		mode := info.Mode()
		switch {
		case mode.IsDir():
			links = 0
		case mode.IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%d bytes %s", len(b), digestOfBytes(b).hex()[:16])
		case mode&fs.ModeSymlink != 0:
			if what, err = os.Readlink(p); err != nil {
				return err
			}
		case mode&fs.ModeDevice != 0:
			what = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if first[st.Ino] == "" {
			first[st.Ino] = rel
		}
		all[rel] = describe(mode, int(st.Uid), int(st.Gid), info.ModTime().UnixNano(), links, first[st.Ino], what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDirRoot(t *testing.T) {
	top := machine(t, "bin/", "bin/sh = #!", "etc/passwd = root", "link -> /etc", "deep/er/and/deeper = x", "empty/", "\xff\xfe/name = not UTF-8")
	if err := errors.Join(os.Link(filepath.Join(top, "bin/sh"), filepath.Join(top, "deep/sh")), os.Chmod(filepath.Join(top, "bin/sh"), 0o755|fs.ModeSetuid),
		unix.Mkfifo(filepath.Join(top, "pipe"), 0o600), os.Chtimes(filepath.Join(top, "empty"), time.Time{}, time.Unix(5, 6))); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Lchown(filepath.Join(top, "etc/passwd"), 70_000, 5), unix.Mknod(filepath.Join(top, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
			t.Fatal(err)
		}
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	if err := unix.Bind(sock, &unix.SockaddrUnix{Name: filepath.Join(top, "s")}); err != nil {
		t.Fatal(err)
	}
	s := Open(t.TempDir(), Options{})
	root, err := s.DirRoot(context.Background(), top)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "directory", ofImage(t, root.Path), ofDir(t, top))
	again, err := s.DirRoot(context.Background(), top+"/./")
	if err != nil || again.Path != root.Path {
		t.Errorf("unchanged: %+v, %v", again, err)
	}
	for what, change := range map[string]func(){
		"contents":   func() { write(t, filepath.Join(top, "etc/passwd"), "toor", 0o644) },
		"new file":   func() { write(t, filepath.Join(top, "deep/er/new"), "", 0o644) },
		"mode":       func() { _ = os.Chmod(filepath.Join(top, "empty"), 0o700) },
		"file's end": func() { _ = os.Remove(filepath.Join(top, "deep/sh")) },
	} {
		change()
		next, err := s.DirRoot(context.Background(), top)
		if err != nil || next.Path == again.Path {
			t.Fatalf("%s changed: %+v, %v", what, next, err)
		}
		same(t, what, ofImage(t, next.Path), ofDir(t, top))
		again = next
	}
	if _, err := s.DirRoot(context.Background(), filepath.Join(top, "none")); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := s.DirRoot(context.Background(), filepath.Dir(s.home)); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("a directory that holds MSB_HOME: %v", err)
	}
	within := filepath.Join(s.home, "within")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.MkdirAll(within, 0o755), os.Symlink(top, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DirRoot(context.Background(), within); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("a directory within MSB_HOME: %v", err)
	}
	for _, path := range []string{link, link + "/etc"} {
		if root, err := s.DirRoot(context.Background(), path); !errors.Is(err, sandbox.InvalidConfig) {
			t.Errorf("%s through a link: %+v, %v", path, root, err)
		}
	}
	o := Options{Limits: Limits{Entries: 3}}
	if _, err := Open(t.TempDir(), o).DirRoot(context.Background(), top); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many entries: %v", err)
	}
	if gone, err := s.Prune(); err != nil || gone.Bytes == 0 || len(files(t, s)) > 0 {
		t.Errorf("prune: %+v, %v, left %v", gone, err, files(t, s))
	}
}

func TestTarRoot(t *testing.T) {
	body := testimage.Tar(t, testimage.Entry{Header: tar.Header{Name: "./a", Uid: 9, Mode: 0o4755}, Body: "A"}, testimage.Entry{Header: tar.Header{Name: ".wh.b"}, Body: "no whiteout"})
	s := Open(t.TempDir(), Options{})
	for name, b := range map[string][]byte{"x.tar": body, "x.tar.gz": gzipped(t, body, 6)} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, string(b), 0o600)
		root, err := s.DirRoot(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		got := ofImage(t, root.Path)
		if len(got) != 3 || !strings.HasPrefix(got["a"], "urwxr-xr-x 9:0") || got[".wh.b"] == "" {
			t.Errorf("%s: %v", name, got)
		}
	}
	path := filepath.Join(t.TempDir(), "bad")
	write(t, path, string(bytes.Repeat([]byte("no tar "), 1000)), 0o600)
	if _, err := s.DirRoot(context.Background(), path); !errors.Is(err, sandbox.ImagePullFailed) || !errors.Is(err, ErrFormat) {
		t.Errorf("no tar: %v", err)
	}
}

// TestForeignTars reads what GNU tar writes: sparse files, long names, links, in both of its formats.
func TestForeignTars(t *testing.T) {
	gnu, err := exec.LookPath("tar")
	if err != nil {
		t.Skip(err)
	}
	long := strings.Repeat("long-name-", 20)
	top := machine(t, "a/"+long+"/"+long+" = x", "b = hard", "sym -> "+long+long, "empty/")
	sparse, err := os.Create(filepath.Join(top, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = sparse.WriteAt([]byte("in the middle"), 3<<20+5)
	if err := errors.Join(err, sparse.Truncate(9<<20+1), sparse.Close(), os.Link(filepath.Join(top, "b"), filepath.Join(top, "c"))); err != nil {
		t.Fatal(err)
	}
	s := Open(t.TempDir(), Options{})
	for _, format := range []string{"gnu", "posix"} {
		if format == "gnu" { // whole seconds only
			_ = filepath.WalkDir(top, func(p string, _ fs.DirEntry, _ error) error {
				ts := []unix.Timespec{{Sec: 1_600_000_000}, {Sec: 1_600_000_000}}
				return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
			})
		} else if err := os.Chtimes(filepath.Join(top, "b"), time.Time{}, time.Unix(1_600_000_000, 123_456_789)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "x.tar.zst")
		if out, err := exec.Command(gnu, "--format="+format, "-S", "-cf", file, "-C", top, ".").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		root, err := s.DirRoot(context.Background(), file)
		if err != nil {
			t.Fatal(err)
		}
		same(t, format, ofImage(t, root.Path), ofDir(t, top))
		if info, err := os.Stat(root.Path); err != nil || allocated(info) > 1<<20 {
			t.Errorf("%s: the sparse file takes %d bytes", format, allocated(info))
		}
	}
}
