package atomicfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
)

// TestRemoveAllDeep removes a tree with more levels than files may be open, and whose path is longer than one may be.
func TestRemoveAllDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := unix.Mkdirat(at, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
	}
	unix.Close(at)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 200, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err = atomicfile.RemoveAll(dir)
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if _, stat := os.Lstat(dir); err != nil || !os.IsNotExist(stat) {
		t.Errorf("removed with %v, then %v", err, stat)
	}
}

func TestRemoveAll(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	if err := os.MkdirAll(filepath.Join(outside, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	for n := range 1100 { // more than are remembered at a time
		if err := os.MkdirAll(filepath.Join(tree, "a", fmt.Sprint(n), "full"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "a/7/file"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"tree/link", "tree/a/9/link", "link"} {
		if err := os.Symlink(outside, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"tree", "tree", "none/at/all", "link", "outside/kept"} {
		if path == "outside/kept" {
			if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
				t.Errorf("a link was followed: %v", err)
			}
		}
		if err := atomicfile.RemoveAll(filepath.Join(dir, path)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, path)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}

// TestRemoveAllThatCannot removes all but what stays.
func TestRemoveAllThatCannot(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"a/b", "a/mount/in", "z"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stays := filepath.Join(tree, "a/mount")
	if err := unix.Mount("stays", stays, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("nothing that cannot be removed: ", err)
	}
	err := atomicfile.RemoveAll(tree)
	if e := unix.Unmount(stays, 0); e != nil {
		t.Error(e)
	}
	if n := names(t, tree); err == nil || len(n) != 1 {
		t.Errorf("%v; left: %v", err, n)
	}
	if n := names(t, filepath.Join(tree, "a")); len(n) != 1 {
		t.Errorf("left: %v", n)
	}
}

func TestRemoveAllTogether(t *testing.T) {
	for range 10 {
		tree := filepath.Join(t.TempDir(), "tree")
		for n := range 64 {
			if err := os.MkdirAll(filepath.Join(tree, fmt.Sprintf("%d/%d/%d", n%4, n%16, n)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := atomicfile.RemoveAll(tree); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if _, err := os.Lstat(tree); !os.IsNotExist(err) {
			t.Errorf("it is there: %v", err)
		}
	}
}
