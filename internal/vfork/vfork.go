// Package vfork starts programs with few system calls.
//
// Package syscall makes some eighty of them: the Go runtime has a handler for each signal, and a new process takes back one after the
// other. Where the kernel is one in user space, each is two switches or four, and together they are a third of what it takes to run a small
// program. Here clone3(2) takes back all handlers at once (CLONE_CLEAR_SIGHAND, Linux 5.5), an error needs no pipe to be told of, since the
// memory is shared until the exec, and the new process makes only the calls that were asked for, from a list, without a stack.
package vfork

import "syscall"

// Attr is what a program is started with.
type Attr struct {
	Dir        string
	Env        []string
	Files      []int // its 0, 1, 2 and so on
	Setsid     bool
	Setctty    bool // its 0 becomes the terminal of its session
	Ptrace     bool // it stops after its exec, traced by the thread that called
	Credential *syscall.Credential
}

// ForkExec starts a program as [syscall.ForkExec] does, which it is where the kernel or the machine is not one for it.
func ForkExec(path string, argv []string, attr *Attr) (pid int, err error) {
	if pid, err, ok := forkExec(path, argv, attr); ok {
		return pid, err
	}
	sys := &syscall.ProcAttr{Dir: attr.Dir, Env: attr.Env,
		Sys: &syscall.SysProcAttr{Setsid: attr.Setsid, Setctty: attr.Setctty, Ptrace: attr.Ptrace, Credential: attr.Credential}}
	for _, fd := range attr.Files {
		sys.Files = append(sys.Files, uintptr(fd))
	}
	return syscall.ForkExec(path, argv, sys)
}
