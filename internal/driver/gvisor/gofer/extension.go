package gofer

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/cmd/sandboxsetup"
	"gvisor.dev/gvisor/runsc/fsgofer/extension"
)

// server is gVisor's extension, the one there is in a gofer.
type server struct {
	boot   string            // the kernel's boot id
	proc   int               // /proc/self/fd, to open and link files by their descriptors
	mounts map[string]*mount // by destination
}

// Register makes this process, which is about to become gVisor's gofer, serve the mounts that its spec names.
func Register() error {
	if err := raiseFiles(); err != nil {
		return err
	}
	if err := makeUsage(); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	extension.Register(&server{boot: boot})
	return nil
}

// raiseFiles allows as many open files as the host does: each file that the guest's kernel remembers is an open one here.
func raiseFiles() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("read the limit on open files: %w", err)
	}
	lim.Cur = lim.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("raise the limit on open files: %w", err)
	}
	return nil
}

// Name implements extension.Extension.
func (*server) Name() string { return "microsandbox" }

// goferRoot is where gVisor's gofer has put the mounts before it enters that directory.
const goferRoot = "/root"

// lockTime is how long to wait for the gofer of a sandbox that was killed a moment ago to let its store go.
const lockTime = 5 * time.Second

// PrepareGofer opens the mounts. gVisor calls it when they are in place, and before the process gives up its capabilities,
// enters its root and installs its filter.
func (s *server) PrepareGofer(ctx extension.GoferPrepareContext) (extension.GoferPrepareResult, error) {
	var none extension.GoferPrepareResult
	mounts, err := mountsOf(ctx.Spec.Annotations)
	if err != nil {
		return none, err
	}
	if s.proc, err = unix.Open(sandboxsetup.ProcFDBindMount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return none, fmt.Errorf("open the process's files: %w", err)
	}
	s.mounts = make(map[string]*mount, len(mounts))
	for n, m := range mounts {
		path, err := sandboxsetup.ResolveSymlinks(goferRoot, m.Target)
		if err != nil {
			return none, fmt.Errorf("find %s: %w", m.Target, err)
		}
		at, err := filepath.Rel(goferRoot, path)
		if err != nil {
			return none, fmt.Errorf("find %s: %w", m.Target, err)
		}
		// A copy of the mount without what is mounted on it: names are opened within one mount.
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return none, fmt.Errorf("open %s: %w", m.Target, err)
		}
		if err := m.checkSource(fd); err != nil {
			unix.Close(fd)
			return none, fmt.Errorf("open %s: %w", m.Target, err)
		}
		opened, err := s.open(m, fd, &slots[n])
		if err != nil {
			return none, fmt.Errorf("serve %s: %w", m.Target, err)
		}
		s.mounts[filepath.Join("/", at)] = opened
	}
	return none, nil
}

// checkSource looks whether what is open is the mount's source.
func (m Mount) checkSource(fd int) error {
	if m.Source == nil {
		return nil
	}
	st, err := statOf(fd)
	if err == nil && *m.Source != [2]uint64{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino} {
		err = errors.New("another file has taken its place")
	}
	return err
}

// open makes a mount of an open directory or file, of which it takes ownership.
func (s *server) open(m Mount, tree int, used *slot) (*mount, error) {
	o := &mount{conf: m, server: s, tree: tree, inodes: map[inodeKey]*inode{}}
	o.quota = quota{on: m.counted(), bytes: m.Bytes, inodes: m.Inodes, used: used, fd: tree}
	o.rootStore = m.Stat == Store
	st, err := statOf(tree)
	if err != nil {
		return nil, err
	}
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		flags |= unix.O_DIRECTORY
	}
	root, err := s.reopen(tree, flags)
	if err != nil {
		root, err = unix.FcntlInt(uintptr(tree), unix.F_DUPFD_CLOEXEC, 0) // no more than a path
	}
	if err != nil {
		return nil, err
	}
	o.root = root
	if o.rootStore {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, unix.ENOTDIR
		}
		if err := lockStore(root, lockTime); err != nil {
			return nil, err
		}
		if err := openStore(root); err != nil {
			return nil, err
		}
		if mark, ok := takeClean(root); ok && mark.Boot == s.boot {
			used.bytes.Store(mark.Bytes)
			used.inodes.Store(mark.Inodes)
			return o, nil
		}
	}
	if o.quota.on && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		bytes, inodes, err := count(root, o.rootStore)
		if err != nil {
			return nil, fmt.Errorf("count what is there: %w", err)
		}
		used.bytes.Store(bytes)
		used.inodes.Store(inodes)
	} else if o.quota.on {
		used.bytes.Store(st.Size)
		used.inodes.Store(1)
	}
	return o, nil
}

// reopen opens the file behind a descriptor again.
func (s *server) reopen(fd, flags int) (int, error) {
	return unix.Openat(s.proc, itoa(fd), flags|unix.O_CLOEXEC, 0)
}

// TryHandleMount implements extension.Extension.
func (s *server) TryHandleMount(_ *specs.Spec, m *specs.Mount, path string, ro bool) (lisafs.ConnectionImpl, lisafs.ConnectionOpts, error) {
	o := s.mounts[path]
	if m == nil || o == nil {
		return nil, lisafs.ConnectionOpts{}, nil
	}
	return o, lisafs.ConnectionOpts{
		Readonly: ro, WalkStatSupported: true, SetAttrOnDeleted: true, AllocateOnDeleted: true, OpenOnDeleted: true,
	}, nil
}

// SeccompRules implements extension.Extension: what gVisor's own filter for its gofer allows is enough, but for giving a
// name to an open file.
func (*server) SeccompRules() seccomp.SyscallRules { return Rules() }

// Rules is what this package needs beyond gVisor's filter for its gofer.
func Rules() seccomp.SyscallRules {
	return seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		unix.SYS_LINKAT: seccomp.PerArg{
			seccomp.NonNegativeFD{}, seccomp.AnyValue{}, seccomp.NonNegativeFD{}, seccomp.AnyValue{}, seccomp.EqualTo(unix.AT_SYMLINK_FOLLOW),
		},
	})
}
