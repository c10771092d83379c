//go:build linux && (amd64 || arm64)

package vfork

import (
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/microsandbox-go/microsandbox/internal/vfork/nofile"
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const (
	cloneClearSigHand = 0x100000000
	maxFiles          = 16
)

// call is a system call that the child makes. If it fails, errno says so and the child ends.
type call struct {
	number uintptr
	args   [4]uintptr
	errno  uintptr
}

// plan is all that the child needs. It is on the heap, where it does not move, and keeps alive what its calls point to.
type plan struct {
	clone     cloneArgs
	calls     [maxFiles + 10]call
	n         int
	path, dir *byte
	argv, env []*byte
	groups    []uint32
	limit     syscall.Rlimit
}

func (p *plan) add(number uintptr, args ...uintptr) {
	c := &p.calls[p.n]
	c.number = number
	copy(c.args[:], args)
	p.n++
}

// run makes a child that makes the calls until one fails; the last of them does not return. It is written in assembly.
func run(clone *cloneArgs, calls *call) (pid, errno uintptr)

// old is set when the kernel has no clone3 with CLONE_CLEAR_SIGHAND.
var old atomic.Bool

// raised reports whether package syscall has raised the limit of open files.
var raised = sync.OnceValue(func() bool {
	var now syscall.Rlimit
	return nofile.Hard != 0 && syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now) == nil && now.Cur != nofile.Soft
})

// forkExec reports false if it cannot be done this way.
func forkExec(path string, argv []string, attr *Attr) (pid int, err error, ok bool) {
	if old.Load() || len(attr.Files) > maxFiles {
		return 0, nil, false
	}
	p := &plan{clone: cloneArgs{flags: syscall.CLONE_VM | syscall.CLONE_VFORK | cloneClearSigHand, exitSignal: uint64(syscall.SIGCHLD)}}
	if p.path, err = syscall.BytePtrFromString(path); err != nil {
		return 0, err, true
	}
	if p.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return 0, err, true
	}
	if p.env, err = syscall.SlicePtrFromStrings(attr.Env); err != nil {
		return 0, err, true
	}
	if attr.Setsid {
		p.add(syscall.SYS_SETSID)
	}
	if c := attr.Credential; c != nil {
		if !c.NoSetGroups {
			p.groups = append(make([]uint32, 0, len(c.Groups)+1), c.Groups...)
			p.add(syscall.SYS_SETGROUPS, uintptr(len(c.Groups)), uintptr(unsafe.Pointer(unsafe.SliceData(p.groups))))
		}
		p.add(syscall.SYS_SETGID, uintptr(c.Gid))
		p.add(syscall.SYS_SETUID, uintptr(c.Uid))
	}
	if attr.Dir != "" {
		if p.dir, err = syscall.BytePtrFromString(attr.Dir); err != nil {
			return 0, err, true
		}
		p.add(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(p.dir)))
	}
	if raised() {
		p.limit = syscall.Rlimit{Cur: nofile.Soft, Max: nofile.Hard}
		p.add(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&p.limit)))
	}
	for to, from := range attr.Files {
		switch {
		case from == to:
			p.add(syscall.SYS_FCNTL, uintptr(from), syscall.F_SETFD, 0)
		case from < len(attr.Files): // another may take its place before it is moved
			return 0, nil, false
		default:
			p.add(syscall.SYS_DUP3, uintptr(from), uintptr(to))
		}
	}
	if attr.Setctty {
		p.add(syscall.SYS_IOCTL, 0, syscall.TIOCSCTTY, 1)
	}
	if attr.Ptrace {
		p.add(syscall.SYS_PTRACE, syscall.PTRACE_TRACEME)
	}
	p.add(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(unsafe.SliceData(p.argv))), uintptr(unsafe.Pointer(unsafe.SliceData(p.env))))
	return p.start()
}

// start runs the plan. It reports false if the kernel cannot.
func (p *plan) start() (pid int, err error, ok bool) {
	syscall.ForkLock.Lock()
	child, errno := run(&p.clone, &p.calls[0])
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	switch e := syscall.Errno(errno); e {
	case 0:
	case syscall.ENOSYS, syscall.EINVAL, syscall.E2BIG:
		old.Store(true)
		return 0, nil, false
	default:
		return 0, e, true
	}
	for i := range p.calls[:p.n] {
		if e := syscall.Errno(p.calls[i].errno); e != 0 {
			var status syscall.WaitStatus
			for err = syscall.EINTR; err == syscall.EINTR; {
				_, err = syscall.Wait4(int(child), &status, 0, nil)
			}
			return 0, e, true
		}
	}
	return int(child), nil, true
}
