package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/proxy"
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

// supervisor is one run of one sandbox. Its life: start, wait for the first word in ending, finish.
type supervisor struct {
	cfg    launch.Config
	driver driver.Driver
	words  *json.Encoder
	log    *slog.Logger

	ending chan sandbox.End // why it is to end; the first counts
	gone   chan struct{}    // closed when finish begins

	dir     *os.File // the run directory, held so that its path's length does not matter
	inst    driver.Instance
	limits  *limits
	gateway *netstack.Gateway              // nil where there is no network
	proxy   *proxy.Proxy                   // as gateway
	flows   *flowLog                       // as gateway
	events  atomic.Pointer[execlog.Writer] // out, for whoever tells of something while it is begun
	ports   []sandbox.Port                 // published
	relay   *relay
	listen  *net.UnixListener
	control *net.UnixListener           // requests to the runner; nil before it is ready
	out     *execlog.Writer             // exec.log
	asked   atomic.Bool                 // a client asked the agent to end
	retires atomic.Pointer[sandbox.End] // the agent was asked to end, for this reason
	alarm   *alarm                      // of pulse
	samples samples                     // that pulse took
	tasks   sync.WaitGroup

	recording sync.Mutex // one writer of RunningFile at a time
	policyMu  sync.Mutex
	policy    sandbox.NetworkPolicy

	startedAt time.Time
	bounding  sync.WaitGroup // settle, which must not meet processes that are being ended
}

func (s *supervisor) run() int {
	stop := make(chan os.Signal, 4)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	go s.watchOwner()
	started := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { started <- s.start(ctx) }()
	ending := s.ending
	var first *sandbox.End // why it is to end, asked for while it starts
	for {
		select {
		case err := <-started:
			started = nil
			switch {
			case err != nil:
				return s.fail(err)
			case first != nil:
				s.finish(*first)
				return 0
			}
		case <-stop:
			s.end(sandbox.ReasonShutdown, "")
		case e := <-ending:
			if started == nil {
				s.finish(e)
				return 0
			}
			first, ending = &e, nil
			cancel(causeOf(e))
			time.AfterFunc(startGrace, func() { os.Exit(1) }) // a start that does not heed it: all that it made ends with us
		}
	}
}

// startGrace is how long a start may take to notice that it is no more wanted.
const startGrace = 5 * time.Second

// causeOf says in an error's words why a start was broken off.
func causeOf(e sandbox.End) error {
	switch e.Reason {
	case sandbox.ReasonShutdown, sandbox.ReasonParentGone:
		return &sandbox.Error{Kind: sandbox.Cancelled, Message: "the sandbox was stopped while it started"}
	}
	return &sandbox.Error{Kind: sandbox.BootFailed, Message: cmp.Or(e.Message, string(e.Reason))}
}

// end asks for the end of the sandbox. The first to ask says why.
func (s *supervisor) end(reason sandbox.Reason, message string) {
	select {
	case s.ending <- end(reason, message):
	default: // others were first
	}
}

// watchOwner ends the sandbox when the process that owns it ends, or lets it be when that process says so.
func (s *supervisor) watchOwner() {
	f := os.NewFile(launch.WatchFD, "owner")
	var b [1]byte
	if n, _ := f.Read(b[:]); n == 1 && b[0] == launch.Detach {
		return
	}
	s.end(sandbox.ReasonParentGone, "the process that owned it ended")
}

// mark logs how far the start is, for finding out where the time goes (--log-level debug).
func (s *supervisor) mark(step string) {
	s.log.Debug("start", "step", step, "after", time.Since(s.cfg.SpawnedAt).Round(time.Microsecond))
}

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

func (s *supervisor) running() launch.Running {
	return launch.Running{PID: os.Getpid(), StartedAt: s.startedAt, Confinement: s.confinement(), Draining: s.relay.work.isDraining(), Ports: s.ports}
}

