package runner

import (
	"cmp"
	"context"
	"encoding/json"
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

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/proxy"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

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

	recording sync.Mutex   // one writer of RunningFile at a time
	termsMu   sync.Mutex   // of what control requests change
	terms     sandbox.Spec // its environment, directory and secrets as they are now
	values    []string     // of the secrets
	policy    sandbox.NetworkPolicy
	strict    bool
	redactor  secret.Redactor

	startedAt time.Time
	cpuTime   atomic.Int64   // of the guest at the last look, nanoseconds
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
	_ = unix.SetNonblock(launch.WatchFD, true) // a thread less that waits
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

// path is a file of the run directory, by a path that is short however long the directory's is.
func (s *supervisor) path(name string) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(s.dir.Fd())), name)
}

// shutdownRequested notes that a client asked the agent to end; the agent does so by itself, within its own time.
func (s *supervisor) shutdownRequested() { s.asked.Store(true) }
