package gofer

import (
	"encoding/binary"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer/format"
)

// Below returns the names that a directory of the image has below a store, none if it has no such directory.
type Below func(dir string) (map[string]bool, error)

// pruneShare is by which part of a store's limit on files it must have grown since it was pruned before that is done again.
const pruneShare = 8

// Prune removes the whiteouts of a store that hide nothing, in the process that starts a sandbox: gVisor's overlay leaves one for each name
// that was renamed away, whether there is something below it or not, and they count towards the limit on files. It looks through the
// store only if that has grown much since the last time, or has to be counted anyway. It returns how many it removed.
func Prune(dir string, limit uint64, below Below) (removed int, err error) {
	if limit == 0 {
		return 0, nil
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, fmt.Errorf("open the sandbox's disk %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := lockStore(fd, lockTime); err != nil {
		return 0, err
	}
	var b [64]byte
	if n, err := unix.Fgetxattr(fd, format.StoreName, b[:]); err != nil {
		return 0, nil // it is not a store yet
	} else if _, err := format.DecodeStore(b[:n]); err != nil {
		return 0, err
	}
	boot, err := bootID()
	if err != nil {
		return 0, err
	}
	if mark, ok := readClean(fd); ok && mark.Boot == boot && mark.Inodes < prunedTo(fd)+limit/pruneShare {
		return 0, nil
	}
	takeClean(fd)
	c := &counter{store: true, below: below, seen: map[inodeKey]bool{}}
	if err := c.walk(fd); err != nil {
		return c.removed, fmt.Errorf("look through the sandbox's disk %s: %w", dir, err)
	}
	mark := format.CleanMark{Boot: boot, Bytes: c.bytes, Inodes: c.inodes}
	if unix.Fsetxattr(fd, format.PrunedName, binary.LittleEndian.AppendUint64(nil, c.inodes), 0) == nil {
		_ = unix.Fsetxattr(fd, format.CleanName, mark.Encode(), 0) // without it the gofer counts again
	}
	return c.removed, nil
}

// prunedTo is how many files a store had when it was pruned.
func prunedTo(fd int) uint64 {
	var b [8]byte
	if n, err := unix.Fgetxattr(fd, format.PrunedName, b[:]); err != nil || n != len(b) {
		return 0
	}
	return min(binary.LittleEndian.Uint64(b[:]), 1<<62)
}

// hides reports whether a whiteout of that name in a directory hides something; if that cannot be known it does.
func (c *counter) hides(way []level, names *map[string]bool, name string) bool {
	if *names == nil {
		dir := "/"
		for _, l := range way {
			dir = path.Join(dir, l.name)
		}
		var err error
		if *names, err = c.below(dir); err != nil {
			return true
		}
		if *names == nil {
			*names = map[string]bool{}
		}
	}
	return (*names)[name]
}
