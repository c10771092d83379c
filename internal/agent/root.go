package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// Where the new root is put together. What is below stage goes with the old root.
const (
	stage      = "/dev/.msb"
	stageUpper = stage + "/upper" // here the driver shows the sandbox's disk
	stageRoot  = stage + "/root"
)

// enterRoot makes the root that this process started in the lower layer of a new one, moves into it with all that is
// mounted, and leaves the old one. No command runs yet.
func (a *Agent) enterRoot(b *agentproto.BlockRoot) error {
	switch {
	case !a.Init || a.Root != "/":
		return errors.New("this is not the first process of a guest")
	case b.Kind != agentproto.RootOCI || b.Upper == nil:
		return fmt.Errorf("this guest has no root of kind %q", b.Kind)
	}
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	upper := b.Upper.Device
	switch b.Upper.Kind {
	case agentproto.UpperDirectory:
		if !slices.ContainsFunc(mounts, func(m mountPoint) bool { return m.path == upper }) {
			return fmt.Errorf("no disk at %q", upper)
		}
	case agentproto.UpperTmpfs:
		upper = stageUpper
		options := "mode=755"
		if b.Upper.SizeMiB > 0 {
			options += fmt.Sprintf(",size=%dm", b.Upper.SizeMiB)
		}
		if err := mountAt("tmpfs", upper, "tmpfs", options); err != nil {
			return err
		}
	default:
		return fmt.Errorf("this guest has no upper layer of kind %q", b.Upper.Kind)
	}
	if err := mountAt("overlay", stageRoot, "overlay", "lowerdir=/,upperdir="+upper); err != nil {
		return err
	}
	if err := moveMounts(mounts); err != nil {
		return err
	}
	return pivot()
}

// mountAt mounts a file system at a directory that it makes.
func mountAt(source, target, kind, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, target, err)
	}
	return nil
}

// mountPoint is a line of /proc/self/mountinfo (proc(5)).
type mountPoint struct {
	path  string
	flags uintptr // of the mount, which a bind does not inherit
}

// readMounts lists what is mounted below the root, each after what it is mounted on.
func readMounts() ([]mountPoint, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []mountPoint
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[4] == "/" {
			continue
		}
		m := mountPoint{path: unescape(f[4])}
		for o := range strings.SplitSeq(f[5], ",") {
			switch o {
			case "ro":
				m.flags |= unix.MS_RDONLY
			case "nosuid":
				m.flags |= unix.MS_NOSUID
			case "noexec":
				m.flags |= unix.MS_NOEXEC
			case "nodev":
				m.flags |= unix.MS_NODEV
			case "noatime":
				m.flags |= unix.MS_NOATIME
			}
		}
		mounts = append(mounts, m)
	}
	slices.SortStableFunc(mounts, func(a, b mountPoint) int {
		return cmp.Compare(strings.Count(a.path, "/"), strings.Count(b.path, "/"))
	})
	return mounts, nil
}

// unescape undoes the kernel's \ooo for blanks and backslashes in a path.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// moveMounts shows in the new root all that is mounted in the old one. Paths are resolved inside the new root, whose links
// are the guest's: the process has it as its root meanwhile, and the old one as its working directory.
func moveMounts(mounts []mountPoint) error {
	old, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Chroot(stageRoot); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	for _, m := range mounts {
		if m.path == stage || strings.HasPrefix(m.path, stage+"/") {
			continue
		}
		if err == nil {
			err = bindMount(m)
		}
	}
	if e := unix.Fchdir(old); e != nil {
		return errors.Join(err, e)
	}
	return errors.Join(err, unix.Chroot("."))
}

// bindMount shows one mount of the working directory at the same place below the root.
func bindMount(m mountPoint) error {
	source := "." + m.path
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := mountPlace(m.path, st.IsDir()); err != nil {
		return fmt.Errorf("make place for the mount %s: %w", m.path, err)
	}
	if err := unix.Mount(source, m.path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", m.path, err)
	}
	if m.flags == 0 {
		return nil
	}
	if err := unix.Mount("", m.path, "", unix.MS_BIND|unix.MS_REMOUNT|m.flags, ""); err != nil {
		return fmt.Errorf("set the flags of the mount %s: %w", m.path, err)
	}
	return nil
}

// mountPlace makes sure that there is a directory, or a file, to mount on. What else is there is the guest's doing in a
// run before, and would be hidden anyway: it goes.
func mountPlace(path string, dir bool) error {
	st, err := os.Stat(path)
	if err == nil && st.IsDir() == dir {
		return nil
	}
	if _, e := os.Lstat(path); e == nil {
		if err := os.Remove(path); err != nil { // a directory with something in it is not ours to remove
			return err
		}
	}
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// pivot makes the new root that of the whole guest, and leaves nothing of the old one.
func pivot() error {
	if err := unix.Chdir(stageRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for _, dir := range []string{stageUpper, stageRoot, stage} { // empty ones in /dev, which came along without what was mounted there
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
