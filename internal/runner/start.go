package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// settleTime is how long after its start a sandbox is put into its control group. A move between groups stops every fork on
// the machine for an RCU grace period, some 10 ms, which a first command would wait for; one that ends before is spared it.
// Until then, as ever, the watchdog holds the sandbox to its memory.
const settleTime = 50 * time.Millisecond

// acceptPause is how long no client is accepted after that failed.
const acceptPause = 50 * time.Millisecond

// agentGrace is how long a sandbox may live on without a connection to its agent.
const agentGrace = time.Second

func (s *supervisor) start(ctx context.Context) error {
	s.mark("main")
	spec := s.cfg.Info.Spec
	var err error
	if s.dir, err = os.Open(s.cfg.RunDir); err != nil {
		return fmt.Errorf("open the run directory: %w", err)
	}
	id := filepath.Base(s.cfg.RunDir)
	memory := uint64(spec.Resources.MemoryMiB) << 20
	s.limits = newLimits(s.cfg.Group, memory, spec.Resources.CPUs, spec.Resources.CPUPlacement, s.log)
	if s.listen, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.path(launch.SocketFile), Net: "unix"}); err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	s.listen.SetUnlinkOnClose(false) // it goes with the directory
	if err := os.Chmod(s.path(launch.SocketFile), 0o600); err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}

	s.mark("listening")
	link, told, err := s.startNetwork(spec.Network)
	if err != nil {
		return err
	}
	s.mark("network")
	host, guest, err := controlPair()
	if err != nil {
		return err
	}
	in := agentproto.NewReader(host)
	type answer struct {
		frame []byte
		err   error
	}
	ready := make(chan answer, 1)
	go func() {
		frame, err := bringUp(host, in, func() error { return sendBootstrap(host, s.cfg, told) })
		s.mark("agent ready")
		ready <- answer{frame, err}
	}()
	if s.inst, err = s.driver.Start(ctx, s.driverConfig(id, guest, link)); err != nil {
		if why := context.Cause(ctx); why != nil {
			return why
		}
		return &sandbox.Error{Kind: sandbox.BootFailed, Message: err.Error(), Hint: "see what this machine lacks with: msb doctor"}
	}
	s.mark("driver started")
	go func() {
		x := s.inst.Wait()
		if x.Cause != "" {
			s.end(sandbox.ReasonInternal, x.Cause)
			return
		}
		if x.Signal != 0 {
			s.end(s.reasonOfKill(x.Signal))
			return
		}
		if x.Code != 0 && spec.Init == nil { // the agent ends with 0, gVisor with 2 when it crashes
			s.end(sandbox.ReasonInternal, fmt.Sprintf("its kernel ended with status %d", x.Code))
			return
		}
		if e := s.retires.Load(); e != nil {
			s.end(e.Reason, e.Message)
			return
		}
		if s.asked.Load() {
			s.end(sandbox.ReasonShutdown, "")
			return
		}
		if x.Code != 0 {
			s.end(sandbox.ReasonCompleted, fmt.Sprintf("its init exited with code %d", x.Code))
			return
		}
		s.end(sandbox.ReasonCompleted, "")
	}()
	var a answer
	select {
	case a = <-ready:
	case <-ctx.Done():
		a.err = context.Cause(ctx)
	}
	if a.err != nil {
		if s.limits.oom() {
			return &sandbox.Error{Kind: sandbox.BootFailed, Message: oomMessage(spec), Hint: oomHint}
		}
		if why := context.Cause(ctx); why != nil {
			return why
		}
		if sandbox.KindOf(a.err) == sandbox.PatchFailed {
			return a.err
		}
		return &sandbox.Error{Kind: sandbox.BootFailed, Message: a.err.Error()}
	}
	return s.open(host, in, a.frame)
}

// open lets clients in and says that the sandbox runs.
func (s *supervisor) open(agent net.Conn, in *agentproto.Reader, ready []byte) error {
	s.openLog()
	s.relay = &relay{agent: agent, in: in, ready: ready, onShutdown: s.shutdownRequested, holdBack: s.holdsBack, out: s.out, ending: make(chan struct{})}
	s.tasks.Go(func() {
		err := s.relay.run()
		s.relay.close()
		select {
		case <-s.gone:
		case <-time.After(agentGrace): // an ordinary end of the agent is the driver's to report
			if s.cfg.Info.Spec.Init != nil { // which may not be the end of its init
				if e := s.retires.Load(); e != nil {
					s.end(e.Reason, e.Message)
				} else if s.asked.Load() {
					s.end(sandbox.ReasonShutdown, "")
				}
			}
			s.end(sandbox.ReasonInternal, "its agent broke off: "+err.Error())
		}
	})
	s.tasks.Go(func() {
		for {
			conn, err := s.listen.Accept()
			switch {
			case err == nil:
				if u, ok := conn.(*net.UnixConn); ok {
					_ = u.SetWriteBuffer(sendBuffer)
				}
				s.relay.serve(conn)
			case errors.Is(err, net.ErrClosed):
				return
			default: // out of file descriptors, perhaps: there will be some again
				s.log.Warn("accept a client", "err", err)
				time.Sleep(acceptPause)
			}
		}
	})
	alarm, err := newAlarm()
	if err != nil {
		return err
	}
	s.alarm = alarm
	s.startedAt = time.Now().UTC()
	s.tasks.Go(s.pulse)
	s.bounding.Go(s.settle)
	if d := s.cfg.Info.Spec.Lifecycle.MaxDuration(); d > 0 {
		time.AfterFunc(d, func() { s.retire(sandbox.ReasonMaxDuration, fmt.Sprintf("it ran for its maximum of %s", d)) })
	}
	if err := s.recordRunning(); err != nil {
		return err
	}
	run := s.running()
	if err := s.words.Encode(launch.Word{Running: &run}); err != nil {
		s.log.Debug("the creator has gone", "err", err)
	}
	if len(s.cfg.Startup) > 0 {
		s.tasks.Go(s.runStartup)
	}
	s.openControl()
	return nil
}

// settle holds the sandbox's processes to their CPUs and puts them into its control group; then the runner needs its
// privileges no more.
func (s *supervisor) settle() {
	select {
	case <-s.gone:
		return
	case <-time.After(settleTime):
	}
	if err := s.limits.bound(filepath.Base(s.cfg.RunDir), s.inst); err != nil {
		s.log.Warn("no control group: the limits hold by watchdog and affinity", "err", err)
		if err := s.recordRunning(); err != nil {
			s.log.Error("what holds the sandbox could not be recorded", "err", err)
		}
	}
	if err := drop(); err != nil {
		s.end(sandbox.ReasonInternal, err.Error())
	}
}

// sendBuffer is what the sockets to the agent and to clients are asked to hold, in bytes: a frame of a flood, and more. Who writes one that
// does not fit sleeps halfway, which costs a guest more than all else about it.
const sendBuffer = 512 << 10

func controlPair() (host net.Conn, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the control connection: %w", err)
	}
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // as much of it as an ordinary user may have
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	guest = os.NewFile(uintptr(fds[1]), "control (guest)")
	if host, err = net.FileConn(f); err != nil {
		guest.Close()
		return nil, nil, fmt.Errorf("make the control connection: %w", err)
	}
	return host, guest, nil
}
