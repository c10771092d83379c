package gofer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/unet"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// client is a connection to a server in this process, without any sandbox.
type client struct {
	*lisafs.Client
	root  lisafs.Inode
	used  *slot
	m     *mount
	close func()
}

// serve serves a directory. It is closed with the test, or by close.
func serve(t testing.TB, dir string, conf Mount) *client {
	t.Helper()
	return serveBoot(t, dir, conf, "this boot")
}

func serveBoot(t testing.TB, dir string, conf Mount, boot string) *client {
	t.Helper()
	proc, err := unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{used: new(slot)}
	s := &server{boot: boot, proc: proc}
	if c.m, err = s.open(conf, tree, c.used); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*unet.Socket
	for i, fd := range fds {
		if ends[i], err = unet.NewSocket(fd); err != nil {
			t.Fatal(err)
		}
	}
	server := lisafs.NewServer()
	conn, err := server.CreateConnection(ends[0], "/mnt", lisafs.ConnectionOpts{WalkStatSupported: true, SetAttrOnDeleted: true, AllocateOnDeleted: true, OpenOnDeleted: true}, c.m)
	if err != nil {
		t.Fatal(err)
	}
	server.StartConnection(conn)
	var fd int
	if c.Client, c.root, fd, err = lisafs.NewClient(ends[1]); err != nil {
		t.Fatal(err)
	}
	if fd >= 0 {
		t.Error("the client got a file descriptor of the host")
	}
	var once sync.Once
	c.close = func() {
		once.Do(func() {
			c.Close()
			server.Wait()
			if n := len(c.m.inodes); n > 0 {
				t.Errorf("%d inodes are left after the end", n)
			}
			server.Destroy()
			for _, fd := range []int{c.m.root, c.m.tree, proc} {
				unix.Close(fd)
			}
		})
	}
	t.Cleanup(c.close)
	return c
}

func (c *client) fd(i lisafs.Inode) lisafs.ClientFD { return c.NewFD(i.ControlFD) }

var ctx = context.Background()

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestAnnotation writes mounts into a spec and reads them, and refuses what could not be served.
func TestAnnotation(t *testing.T) {
	want := []Mount{{Target: "/a", Stat: Store, Bytes: 1}, {Target: "/b", Stat: Off, UID: 5, Mirror: true, Inodes: 7}}
	a := map[string]string{}
	if err := Annotate(a, want); err != nil || !Wanted(a) {
		t.Fatal(err)
	}
	if have, err := mountsOf(a); err != nil || !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v, %v", have, err)
	}
	if have, err := mountsOf(nil); err != nil || have != nil || Wanted(nil) {
		t.Errorf("have %+v, %v", have, err)
	}
	for _, bad := range [][]Mount{{{Target: "a", Stat: Store}}, {{Target: "/a"}}, {{Target: "/a", Stat: "exact"}}, {{Target: "/a", Stat: Off}, {Target: "/a/", Stat: Off}},
		make([]Mount, maxMounts+1)} {
		if err := Annotate(map[string]string{}, bad); err == nil {
			t.Errorf("%+v went well", bad[:1])
		}
	}
	for _, text := range []string{"{}", "[", `[{"Target":"a","Stat":"off"}]`} {
		if have, err := mountsOf(map[string]string{annotation: text}); err == nil {
			t.Errorf("%s is %+v", text, have)
		}
	}
}

