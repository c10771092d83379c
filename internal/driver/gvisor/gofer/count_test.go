package gofer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
)

func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestCountDeep counts a tree that is deeper than files may be open, and that has something beside the way down.
func TestCountDeep(t *testing.T) {
	const depth = 4200
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := atomicfile.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	at := openDir(t, dir)
	for n := range depth {
		if n%100 == 0 {
			must(0, unix.Mkdirat(at, "beside", 0o700))
		}
		must(0, unix.Mkdirat(at, "down", 0o700))
		next := must(unix.Openat(at, "down", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
		unix.Close(at)
		at = next
	}
	file := must(unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600))
	if _, err := unix.Write(file, []byte("seven b")); err != nil {
		t.Fatal(err)
	}
	unix.Close(file)
	unix.Close(at)
	root := openDir(t, dir)
	defer unix.Close(root)
	if bytes, inodes, err := count(root, false); bytes != 7 || inodes != depth+depth/100+1 || err != nil {
		t.Errorf("%d bytes, %d files, %v", bytes, inodes, err)
	}
}

// TestCountWhileDirectoriesMove goes up from directories that are not where they were.
func TestCountWhileDirectoriesMove(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	root := openDir(t, dir)
	defer unix.Close(root)
	key := func(path string) inodeKey {
		fd := openDir(t, filepath.Join(dir, path))
		defer unix.Close(fd)
		st := must(statOf(fd))
		return keyOf(&st)
	}
	way := []level{{key: key("")}, {name: "a", key: key("a")}, {name: "b", key: key("a/b")}}
	below := openDir(t, filepath.Join(dir, "a/b/c"))
	defer unix.Close(below)
	for _, step := range []struct {
		from, to, want string
		depth          int
	}{{"", "", "a/b", 3}, {"a/b/c", "x", "a/b", 3}, {"a/b", "y", "a", 2}, {"a", "z", "", 1}} {
		if step.from != "" {
			if err := os.Rename(filepath.Join(dir, step.from), filepath.Join(dir, step.to)); err != nil {
				t.Fatal(err)
			}
		}
		want := key(step.want)
		fd, depth, err := goUp(root, below, way)
		if err != nil {
			t.Fatal(err)
		}
		if st := must(statOf(fd)); keyOf(&st) != want || depth != step.depth {
			t.Errorf("after %s became %s: depth %d, want %d", step.from, step.to, depth, step.depth)
		}
		unix.Close(fd)
	}
}
