package agent

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// kernel is one session. Its goroutine runs its cells one after the other, and starts its interpreter when there is none.
type kernel struct {
	ks   *kernels
	lang *language
	key  kernelKey
	req  agentproto.ExecRequest // of the interpreter: how its user, directory and variables differ from the guest's

	done chan struct{} // closed at the end of run
	more chan struct{} // has room for one signal: the queue is not empty, or the session is closed
	cur  atomic.Pointer[cell]

	// Guarded by ks.mu:
	queue  []*cell
	closed bool
	cells  uint32       // that have begun
	proc   *interpreter // the last one
}

// Times that code may take.
const (
	startTime = 60 * time.Second // an interpreter, until it says that it is ready
	graceTime = 5 * time.Second  // code that is interrupted, until its interpreter is killed
	// goneGrace is graceTime for code whose client has left. Nobody waits for it, and others may need what it made.
	goneGrace = 30 * time.Second
	nudgeTime = time.Second // between two interrupts
)

func newKernel(ks *kernels, key kernelKey, r *agentproto.KernelRun) *kernel {
	return &kernel{ks: ks, lang: languageOf(key.language), key: key, more: make(chan struct{}, 1), done: make(chan struct{}),
		req: agentproto.ExecRequest{Env: r.Env, Cwd: r.Cwd, User: r.User}}
}

func (k *kernel) run() {
	for {
		c := k.next()
		if c == nil {
			break
		}
		k.execute(c)
	}
	k.ks.mu.Lock()
	p := k.proc
	k.ks.mu.Unlock()
	if p != nil {
		p.kill()
		<-p.over
	}
	k.ks.mu.Lock()
	delete(k.ks.live, k)
	k.ks.mu.Unlock()
	close(k.done)
}

// next waits for a cell to run. It returns nil when the session is closed.
func (k *kernel) next() *cell {
	for {
		k.ks.mu.Lock()
		if k.closed {
			k.ks.mu.Unlock()
			return nil
		}
		if len(k.queue) > 0 {
			c := k.queue[0]
			k.queue[0] = nil
			k.queue = k.queue[1:]
			k.ks.waiting -= len(c.req.Code)
			if c.isGone() {
				k.ks.mu.Unlock()
				c.end(agentproto.TypeKernelDone, nil)
				continue
			}
			k.cells++
			c.number = k.cells
			k.cur.Store(c)
			k.ks.mu.Unlock()
			return c
		}
		k.ks.mu.Unlock()
		<-k.more
	}
}

func (k *kernel) current() *cell { return k.cur.Load() }

// execute runs a cell.
func (k *kernel) execute(c *cell) {
	p, fresh, failed := k.interpreter()
	if failed != nil {
		k.cur.Store(nil)
		c.fail(failed.Kind, failed.Message)
		k.forgetUnused(failed)
		return
	}
	if c.isGone() { // while the interpreter started
		k.cur.Store(nil)
		c.end(agentproto.TypeKernelDone, nil)
		return
	}
	p.begin(c)
	c.say(agentproto.TypeKernelStarted, &agentproto.KernelStarted{Cell: c.number, Fresh: fresh})
	go p.send(k.lang.encode(c))
	done := k.await(p, c)
	c.window.close() // what others write now is not waited for
	p.begin(nil)
	k.cur.Store(nil)
	done.Dropped = c.notice()
	c.end(agentproto.TypeKernelDone, done)
}

// forgetUnused forgets a session whose interpreter never ran, so that it does not count. Cells that wait fail with it.
func (k *kernel) forgetUnused(failed *agentproto.KernelFailed) {
	k.ks.mu.Lock()
	if k.proc != nil || k.closed {
		k.ks.mu.Unlock()
		return
	}
	queue := k.closeLocked()
	k.ks.mu.Unlock()
	for _, c := range queue {
		c.fail(failed.Kind, failed.Message)
	}
}

// await waits for the end of a cell that runs.
func (k *kernel) await(p *interpreter, c *cell) *agentproto.KernelDone {
	var timeout, grace <-chan time.Time
	nudge := time.NewTicker(nudgeTime)
	nudge.Stop()
	defer nudge.Stop()
	if c.req.TimeoutMS > 0 {
		t := time.NewTimer(time.Duration(min(c.req.TimeoutMS, 1<<40)) * time.Millisecond)
		defer t.Stop()
		timeout = t.C
	}
	stopped := agentproto.KernelStatus("") // why
	stop := func(why agentproto.KernelStatus, within time.Duration) {
		if stopped == "" {
			stopped = why
		}
		timeout = nil
		p.signal(syscall.SIGINT)
		nudge.Reset(nudgeTime)
		if grace == nil || within < goneGrace {
			grace = time.After(within)
		}
	}
	for {
		select {
		case n := <-p.begun:
			if n == c.number && stopped != "" { // it was not heard before
				p.signal(syscall.SIGINT)
			}
		case e := <-p.ends:
			if e.number != c.number {
				continue
			}
			return e.done(stopped)
		case <-p.over:
			select {
			case e := <-p.ends: // it said so before it ended
				if e.number == c.number {
					d := e.done(stopped)
					d.StateLost = true
					return d
				}
			default:
			}
			return k.death(p, stopped)
		case <-timeout:
			stop(agentproto.KernelTimeout, graceTime)
		case why := <-c.stop:
			if why == stopGone {
				stop(agentproto.KernelInterrupted, goneGrace)
			} else {
				stop(agentproto.KernelInterrupted, graceTime)
			}
		case <-nudge.C:
			p.signal(syscall.SIGINT)
		case <-grace:
			grace = nil
			if c.mute() { // it may have waited for its client to read, and nothing else
				grace = time.After(nudgeTime)
			} else if p.ended.Load() != c.number {
				p.kill()
			}
		}
	}
}