// TestSource has another directory take the place of one that was looked at.
func TestSource(t *testing.T) {
	open := func(dir string) int {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	one, other := open(t.TempDir()), open(t.TempDir())
	var st unix.Stat_t
	if err := unix.Fstat(one, &st); err != nil {
		t.Fatal(err)
	}
	m := Mount{Target: "/x", Stat: Off, Source: &[2]uint64{st.Dev, st.Ino}}
	if err := m.checkSource(one); err != nil {
		t.Errorf("the same: %v", err)
	}
	if err := m.checkSource(other); err == nil {
		t.Error("another directory was taken for the one")
	}
}

// TestCrash leaves what a gofer that is killed may leave: a directory and, where files cannot be made without a name, a
// file, that have no attribute yet. The next one removes them, and nothing else.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store})
	root := c.fd(c.root)
	sub := must(root.MkdirAt(ctx, "kept", 0o755, 0, 0))
	subFD := c.fd(sub)
	must(subFD.SymlinkAt(ctx, "link", "target", 0, 0))
	c.close()
	for _, f := range []func() error{
		func() error { return os.Mkdir(filepath.Join(dir, "kept", "half"), 0o700) },
		func() error { return os.WriteFile(filepath.Join(dir, "half"), nil, 0o600) },
		func() error { return os.WriteFile(filepath.Join(dir, "foreign"), []byte("of the host"), 0o600) },
		func() error { return unix.Removexattr(dir, format.CleanName) }, // it was not closed
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	c = serve(t, dir, Mount{Target: "/x", Stat: Store})
	for name, stays := range map[string]bool{"kept": true, "kept/link": true, "foreign": true, "kept/half": false, "half": false} {
		if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, n := c.used.bytes.Load(), c.used.inodes.Load(); b != uint64(len("target")+len("of the host")) || n != 3 {
		t.Errorf("counted %d bytes, %d files", b, n)
	}
}

// TestNoTmpfile makes files where the host's file system has no O_TMPFILE.
func TestNoTmpfile(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store})
	c.m.noTmpfile.Store(true)
	root := c.fd(c.root)
	made, open, _, err := root.OpenCreateAt(ctx, "f", unix.O_RDWR, linux.S_IFREG|0o4755, 5, 6)
	if err != nil {
		t.Fatal(err)
	}
	_ = open
	if made.Stat.Mode != unix.S_IFREG|0o4755 || made.Stat.UID != 5 || made.Stat.GID != 6 {
		t.Errorf("have %+v", made.Stat)
	}
	node := must(root.MknodAt(ctx, "null", linux.S_IFCHR|0o666, 0, 0, 3, 1))
	if node.Stat.RdevMajor != 1 || node.Stat.RdevMinor != 3 {
		t.Errorf("have %+v", node.Stat)
	}
	if _, _, _, err := root.OpenCreateAt(ctx, "f", unix.O_RDWR, linux.S_IFREG|0o600, 0, 0); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second time: %v", err)
	}
	if n := c.used.inodes.Load(); n != 2 {
		t.Errorf("counted %d files", n)
	}
}

// TestSync follows which directories have an entry that is not on the disk.
func TestSync(t *testing.T) {
	c := serve(t, t.TempDir(), Mount{Target: "/x", Stat: Store})
	root := c.fd(c.root)
	a := c.fd(must(root.MkdirAt(ctx, "a", 0o755, 0, 0)))
	b := c.fd(must(a.MkdirAt(ctx, "b", 0o755, 0, 0)))
	_, open, _, err := b.OpenCreateAt(ctx, "f", unix.O_RDWR, linux.S_IFREG|0o600, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	dirty := func() (n int) {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		for _, in := range c.m.inodes {
			in.mu.Lock()
			if in.home != nil {
				n++
			}
			in.mu.Unlock()
		}
		return n
	}
	if n := dirty(); n != 3 {
		t.Errorf("%d entries are not on the disk, want 3", n)
	}
	if err := c.SyncFDs(ctx, []lisafs.FDID{open}); err != nil {
		t.Fatal(err)
	}
	if n := dirty(); n != 0 {
		t.Errorf("%d entries are not on the disk after fsync", n)
	}
	if err := b.RenameAt(ctx, "f", a.ID(), "g", 0); err != nil {
		t.Fatal(err)
	}
	if n := dirty(); n != 1 {
		t.Errorf("%d entries are not on the disk after a rename", n)
	}
}

// TestHidden does not let a client see or change our attributes, nor hand it a host file.
func TestHidden(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store})
	root := c.fd(c.root)
	made, open, host, err := root.OpenCreateAt(ctx, "f", unix.O_RDWR, linux.S_IFREG|0o600, 0, 0)
	if err != nil || host >= 0 {
		t.Fatalf("have %v, file descriptor %d", err, host)
	}
	f, o := c.fd(made), c.NewFD(open)
	if err := f.SetXattr(ctx, "user.mine", "1", 0); err != nil {
		t.Fatal(err)
	}
	for _, fd := range []lisafs.ClientFD{f, root} {
		for _, name := range []string{format.StatName, format.StoreName, format.CleanName, format.Reserved + "new", "trusted.overlay.opaque", "security.capability"} {
			if v, err := fd.GetXattr(ctx, name, 0); err == nil {
				t.Errorf("%s is %q", name, v)
			}
			if err := fd.SetXattr(ctx, name, "x", 0); err == nil {
				t.Errorf("%s was set", name)
			}
			if err := fd.RemoveXattr(ctx, name); err == nil {
				t.Errorf("%s was removed", name)
			}
		}
	}
	if names, err := f.ListXattr(ctx, 0); err != nil || !reflect.DeepEqual(names, []string{"user.mine"}) {
		t.Errorf("have %q, %v", names, err)
	}
	if _, err := o.Write(ctx, []byte("x"), 1<<63); err == nil {
		t.Error("a write beyond all files went well")
	}
	if err := o.Allocate(ctx, 3, 0, 10); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("punching a hole: %v", err) // gVisor's filter would kill the process
	}
}

