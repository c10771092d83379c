package agent

import (
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// ownIdentity is who the agent is; it does not change.
var ownIdentity = sync.OnceValue(func() identity {
	return identity{uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
})

// waitStopped waits until a traced process has stopped. It fails if the process ended first, and leaves it to be reaped.
func waitStopped(pid int) error {
	for {
		stopped, err := waitidTraced(pid)
		if err == syscall.EINTR {
			continue
		}
		if err == nil && !stopped {
			err = syscall.ESRCH
		}
		return err
	}
}

// killAll kills every process that PID 1 may.
func killAll() { _ = syscall.Kill(-1, syscall.SIGKILL) }

// terminateAll asks every process that PID 1 may to end.
func terminateAll() { _ = syscall.Kill(-1, syscall.SIGTERM) }

// watchSignals makes PID 1 end in order when the guest tells it to. Without it the Go runtime would end it at once.
func (a *Agent) watchSignals() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	for s := range signals {
		if s != syscall.SIGHUP {
			a.shutdown()
		}
	}
}

// syncFS gives the kernel's dirty pages a moment to reach their disks.
func syncFS() {
	done := make(chan struct{})
	go func() { syscall.Sync(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// stopReading makes the goroutine that reads the connection return.
func stopReading(conn io.Closer) {
	if c, ok := conn.(interface{ SetReadDeadline(time.Time) error }); !ok || c.SetReadDeadline(time.Unix(1, 0)) != nil {
		_ = conn.Close()
	}
}
