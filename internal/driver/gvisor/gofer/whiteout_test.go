package gofer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// move renames as gVisor's overlay does: with a whiteout at the old name.
func move(t *testing.T, c *client, from, to string) error {
	t.Helper()
	root := c.fd(c.root)
	if err := root.RenameAt(ctx, from, root.ID(), to, 0); err != nil {
		return err
	}
	if err := mknod(c, from, linux.S_IFCHR); err != nil {
		t.Fatalf("a whiteout: %v", err)
	}
	return nil
}

// mknod makes a file that nobody has open.
func mknod(c *client, name string, mode linux.FileMode) error {
	root := c.fd(c.root)
	in, err := root.MknodAt(ctx, name, mode, 0, 0, 0, 0)
	if err == nil {
		fd := c.fd(in)
		fd.Close(ctx, true)
	}
	return err
}

// TestWhiteoutsCount renames for ever: each leaves a whiteout, which is a file of the host's.
func TestWhiteoutsCount(t *testing.T) {
	const limit = 8
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store, Inodes: limit})
	root := c.fd(c.root)
	if err := mknod(c, "f0", linux.S_IFREG); err != nil {
		t.Fatal(err)
	}
	moves := 0
	var err error
	for ; err == nil && moves < 100; moves++ {
		err = move(t, c, fmt.Sprintf("f%d", moves), fmt.Sprintf("f%d", moves+1))
	}
	if !errors.Is(err, unix.ENOSPC) || moves != limit {
		t.Errorf("after %d renames with a limit of %d: %v", moves, limit, err)
	}
	if err := mknod(c, "new", linux.S_IFREG); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a new file: %v", err)
	}
	if err := mknod(c, "deleted", linux.S_IFCHR); err != nil {
		t.Errorf("a whiteout: %v", err)
	}
	if n := c.used.inodes.Load(); n != limit+1 {
		t.Errorf("counted %d", n)
	}
	for _, name := range []string{"f0", "f1", "f2"} { // as the overlay does it for a file that takes the place
		if err := root.UnlinkAt(ctx, name, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"f0", "f1"} {
		if err := mknod(c, name, linux.S_IFREG); err != nil {
			t.Fatal(err)
		}
	}
	if err := move(t, c, "f0", "f1"); err != nil { // takes a file, leaves a whiteout
		t.Errorf("a rename that makes nothing more: %v", err)
	}
	if n := c.used.inodes.Load(); n != limit {
		t.Errorf("counted %d", n)
	}
	c.close()
	if c = serve(t, dir, Mount{Target: "/x", Stat: Store, Inodes: limit}); c.used.inodes.Load() != limit {
		t.Errorf("counted %d when opened again", c.used.inodes.Load())
	}
}

// TestWhiteoutsOfAVolume makes devices 0:0 in a volume, where they are files like others.
func TestWhiteoutsOfAVolume(t *testing.T) {
	const limit = 3
	c := serve(t, t.TempDir(), Mount{Target: "/x", Stat: Strict, Inodes: limit})
	for n := range limit + 1 {
		err := mknod(c, fmt.Sprint(n), linux.S_IFCHR)
		if n < limit && err != nil || n == limit && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("number %d: %v", n, err)
		}
	}
	if n := c.used.inodes.Load(); n != limit {
		t.Errorf("counted %d", n)
	}
}

// TestStoreOfVersion1 opens a store with a mark from when whiteouts were not counted.
func TestStoreOfVersion1(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store})
	if err := errors.Join(mknod(c, "a", linux.S_IFREG), mknod(c, "b", linux.S_IFREG), move(t, c, "a", "c"), move(t, c, "b", "d")); err != nil {
		t.Fatal(err)
	}
	c.close()
	mark := append(binary.LittleEndian.AppendUint64(make([]byte, 8), 2), "this boot"...)
	if err := unix.Setxattr(dir, format.CleanName, mark, 0); err != nil {
		t.Fatal(err)
	}
	if c = serve(t, dir, Mount{Target: "/x", Stat: Store}); c.used.inodes.Load() != 4 {
		t.Errorf("counted %d, want 4", c.used.inodes.Load())
	}
}