// TestStoreIsOurs refuses directories that hold something else, or are of another version.
func TestStoreIsOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("have %v", err)
	}
	dir = t.TempDir()
	if err := Check(dir); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, format.StoreName, []byte{9, 9}, 0); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("have %v", err)
	}
}

// TestHostDiskFull refuses data, and not whiteouts, while the host's disk still has some room.
func TestHostDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("disk", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skip("no file system to fill: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	c := serve(t, dir, Mount{Target: "/x", Stat: Store, Bytes: 1 << 40})
	defer c.close()
	root := c.fd(c.root)
	_, open, _, err := root.OpenCreateAt(ctx, "f", unix.O_RDWR, linux.S_IFREG|0o600, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	o, buf, off := c.NewFD(open), make([]byte, 1<<20), uint64(0)
	for err == nil && off < 64<<20 {
		var n uint64
		n, err = o.Write(ctx, buf, off)
		off += n
	}
	if !errors.Is(err, unix.ENOSPC) || off < 16<<20 || off > 32<<20 {
		t.Errorf("after %d MiB of 64: %v", off>>20, err)
	}
	if _, err := root.MknodAt(ctx, "gone", linux.S_IFCHR, 0, 0, 0, 0); err != nil {
		t.Errorf("a whiteout: %v", err)
	}
}

// TestConcurrent changes the same files from many sides; what is counted is right in the end.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, Mount{Target: "/x", Stat: Store, Bytes: 1 << 30, Inodes: 1 << 20})
	if err := c.StartChannels(); err != nil {
		t.Fatal(err)
	}
	root := c.fd(c.root)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 150 {
				name := fmt.Sprintf("f%d", (g*7+n)%10)
				switch n % 6 {
				case 0, 1:
					if _, open, _, err := root.OpenCreateAt(ctx, name, unix.O_RDWR, linux.S_IFREG|0o600, 0, 0); err == nil {
						o := c.NewFD(open)
						_, _ = o.Write(ctx, make([]byte, n*10), 0)
						o.Close(ctx, false)
					}
				case 2:
					if in, err := root.Walk(ctx, name); err == nil {
						fd := c.fd(in)
						_, _, _ = fd.SetStat(ctx, &linux.Statx{Mask: unix.STATX_MODE | unix.STATX_SIZE, Mode: uint16(n), Size: uint64(n)})
						fd.Close(ctx, false)
					}
				case 3:
					_ = root.RenameAt(ctx, name, root.ID(), fmt.Sprintf("f%d", n%10), 0)
				case 4:
					_ = root.UnlinkAt(ctx, name, 0)
				case 5:
					if in, err := root.Walk(ctx, name); err == nil {
						_, _ = root.LinkAt(ctx, in.ControlFD, fmt.Sprintf("f%d", n%10))
					}
				}
			}
		})
	}
	wg.Wait()
	c.close()
	counted := [2]uint64{c.used.bytes.Load(), c.used.inodes.Load()}
	fd := must(unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
	defer unix.Close(fd)
	bytes, inodes, err := count(fd, true)
	if err != nil || counted != [2]uint64{bytes, inodes} {
		t.Errorf("counted %d, there are %d bytes, %d files, %v", counted, bytes, inodes, err)
	}
}

// BenchmarkCreate makes and removes files, as a guest does that unpacks something.
func BenchmarkCreate(b *testing.B) {
	for _, tmpfile := range []bool{true, false} {
		b.Run(fmt.Sprintf("tmpfile=%v", tmpfile), func(b *testing.B) {
			c := serve(b, b.TempDir(), Mount{Target: "/x", Stat: Store})
			c.m.noTmpfile.Store(!tmpfile)
			root := c.fd(c.root)
			for n := 0; b.Loop(); n++ {
				made, open, _, err := root.OpenCreateAt(ctx, itoa(n), unix.O_RDWR, linux.S_IFREG|0o644, 0, 0)
				if err != nil {
					b.Fatal(err)
				}
				o, f := c.NewFD(open), c.fd(made)
				_, _ = o.Write(ctx, make([]byte, 4096), 0)
				o.Close(ctx, false)
				f.Close(ctx, true)
			}
		})
	}
}
