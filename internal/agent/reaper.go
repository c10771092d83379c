package agent

import (
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// reaper waits for processes. As PID 1 it waits for every one, adopted orphans too; otherwise only for its own, because
// the process may have children that are not the agent's.
//
// A process is first seen (waitid with WNOWAIT) and then, under mu, reaped and marked so. Until then its number cannot
// be given to another process, so a signal sent under mu to a process that is not marked hits the right one.
//
// To wait is a system call that lasts, and the Go runtime looks at such a one every 20 µs for a while (see quick), so PID 1 waits patience
// long before it waits: who sees its command's output end looks whether the command has, and most have.
type reaper struct {
	init   bool
	once   sync.Once
	hasten chan struct{} // has room for one

	fork sync.Mutex // one fork at a time, as in package syscall

	mu      sync.Mutex
	changed sync.Cond // of what follows
	forking bool      // a fork is under way
	forks   int       // forks that came to an end
	empty   bool      // as PID 1: there was nobody to wait for
	alive   map[int]*child
}

// child is a process that the agent started. It leads its own session and process group.
type child struct {
	pid    int
	reaped bool // guarded by reaper.mu
	exit   chan syscall.WaitStatus
}

func newReaper(init bool) *reaper {
	r := &reaper{init: init, empty: true, alive: make(map[int]*child), hasten: make(chan struct{}, 1)}
	r.changed.L = &r.mu
	return r
}

// start forks and takes charge of the process.
func (r *reaper) start(fork func() (pid int, err error)) (*child, error) {
	r.fork.Lock()
	defer r.fork.Unlock()
	r.mu.Lock()
	r.forking = true
	r.mu.Unlock()

	pid, err := fork()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.forking = false
	r.forks++
	r.changed.Broadcast()
	if err != nil {
		return nil, err
	}
	r.empty = false
	c := &child{pid: pid, exit: make(chan syscall.WaitStatus, 1)}
	r.alive[pid] = c
	if r.init {
		r.once.Do(func() { go r.waitAll() })
	} else {
		go r.waitFor(c)
	}
	return c, nil
}

// settle returns when no fork is under way that began before. Until its exec a new process holds every file that is open,
// and a program that somebody holds open for writing cannot be run (ETXTBSY).
func (r *reaper) settle() {
	r.fork.Lock()
	defer r.fork.Unlock()
}

// patience is how long PID 1 leaves a new process to those who look.
const patience = 20 * time.Millisecond

// look reaps the child if it has ended. If not, PID 1 begins to wait.
func (r *reaper) look(c *child) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.reaped {
		r.reapLocked(c.pid)
	}
	if !c.reaped {
		r.hurry()
	}
}

// hurry makes PID 1 wait from now on.
func (r *reaper) hurry() {
	select {
	case r.hasten <- struct{}{}:
	default:
	}
}

// waitAll is the only place where PID 1 waits.
func (r *reaper) waitAll() {
	timer := time.NewTimer(patience)
	for {
		select {
		case <-timer.C:
		case <-r.hasten:
		}
		r.waitWhileAny()
		timer.Reset(patience)
	}
}

// waitWhileAny waits until PID 1 has no child, and then until it has one.
func (r *reaper) waitWhileAny() {
	for {
		r.mu.Lock()
		seen := r.forks
		r.mu.Unlock()

		pid, err := waitid(pAll, 0)

		r.mu.Lock()
		if err == syscall.ECHILD {
			r.empty = r.forks == seen && len(r.alive) == 0 // else somebody was started since, and may have left an orphan
			r.changed.Broadcast()
			for r.forks == seen {
				r.changed.Wait()
			}
			r.mu.Unlock()
			return
		}
		if err == nil {
			// Who is not known is the fork that is under way, or an orphan.
			for now := r.forks; r.alive[pid] == nil && r.forking && r.forks == now; {
				r.changed.Wait()
			}
			r.reapLocked(pid)
		}
		r.mu.Unlock()
	}
}

func (r *reaper) waitFor(c *child) {
	for {
		if _, err := waitid(pPID, c.pid); err != syscall.EINTR {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.reaped { // by look: then the number may be another's by now
		r.reapLocked(c.pid)
	}
}

func (r *reaper) reapLocked(pid int) {
	status, got, err := waitNow(pid)
	c := r.alive[pid]
	if c == nil || err == nil && got != pid {
		return
	}
	delete(r.alive, pid)
	c.reaped = true
	c.exit <- status
	r.changed.Broadcast()
}

// signal sends sig to the child's process group. After the child's own end its group may live on: then nobody may have
// its number but the group, or the group is gone.
func (r *reaper) signal(c *child, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.reaped && syscall.Kill(c.pid, 0) != syscall.ESRCH {
		return syscall.ESRCH
	}
	return syscall.Kill(-c.pid, sig)
}

// killAll kills the groups of all children that have not ended.
func (r *reaper) killAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for pid := range r.alive {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	if r.init {
		_ = syscall.Kill(-1, syscall.SIGKILL)
	}
}

// waitEmpty returns when PID 1 has no child left.
func (r *reaper) waitEmpty() {
	r.hurry()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.empty {
		r.changed.Wait()
	}
}

const (
	pAll = 0
	pPID = 1
)

// siginfo is the kernel's siginfo_t as waitid fills it in, on 64-bit machines.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// The codes of siginfo for a child that has ended.
const (
	cldExited = 1
	cldDumped = 3
)

// waitid waits until a process has ended, leaves it to be reaped and returns its number.
func waitid(which, id int) (int, error) {
	var info siginfo
	err := waitidOptions(which, id, &info, syscall.WEXITED|syscall.WNOWAIT)
	return int(info.pid), err
}

// waitidTraced waits until a process that the calling thread traces has stopped or ended.
func waitidTraced(pid int) (stopped bool, err error) {
	var info siginfo
	err = waitidOptions(pPID, pid, &info, syscall.WEXITED|syscall.WSTOPPED|syscall.WNOWAIT)
	return info.code < cldExited || info.code > cldDumped, err
}

func waitidOptions(which, id int, info *siginfo, options uintptr) error {
	_, _, e := syscall.Syscall6(syscall.SYS_WAITID, uintptr(which), uintptr(id), uintptr(unsafe.Pointer(info)), options, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
