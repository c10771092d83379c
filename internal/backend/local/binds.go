package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// checkSources looks at the paths of this machine that a spec mounts and copies, and rewrites them to where their links lead. What was
// resolved before and leads through a link by now is refused, here or where it is opened: a guest that has a directory above may have
// put the link there.
func (b *Backend) checkSources(spec *sandbox.Spec, resolved bool) error {
	spec.Mounts, spec.Patches = slices.Clone(spec.Mounts), slices.Clone(spec.Patches)
	for i := range spec.Patches {
		p := &spec.Patches[i]
		if resolved || p.Type != sandbox.PatchCopyFile && p.Type != sandbox.PatchCopyDir {
			continue
		}
		if real, err := filepath.EvalSymlinks(p.Src); err == nil { // else it is said where it is opened
			p.Src = real
		}
	}
	return b.checkBinds(spec.Mounts, resolved)
}

// checkBinds is checkSources for mounts alone, in place.
func (b *Backend) checkBinds(mounts []sandbox.Mount, resolved bool) error {
	for i := range mounts {
		m := &mounts[i]
		if m.Type == sandbox.MountBind {
			if err := b.checkBind(m, resolved); err != nil {
				return err
			}
		}
	}
	return nil
}

var errLink = errors.New("the path leads through a symbolic link by now")

func (b *Backend) checkBind(m *sandbox.Mount, resolved bool) error {
	bad := func(hint, format string, args ...any) error {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	if !filepath.IsAbs(m.Host) {
		return bad("", "the mount source %q is not an absolute path", m.Host)
	}
	asked := filepath.Clean(m.Host)
	info, err := os.Lstat(m.Host)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if !m.FollowRootSymlinks {
			return bad("name what it leads to, or add the option follow-root-symlinks", "the mount source %s is a symbolic link", m.Host)
		}
		if m.Host, err = filepath.EvalSymlinks(m.Host); err == nil {
			info, err = os.Lstat(m.Host)
		}
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
		}
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return bad("sockets, devices and pipes of this machine stay on this machine", "the mount source %s is neither a directory nor a file", m.Host)
	}
	// A guest that can write to our own files could be anyone's.
	home, err := filepath.EvalSymlinks(b.cfg.Home)
	if errors.Is(err, fs.ErrNotExist) { // nothing was ever made here
		home, err = b.cfg.Home, nil
	}
	if err != nil {
		return &sandbox.Error{Kind: sandbox.IO, Message: "look at MSB_HOME", Err: err}
	}
	real, err := filepath.EvalSymlinks(m.Host)
	if err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + m.Host, Err: err}
	}
	if err := checkFilesystem(real); err != nil {
		return err
	}
	if resolved && real != asked {
		return bad("", "the mount source %s: %v", asked, errLink)
	}
	m.Host = real // where the walk led now is what is mounted, and no link on the way is followed again
	if within(home, real) || within(real, home) {
		return bad("mount a directory that has nothing to do with it", "the mount source %s and MSB_HOME (%s) are within each other", m.Host, b.cfg.Home)
	}
	return nil
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// kernelFilesystems are those that are no files: what they show is the machine itself.
var kernelFilesystems = map[int64]string{
	unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2",
	unix.DEVPTS_SUPER_MAGIC: "devpts", unix.DEBUGFS_MAGIC: "debugfs", unix.TRACEFS_MAGIC: "tracefs", unix.SECURITYFS_MAGIC: "securityfs",
	unix.BPF_FS_MAGIC: "bpf", unix.NSFS_MAGIC: "nsfs", unix.BINFMTFS_MAGIC: "binfmt_misc",
}

func checkFilesystem(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "mount " + path, Err: err}
	}
	name, kernel := kernelFilesystems[int64(st.Type)]
	if within("/dev", path) && !within("/dev/shm", path) {
		name, kernel = "devices", true
	}
	if kernel {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the mount source %s is this machine's own (%s)", path, name),
			Hint: "a sandbox has its own /proc, /sys and /dev"}
	}
	return nil
}
