package gofer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fsutil"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// ErrInUse is a store that another sandbox has.
var ErrInUse = errors.New("another sandbox is using it")

// Check makes sure, in the process that starts a sandbox, that a directory can be a store, and makes it one if it is
// empty: its file system keeps extended attributes of users, its format is known, nobody else has it.
func Check(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open the sandbox's disk %s: %w", dir, err)
	}
	defer unix.Close(fd)
	err = lockStore(fd, lockTime)
	if err == nil {
		err = openStore(fd)
	}
	if err != nil {
		return fmt.Errorf("use %s as the sandbox's disk: %w", dir, err)
	}
	return nil
}

// lockStore makes the store this open file's alone, until it is closed.
func lockStore(fd int, patience time.Duration) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || err == unix.EINTR {
			if err == nil {
				return nil
			}
			continue
		}
		if err != unix.EWOULDBLOCK {
			return fmt.Errorf("lock it: %w", err)
		}
		if time.Now().After(end) {
			return ErrInUse
		}
	}
}

// openStore checks the format of a store, or gives one to an empty directory.
func openStore(fd int) error {
	var b [64]byte
	n, err := unix.Fgetxattr(fd, format.StoreName, b[:])
	if err == nil {
		_, err := format.DecodeStore(b[:n])
		return err
	}
	switch err {
	case unix.ERANGE:
		_, err := format.DecodeStore(make([]byte, len(b)+1))
		return err
	case unix.EOPNOTSUPP:
		return errNoAttributes
	case unix.ENODATA:
	default:
		return fmt.Errorf("read its format: %w", err)
	}
	empty, err := isEmpty(fd)
	if err != nil {
		return err
	}
	if !empty {
		return errors.New("the directory is not empty and not a disk of ours")
	}
	var id [format.StoreIDSize]byte
	_, _ = rand.Read(id[:])
	// The root looks to the guest as a root does. Its format comes last: what has none is begun again.
	if err = format.Write(fd, format.Attr{Mode: unix.S_IFDIR | 0o755}); err == nil {
		err = unix.Fsetxattr(fd, format.StoreName, format.EncodeStore(id), 0)
	}
	if err == unix.EOPNOTSUPP {
		return errNoAttributes
	}
	if err != nil {
		return fmt.Errorf("write its format: %w", err)
	}
	return nil
}

var errNoAttributes = errors.New("its file system keeps no extended attributes of users (user.*), " +
	"which hold the guest's owners and modes: put it on ext4, xfs, btrfs, or tmpfs since Linux 6.6")

func isEmpty(fd int) (bool, error) {
	empty := true
	err := each(fd, func(string, uint8) error { empty = false; return nil })
	return empty, err
}

// each calls f with the name and type of all in a directory, whose descriptor is left at its end.
func each(fd int, f func(name string, kind uint8) error) error {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	var buf [16 << 10]byte
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		var failed error
		fsutil.ParseDirents(buf[:n], func(_ uint64, _ int64, kind uint8, name string, _ uint16) {
			if failed == nil {
				failed = f(name, kind)
			}
		})
		if failed != nil {
			return failed
		}
	}
}

// counter counts what is below a directory: the sum of the sizes of regular files and the number of files and directories,
// whiteouts among them. In a store it removes what was being made when a gofer was killed: a thing gets its attribute before
// anything else, so that one without it is empty.
type counter struct {
	store         bool
	below         Below // if there is one, whiteouts that hide nothing there are removed
	removed       int
	bytes, inodes uint64
	seen          map[inodeKey]bool // files with several names
}

// level is a directory on the way from where the count began to where it is.
type level struct {
	name string
	key  inodeKey
	subs []string // directories in it that are still to be counted
}

func count(root int, store bool) (bytes, inodes uint64, err error) {
	c := &counter{store: store, seen: map[inodeKey]bool{}}
	err = c.walk(root)
	return c.bytes, c.inodes, err
}