// recordRunning writes what readers of a running sandbox see.
func (s *supervisor) recordRunning() error {
	s.recording.Lock()
	defer s.recording.Unlock()
	b, err := json.Marshal(s.running())
	if err == nil {
		err = atomicfile.Write(s.path(launch.RunningFile), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the running sandbox: %w", err)
	}
	return nil
}

func (s *supervisor) confinement() sandbox.Confinement {
	c := sandbox.Confinement{Driver: s.driver.Name(), Memory: s.limits.memoryBy(), CPU: s.limits.cpuBy(), Network: "none", User: "root"}
	if s.gateway != nil {
		c.Network = "gateway"
	}
	if s.cfg.UserNS {
		c.User = "userns"
	}
	return c
}

func (s *supervisor) driverConfig(id string, control *os.File, link *driver.Link) driver.Config {
	spec := s.cfg.Info.Spec
	cfg := driver.Config{
		ID: id, RootImage: s.cfg.Root.Image, Agent: s.cfg.Agent, Hostname: spec.Runtime.Hostname, Control: control, Link: link,
		CPUs: spec.Resources.MaxCPUs, MemoryBytes: uint64(spec.Resources.MaxMemoryMiB) << 20, Log: s.log,
	}
	if d := s.cfg.Root.Disk; d != nil && d.Source != "" {
		limit := uint64(d.SizeMiB) << 20
		cfg.Disk = &driver.Disk{Source: d.Source, LimitBytes: limit, LimitInodes: max(limit/bytesPerInode, leastInodes)}
	}
	for _, b := range s.cfg.Root.Binds {
		cfg.Binds = append(cfg.Binds, driver.Bind{Source: b.Source, Target: b.Target, ReadOnly: true,
			// To an ordinary user all files of the image host are nobody's; a set-user-ID program would make one of root.
			NoSUID: s.cfg.UserNS})
	}
	for _, m := range s.cfg.Mounts {
		cfg.Binds = append(cfg.Binds, bindOf(m))
	}
	for _, m := range spec.Mounts {
		if m.Type == sandbox.MountTmpfs {
			cfg.Tmpfs = append(cfg.Tmpfs, driver.Tmpfs{Target: m.Guest, SizeBytes: uint64(m.SizeMiB) << 20, ReadOnly: m.Options.ReadOnly,
				NoExec: m.Options.NoExec, NoSUID: m.Options.NoSUID, NoDev: m.Options.NoDev})
		}
	}
	if spec.Runtime.LogLevel == "trace" {
		cfg.DebugDir = filepath.Join(s.cfg.RunDir, "gvisor")
		_ = os.Mkdir(cfg.DebugDir, 0o700)
	}
	return cfg
}

// bindOf is a mount in the driver's words.
func bindOf(m launch.Mount) driver.Bind {
	b := driver.Bind{Source: m.Source, Target: m.Target, ReadOnly: m.Options.ReadOnly, NoExec: m.Options.NoExec, NoSUID: m.Options.NoSUID,
		NoDev: m.Options.NoDev, Shared: true}
	if m.Stat != sandbox.StatOff {
		limit := uint64(m.QuotaMiB) << 20
		b.Files = &driver.Files{Stat: m.Stat, Mirror: m.Mirror, UID: m.Owner.UID, GID: m.Owner.GID, LimitBytes: limit}
		if limit > 0 {
			b.Files.LimitInodes = max(limit/bytesPerInode, leastInodes)
		}
	}
	return b
}

// bytesPerInode is how much of a disk there is for each file that it may hold, as of ext4; leastInodes is for small ones.
const (
	bytesPerInode = 16 << 10
	leastInodes   = 16 << 10
)

// path is a file of the run directory, by a path that is short however long the directory's is.
func (s *supervisor) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(s.dir.Fd())), name)
}

// shutdownRequested notes that a client asked the agent to end; the agent does so by itself, within its own time.
func (s *supervisor) shutdownRequested() { s.asked.Store(true) }

const oomHint = "give it more with -m"

func oomMessage(spec sandbox.Spec) string {
	return fmt.Sprintf("it went over its memory limit of %d MiB", spec.Resources.MemoryMiB)
}

// outOfMemory reports whether the kernel has killed a process of the sandbox for want of memory, and if so ends it. Which of
// gVisor's processes that is cannot be foreseen; a command may seem to have died by itself.
func (s *supervisor) outOfMemory() bool {
	if !s.limits.oom() {
		return false
	}
	s.end(sandbox.ReasonOOM, oomMessage(s.cfg.Info.Spec))
	return true
}

// reasonOfKill says why a sentry that was killed was killed.
func (s *supervisor) reasonOfKill(sig int) (sandbox.Reason, string) {
	if s.limits.oom() {
		return sandbox.ReasonOOM, oomMessage(s.cfg.Info.Spec)
	}
	return sandbox.ReasonSignal, fmt.Sprintf("its kernel was killed by signal %d", sig)
}

func controlPair() (host net.Conn, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the control connection: %w", err)
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
