package gvisor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// instance is one running gVisor sandbox: a sentry process and, if it has binds, a gofer process.
type instance struct {
	id      string
	conf    *config.Config
	c       *container.Container
	state   *os.File // the anonymous file system of gVisor's own files
	sentry  int
	gofer   int
	pidfd   int
	memfile *os.File // the guest's memory, for metering; nil if it was not found

	mu     sync.Mutex
	waited bool
	exit   driver.Exit
	done   chan struct{} // closed when the sentry has been waited for
}

func (i *instance) PID() int { return i.sentry }

// PIDs lists the sentry, the gofer and all their children.
func (i *instance) PIDs() []int {
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

// reap waits for the sentry, then ends the gofer, and publishes the exit. It is the only one who waits for them.
func (i *instance) reap() {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(i.sentry, &ws, 0, nil)
		if err != unix.EINTR {
			break
		}
	}
	if i.gofer != 0 {
		_ = unix.Kill(i.gofer, unix.SIGKILL) // still ours: nobody has waited for it
		for {
			if _, err := unix.Wait4(i.gofer, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
	}
	if ws.Signaled() {
		i.exit.Signal = int(ws.Signal())
	} else {
		i.exit.Code = ws.ExitStatus()
	}
	close(i.done)
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
	if i.memfile != nil {
		errs = append(errs, i.memfile.Close())
	}
	errs = append(errs, i.state.Close()) // gVisor's sockets, locks and state files go with it
	return errors.Join(errs...)
}
