package gofer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
)

// TestPrune removes whiteouts, but for those that hide something of the image.
func TestPrune(t *testing.T) {
	const limit = 80
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store, Inodes: limit})
	root := c.fd(c.root)
	sub, err := root.MkdirAt(ctx, "etc", 0o755, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	etc := c.fd(sub)
	for i := range 10 {
		if err := mknod(c, fmt.Sprint("white", i), linux.S_IFCHR); err != nil {
			t.Fatal(err)
		}
		in, err := etc.MknodAt(ctx, fmt.Sprint("conf", i), linux.S_IFCHR, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd := c.fd(in)
		fd.Close(ctx, true)
	}
	if err := errors.Join(mknod(c, "white", linux.S_IFREG), mknod(c, "device", linux.S_IFREG)); err != nil {
		t.Fatal(err)
	}
	etc.Close(ctx, true)
	c.close()
	image := map[string]map[string]bool{"/": {"white3": true, "etc": true}, "/etc": {"conf0": true, "conf9": true, "white": true}}
	var asked []string
	below := func(dir string) (map[string]bool, error) {
		asked = append(asked, dir)
		return image[dir], nil
	}
	if n, err := Prune(dir, 0, below); n != 0 || err != nil || len(asked) != 0 {
		t.Errorf("without a limit: %d, %v, %q", n, err, asked)
	}
	n, err := Prune(dir, limit, below)
	if n != 17 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if slices.Sort(asked); !slices.Equal(asked, []string{"/", "/etc"}) {
		t.Errorf("asked for %q", asked)
	}
	var left []string
	for _, pattern := range []string{"*", "etc/*"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, f := range found {
			name, _ := filepath.Rel(dir, f)
			left = append(left, name)
		}
	}
	if slices.Sort(left); !slices.Equal(left, []string{"device", "etc", "etc/conf0", "etc/conf9", "white", "white3"}) {
		t.Errorf("left is %q", left)
	}

	// It is not looked through again before it has grown by an eighth of the limit.
	asked = nil
	if n, err := Prune(dir, limit, below); n != 0 || err != nil || len(asked) != 0 {
		t.Errorf("again: %d, %v, %q", n, err, asked)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	grow := func(from, to int) {
		t.Helper()
		c := serveBoot(t, dir, Mount{Target: "/x", Stat: Store, Inodes: limit}, boot)
		if want := uint64(from + 6); c.used.inodes.Load() != want {
			t.Errorf("%d files, want %d", c.used.inodes.Load(), want)
		}
		for i := from; i < to; i++ {
			if err := mknod(c, fmt.Sprint("more", i), linux.S_IFCHR); err != nil {
				t.Fatal(err)
			}
		}
		c.close()
	}
	grow(0, 9)
	if n, err := Prune(dir, limit, below); n != 0 || err != nil || len(asked) != 0 {
		t.Errorf("a little grown: %d, %v, %q", n, err, asked)
	}
	grow(9, 10)
	if n, err := Prune(dir, limit, below); n != 10 || err != nil {
		t.Errorf("grown: %d, %v", n, err)
	}
	grow(0, 5)

	// What is below cannot be read: all stays. Nor is a directory touched that is no store, or one that is in use.
	if err := unix.Removexattr(dir, "user.microsandbox.clean"); err != nil {
		t.Fatal(err)
	}
	if n, err := Prune(dir, limit, func(string) (map[string]bool, error) { return nil, unix.EIO }); n != 0 || err != nil {
		t.Errorf("nothing known: %d, %v", n, err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Prune(other, limit, below); n != 0 || err != nil {
		t.Errorf("no store: %d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(other, "file")); err != nil {
		t.Error(err)
	}
}
