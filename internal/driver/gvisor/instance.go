package gvisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor/gofer"
)

// instance is one running gVisor sandbox: a sentry process and, if it has binds, a gofer process.
type instance struct {
	id      string
	conf    *config.Config
	c       *container.Container
	state   *os.File // the anonymous file system of gVisor's own files
	sentry  int
	gofer   int
	pidfd   int      // of the sentry
	goferfd int      // of the gofer; -1 if there is none
	memfile *os.File // the guest's memory, for metering; nil if it was not found
	served  []gofer.Mount
	usage   *gofer.Usage // of served; nil if there are none

	gauge gauge // of who calls Usage

	statm, goferStatm, io procFile

	mu     sync.Mutex
	waited bool
	ended  bool // a process was waited for
	exit   driver.Exit
	done   chan struct{} // closed when the sentry has been waited for
}

// watch opens handles of the processes, through which they can be killed without a doubt about their ids.
func (i *instance) watch() (err error) {
	if i.gofer != 0 {
		if i.goferfd, err = unix.PidfdOpen(i.gofer, 0); err != nil {
			i.goferfd = -1
		}
	}
	if err == nil {
		i.pidfd, err = unix.PidfdOpen(i.sentry, 0)
	}
	if err != nil {
		// Nobody has waited for them, so the ids are theirs.
		_ = unix.Kill(i.sentry, unix.SIGKILL)
		wait(i.sentry)
		if i.gofer != 0 {
			_ = unix.Kill(i.gofer, unix.SIGKILL)
			wait(i.gofer)
		}
		return fmt.Errorf("watch gVisor's processes: %w", err)
	}
	return nil
}

func (i *instance) PID() int { return i.sentry }

// PIDs lists the sentry, the gofer and all their children.
func (i *instance) PIDs() []int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return nil // the numbers may be others' now
	}
	pids := []int{i.sentry}
	if i.gofer != 0 {
		pids = append(pids, i.gofer)
	}
	for n := 0; n < len(pids); n++ {
		pids = append(pids, children(pids[n])...)
	}
	return pids
}

// children lists the living children of every thread of a process.
func children(pid int) []int {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range tasks {
		b, err := os.ReadFile(dir + "/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for _, w := range strings.Fields(string(b)) {
			if p, err := strconv.Atoi(w); err == nil {
				pids = append(pids, p)
			}
		}
	}
	return pids
}

// reap waits for the sentry and the gofer, neither of which is of use without the other, and publishes the exit. It is the
// only one who waits for them.
func (i *instance) reap() {
	gofer := make(chan struct{})
	sentry := make(chan unix.WaitStatus, 1)
	go func() {
		defer close(gofer)
		if i.gofer != 0 {
			i.reapOne(i.goferfd, i.gofer)
		}
	}()
	go func() { sentry <- i.reapOne(i.pidfd, i.sentry) }()
	var ws unix.WaitStatus
	if i.gofer == 0 {
		ws = <-sentry
	} else {
		select {
		case ws = <-sentry:
			if len(i.served) > 0 { // it ends by itself when it sees that, and writes down what the disk holds
				select {
				case <-gofer:
				case <-time.After(goferGrace):
				}
			}
			_ = unix.PidfdSendSignal(i.goferfd, unix.SIGKILL, nil, 0)
		case <-gofer:
			// The gofer outlives its sentry but for an accident; at an ordinary end both go at about the same time.
			select {
			case ws = <-sentry:
			case <-time.After(goferGrace):
				i.exit.Cause = "its file server was killed"
				i.Kill()
				ws = <-sentry
			}
		}
	}
	<-gofer
	if ws.Signaled() {
		i.exit.Signal = int(ws.Signal())
	} else {
		i.exit.Code = ws.ExitStatus()
	}
	close(i.done)
}

// reapOne waits for the end of a child, and takes its number away only when nobody uses it.
func (i *instance) reapOne(pidfd, pid int) unix.WaitStatus {
	for {
		if err := unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	return wait(pid)
}

// goferGrace is how long a sentry may live on without its gofer, and a gofer without its sentry.
const goferGrace = 100 * time.Millisecond

// wait waits for a child's end.
func wait(pid int) (ws unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
			return ws
		}
	}
}

func (i *instance) Wait() driver.Exit {
	<-i.done
	return i.exit
}

func (i *instance) Kill() { _ = unix.PidfdSendSignal(i.pidfd, unix.SIGKILL, nil, 0) }

func (i *instance) Destroy() error {
	i.Kill()
	<-i.done
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waited {
		return nil
	}
	i.waited = true
	var errs []error
	if err := unix.Close(i.pidfd); err != nil {
		errs = append(errs, fmt.Errorf("close the sentry's pidfd: %w", err))
	}
	if i.goferfd >= 0 {
		errs = append(errs, unix.Close(i.goferfd))
	}
	if i.memfile != nil {
		errs = append(errs, i.memfile.Close())
	}
	errs = append(errs, i.statm.close(), i.goferStatm.close(), i.io.close())
	if i.usage != nil {
		errs = append(errs, i.usage.Close())
	}
	errs = append(errs, i.state.Close()) // gVisor's sockets, locks and state files go with it
	return errors.Join(errs...)
}