// walk has one directory open at a time, however deep the tree is.
func (c *counter) walk(root int) error {
	dir, err := openBeneath(root, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	way := []level{{}}
	for {
		st, err := statOf(dir)
		if err != nil {
			return err
		}
		at := &way[len(way)-1]
		at.key = keyOf(&st)
		if at.subs, err = c.scan(dir, way); err != nil {
			return err
		}
		for down := false; !down; {
			at := &way[len(way)-1]
			if n := len(at.subs); n > 0 {
				name := at.subs[n-1]
				at.subs = at.subs[:n-1]
				sub, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
				switch {
				case err == nil:
					unix.Close(dir)
					dir, down = sub, true
					way = append(way, level{name: name})
				case c.store:
					return fmt.Errorf("open %q: %w", name, err)
				}
				continue
			}
			if way = way[:len(way)-1]; len(way) == 0 {
				return nil
			}
			up, depth, err := goUp(root, dir, way)
			if err != nil {
				return err
			}
			unix.Close(dir)
			dir, way = up, way[:depth]
		}
	}
}

// goUp opens the directory that way leads to, from one below it, and returns how much of the way there still is: in a mount
// that others write to, directories may have been moved.
func goUp(root, below int, way []level) (fd, depth int, err error) {
	up, err := unix.Openat2(below, "..", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | openFlags, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS})
	if err == nil {
		if st, err := statOf(up); err == nil && keyOf(&st) == way[len(way)-1].key {
			return up, len(way), nil
		}
		unix.Close(up)
	}
	if fd, err = openBeneath(root, ".", unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return -1, 0, err
	}
	for depth = 1; depth < len(way); depth++ {
		next, err := openBeneath(fd, way[depth].name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			break
		}
		if st, err := statOf(next); err != nil || keyOf(&st) != way[depth].key {
			unix.Close(next)
			break
		}
		unix.Close(fd)
		fd = next
	}
	return fd, depth, nil
}

// scan counts what is in one directory, and returns the names of the directories in it.
func (c *counter) scan(dir int, way []level) (subs []string, err error) {
	var below map[string]bool
	err = each(dir, func(name string, _ uint8) error {
		fd, err := openBeneath(dir, name, unix.O_PATH)
		if err != nil {
			if err == unix.ENOENT || !c.store {
				return nil // of somebody who is at work there, or a mount
			}
			return fmt.Errorf("open %q: %w", name, err)
		}
		defer unix.Close(fd)
		st, err := statOf(fd)
		if err != nil {
			return err
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFDIR {
			if c.store {
				if _, have, err := attrOfName(dir, name, uint32(st.Mode)); err == nil && !have && unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
					return nil
				}
			}
			c.inodes++
			subs = append(subs, name)
			return nil
		}
		if st.Nlink > 1 {
			key := keyOf(&st)
			if c.seen[key] {
				return nil
			}
			c.seen[key] = true
		}
		if c.store && kind == unix.S_IFREG && (st.Mode&unix.S_ISVTX != 0 || st.Size == 0) {
			a, have, err := attrOfName(dir, name, uint32(st.Mode))
			if err != nil {
				return err
			}
			if have && c.below != nil && a.IsWhiteout() && !c.hides(way, &below, name) && unix.Unlinkat(dir, name, 0) == nil {
				c.removed++
				return nil
			}
			if !have && st.Size == 0 && unix.Unlinkat(dir, name, 0) == nil {
				return nil
			}
		}
		c.inodes++
		if kind == unix.S_IFREG {
			c.bytes += st.Size
		}
		return nil
	})
	return subs, err
}

func attrOfName(dir int, name string, mode uint32) (format.Attr, bool, error) {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return format.Attr{}, false, err
	}
	defer unix.Close(fd)
	return format.Read(fd, mode)
}

// readClean returns the mark of an ordered end.
func readClean(fd int) (format.CleanMark, bool) {
	var b [128]byte
	n, err := unix.Fgetxattr(fd, format.CleanName, b[:])
	if err != nil {
		return format.CleanMark{}, false
	}
	return format.DecodeClean(b[:n])
}

// takeClean takes the mark of an ordered end away, and returns it.
func takeClean(fd int) (format.CleanMark, bool) {
	mark, ok := readClean(fd)
	if unix.Fremovexattr(fd, format.CleanName) != nil {
		return format.CleanMark{}, false
	}
	return mark, ok
}

// bootID tells one run of the machine from the next.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the kernel's boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
