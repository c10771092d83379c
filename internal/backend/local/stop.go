package local

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The times of a stop (contract msb-0.6 §2.1): how long the guest may take when asked, and how long the runner may take
// to tear the sandbox down before it is killed itself.
const (
	stopTimeout = 10 * time.Second
	killTimeout = 5 * time.Second
)

// Stop ends a running sandbox and returns when its runner is gone.
func (b *Backend) Stop(ctx context.Context, ref sandbox.Ref, opt backend.StopOptions) error {
	r, err := b.store.Get(ref)
	if err != nil && sandbox.KindOf(err) != sandbox.NotFound {
		return err
	}
	if err != nil || !r.Live || r.End != nil {
		info, err := b.Get(ctx, ref)
		if err != nil {
			return err
		}
		return notRunning(ref, info.Status)
	}
	runner, err := b.find(ctx, ref)
	if err != nil {
		return err
	}
	if runner < 0 {
		return nil // it ended meanwhile
	}
	defer unix.Close(runner)
	point("stop: found")
	if !opt.Force {
		timeout := opt.Timeout
		if timeout == 0 {
			timeout = stopTimeout
		}
		if conn, err := b.ask(ctx, ref, timeout); err == nil {
			point("stop: asked")
			ended := gone(ctx, runner, timeout)
			conn.Close() // not before: the frame could be lost
			if ended {
				point("stop: ended")
				return b.reap(ref)
			}
		}
		if err := ctx.Err(); err != nil {
			return &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Cancelled, Message: "the stop was cancelled", Err: err}
		}
	}
	_ = unix.PidfdSendSignal(runner, unix.SIGTERM, nil, 0)
	point("stop: terminated")
	if !gone(context.WithoutCancel(ctx), runner, killTimeout) {
		_ = unix.PidfdSendSignal(runner, unix.SIGKILL, nil, 0)
		gone(context.WithoutCancel(ctx), runner, killTimeout)
		_, _ = b.store.Sweep()
	}
	return b.reap(ref)
}

// findTimeout is how long a runner may take to listen after it was started.
const findTimeout = 5 * time.Second

// find opens the runner's process; -1 is returned when it has ended. The kernel says who listens on the sandbox's socket: no
// file that a dead runner left, and no number in another PID namespace, can be taken for it.
func (b *Backend) find(ctx context.Context, ref sandbox.Ref) (int, error) {
	for deadline := time.Now().Add(findTimeout); ; {
		pid, err := b.listener(ctx, ref)
		if err == nil && pid > 0 {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return -1, nil
			}
			// The process whose socket still answers has not ended since, so the number was its own when it was opened.
			if again, err := b.listener(ctx, ref); err == nil && again == pid {
				return fd, nil
			}
			unix.Close(fd)
		}
		if !b.store.Live(ref.ShortID()) {
			return -1, nil
		}
		if err == nil && pid == 0 {
			return -1, &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Runtime, Message: "the sandbox's runner is in another PID namespace",
				Hint: "stop it where it was started"}
		}
		if ctx.Err() != nil {
			return -1, &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Cancelled, Message: "the stop was cancelled", Err: context.Cause(ctx)}
		}
		if time.Now().After(deadline) {
			return -1, &sandbox.Error{Op: "stop", Ref: ref, Kind: sandbox.Runtime, Message: "the sandbox's runner does not answer", Err: err}
		}
		time.Sleep(5 * time.Millisecond) // it is starting: its socket is there a few milliseconds after its lock
	}
}

// listener is the process that listens on the sandbox's socket: 0 if it is not visible from here.
func (b *Backend) listener(ctx context.Context, ref sandbox.Ref) (int, error) {
	conn, err := dialRunDir(ctx, b.store.Path(ref))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// ask tells the agent to shut down. The connection is the caller's to close.
func (b *Backend) ask(ctx context.Context, ref sandbox.Ref, timeout time.Duration) (net.Conn, error) {
	conn, err := b.Dial(ctx, ref)
	if err != nil {
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(agentproto.Append(nil, 0, agentproto.TypeShutdown, nil)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// reap notes how the sandbox ended. If the runner is our child, that is done when it is gone.
func (b *Backend) reap(ref sandbox.Ref) error {
	b.mu.Lock()
	c := b.mine[ref]
	b.mu.Unlock()
	if c != nil {
		<-c.settled
		return nil
	}
	if err := b.settle(ref); err != nil && sandbox.KindOf(err) != sandbox.StillRunning {
		return err
	}
	return nil
}

// gone waits until the process behind a pidfd has ended.
func gone(ctx context.Context, pidfd int, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := min(time.Until(deadline), time.Second) // a second bounds how late a cancellation is noticed
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
}
