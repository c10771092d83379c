package agent

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/vfork"
)

// rlimit is a limit by its number.
type rlimit struct {
	resource int
	value    syscall.Rlimit
}

// resourceOf returns the number of a resource (contract msb-0.6 §1.4).
func resourceOf(name string) (int, bool) {
	for i, known := range [...]string{"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as",
		"locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"} {
		if name == known {
			return i, true
		}
	}
	return 0, false
}

// parseRlimits returns the limits of a command: those of the guest, each unless the request has its own.
func parseRlimits(lists ...[]agentproto.Rlimit) ([]rlimit, error) {
	var all []rlimit
next:
	for _, list := range lists {
		for _, l := range list {
			n, ok := resourceOf(l.Resource)
			if !ok {
				return nil, fmt.Errorf("unknown resource limit %q", l.Resource)
			}
			if l.Soft > l.Hard {
				return nil, fmt.Errorf("resource limit %s: soft %d is over hard %d", l.Resource, l.Soft, l.Hard)
			}
			limit := rlimit{n, syscall.Rlimit{Cur: l.Soft, Max: l.Hard}}
			for i := range all {
				if all[i].resource == n {
					all[i] = limit
					continue next
				}
			}
			all = append(all, limit)
		}
	}
	return all, nil
}

// forkLimited is vfork.ForkExec for a process that is to have limits from its first instruction: the new process
// asks to be traced, so that it stops when its exec has succeeded; it gets its limits there and is let go. Nothing else
// is fork, exec and one stop, and no helper has to run under limits that it may not survive.
func forkLimited(path string, argv []string, attr *vfork.Attr, limits []rlimit) (int, error) {
	runtime.LockOSThread() // only the thread that forked may let go
	defer runtime.UnlockOSThread()
	traced := *attr
	traced.Ptrace = true
	pid, err := vfork.ForkExec(path, argv, &traced)
	if err != nil {
		return 0, err
	}
	if err := waitStopped(pid); err == nil {
		for _, l := range limits {
			if err = prlimit(pid, l); err != nil {
				break
			}
		}
		if err != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			var status syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &status, 0, nil)
			return 0, limitError{err}
		}
		_ = syscall.PtraceDetach(pid)
	} // else it was killed already: its end is for the reaper
	return pid, nil
}

// limitError is a limit that could not be set.
type limitError struct{ error }

func (e limitError) Unwrap() error { return e.error }

func prlimit(pid int, l rlimit) error {
	_, _, e := syscall.Syscall6(syscall.SYS_PRLIMIT64, uintptr(pid), uintptr(l.resource), uintptr(unsafe.Pointer(&l.value)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
