package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// devices makes the devices of the guest's image that the guest does not see by itself (see the package image/erofs), exactly as
// the image has them. They come before all other files. Where something is mounted over the image none is made.
type devices struct {
	root *os.Root
	dirs map[string]*imageDir // by path, with all parents; nil in it is not the image's
	made map[string]bool      // by path
}

// imageDir is a directory as the image has it.
type imageDir struct {
	path  string
	dev   uint64
	times []unix.Timespec
}

// add makes one device. When the entry has a link name it is one more name of the device there.
func (d *devices) add(h *tar.Header) error {
	if d.dirs == nil {
		d.dirs, d.made = map[string]*imageDir{}, map[string]bool{}
	}
	name := strings.TrimPrefix(filepath.Clean("/"+h.Name), "/")
	parent, err := d.dir(filepath.Dir(name))
	switch {
	case err != nil:
	case parent == nil:
		return nil
	case d.made[h.Linkname]:
		err = d.replace(name, func() error { return d.root.Link(h.Linkname, name) })
	default:
		err = d.node(parent, h, name)
	}
	if errors.Is(err, syscall.EBUSY) {
		return nil
	}
	var cause syscall.Errno
	if errors.As(err, &cause) {
		return fmt.Errorf("make the image's device %.200q: %w", name, cause)
	}
	d.made[name] = true
	return err
}

// dir returns a directory if it is the image's, or nil, and remembers the times of it and of its parents.
func (d *devices) dir(path string) (*imageDir, error) {
	if dir, known := d.dirs[path]; known {
		return dir, nil
	}
	d.dirs[path] = nil
	var parent *imageDir
	if path != "." {
		var err error
		if parent, err = d.dir(filepath.Dir(path)); parent == nil || err != nil {
			return nil, err
		}
	}
	info, err := d.root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	if parent != nil && parent.dev != st.Dev {
		return nil, nil
	}
	dir := &imageDir{path: path, dev: st.Dev, times: []unix.Timespec{unix.Timespec(st.Atim), unix.Timespec(st.Mtim)}}
	d.dirs[path] = dir
	return dir, nil
}

// node makes a device that has no other name yet.
func (d *devices) node(parent *imageDir, h *tar.Header, name string) error {
	dir, err := d.root.Open(parent.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, base, mode, kind := int(dir.Fd()), filepath.Base(name), uint32(h.Mode)&0o7777, uint32(unix.S_IFBLK)
	if h.Typeflag == tar.TypeChar {
		kind = unix.S_IFCHR
	}
	err = d.replace(name, func() error {
		return unix.Mknodat(fd, base, kind|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	})
	if err == nil {
		err = unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && mode != mode&0o777 { // after chown, which clears them
		err = unix.Fchmodat(fd, base, mode, 0)
	}
	if err == nil {
		at := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
		err = unix.UtimesNanoAt(fd, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

// replace makes what is to have the name, in the place of the device without numbers that the guest sees there. When it sees
// something else the error is EBUSY: that was put there to mount something.
func (d *devices) replace(name string, create func() error) error {
	err := create()
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := d.root.Lstat(name); err == nil && info.Mode()&fs.ModeDevice == 0 {
		return syscall.EBUSY
	}
	if err := d.root.Remove(name); err != nil {
		return err
	}
	return create()
}

// settle gives the directories with devices, and their parents, which gVisor copies to the writable layer with them, the times
// back that they had. It is called before anything else is done to a directory; a second time it does nothing.
func (d *devices) settle() error {
	for _, dir := range d.dirs {
		if dir == nil {
			continue
		}
		f, err := d.root.Open(dir.path)
		if err != nil {
			return err
		}
		err = unix.UtimesNanoAt(int(f.Fd()), ".", dir.times, 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("set the times of %.200q: %w", dir.path, err)
		}
	}
	d.dirs = nil
	return nil
}