// death is the end of a cell whose interpreter has ended.
func (k *kernel) death(p *interpreter, stopped agentproto.KernelStatus) *agentproto.KernelDone {
	d := &agentproto.KernelDone{Status: agentproto.KernelExit, Code: int32(p.status.ExitStatus()), StateLost: true}
	switch {
	case stopped != "":
		d.Status = stopped
	case p.asked.Load():
		d.Status = agentproto.KernelInterrupted
	case !p.status.Exited():
		d.Status = agentproto.KernelDied
	}
	if !p.status.Exited() {
		d.Code, d.Signal = -1, int32(p.status.Signal())
	}
	return d
}

// interpreter returns the one that runs, or starts one.
func (k *kernel) interpreter() (p *interpreter, fresh bool, failed *agentproto.KernelFailed) {
	k.ks.mu.Lock()
	p = k.proc
	k.ks.mu.Unlock()
	if p != nil && !p.isOver() {
		return p, false, nil
	}
	p, failed = k.start()
	if failed != nil {
		return nil, false, failed
	}
	return p, true, nil
}

// start starts an interpreter and waits until it is ready.
func (k *kernel) start() (*interpreter, *agentproto.KernelFailed) {
	p, failed := k.spawn()
	if failed != nil {
		return nil, failed
	}
	k.ks.mu.Lock()
	k.proc = p
	closed := k.closed
	k.ks.mu.Unlock()
	if closed {
		p.kill()
	}
	late := time.NewTimer(startTime)
	defer late.Stop()
	why := ""
	select {
	case <-p.ready:
		return p, nil
	case <-p.over:
		why = "it ended: " + ended(p.status)
	case <-late.C:
		p.kill()
		<-p.over
		why = fmt.Sprintf("it was not ready within %v", startTime)
	}
	k.ks.mu.Lock()
	if k.cells == 1 {
		k.proc = nil
	}
	k.ks.mu.Unlock()
	if words := p.words(); words != "" {
		why += ": " + words
	}
	return nil, &agentproto.KernelFailed{Kind: agentproto.KernelNoStart, Message: "start the interpreter of " + k.lang.name + ": " + why}
}

func ended(s syscall.WaitStatus) string {
	if s.Exited() {
		return fmt.Sprintf("exit code %d", s.ExitStatus())
	}
	return s.Signal().String()
}

// kill fails the cells that wait and, unless spared, kills the interpreter. The channel is closed when that is done. A session to
// be forgotten ends then.
func (k *kernel) kill(forget, spare bool) (gone <-chan struct{}) {
	k.ks.mu.Lock()
	p := k.proc
	queue := k.emptyLocked()
	if forget {
		k.closeLocked()
	}
	k.ks.mu.Unlock()
	for _, c := range queue {
		c.fail(agentproto.KernelGone, "the session was closed or restarted while the cell waited")
	}
	if p == nil && !forget {
		nothing := make(chan struct{})
		close(nothing)
		return nothing
	}
	if p != nil && !spare {
		p.asked.Store(true)
		if c := k.current(); c != nil {
			c.mute()
		}
		p.kill()
	}
	if forget {
		return k.done
	}
	return p.over
}

// closeLocked ends the session and returns the cells that wait.
func (k *kernel) closeLocked() []*cell {
	queue := k.emptyLocked()
	k.closed = true
	if k.ks.all[k.key] == k {
		delete(k.ks.all, k.key)
	}
	wake(k.more)
	return queue
}

func (k *kernel) emptyLocked() []*cell {
	queue := k.queue
	k.queue = nil
	for _, c := range queue {
		k.ks.waiting -= len(c.req.Code)
	}
	return queue
}

func (k *kernel) infoLocked() agentproto.KernelInfo {
	info := agentproto.KernelInfo{Language: k.key.language, Session: k.key.session, Cells: k.cells, Queued: uint32(len(k.queue)), Busy: k.current() != nil}
	if k.proc != nil && !k.proc.isOver() {
		info.PID = uint32(k.proc.child.pid)
	}
	return info
}
