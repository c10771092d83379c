package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
)

// again is within what time a second ctrl-C kills the command.
const again = 2 * time.Second

// signals turns the signals that msb gets into what they mean for a command in the guest: SIGINT and SIGQUIT go to its
// process group, a second one within 2 s kills it, as do SIGTERM and SIGHUP; SIGWINCH resizes its terminal. While
// there is no command, all of them end what ctx bounds. SIGPIPE becomes the error of the write.
type signals struct {
	ctx    context.Context // ends with a signal that kills
	cancel context.CancelCauseFunc
	ch     chan os.Signal
	pipe   chan os.Signal

	mu      sync.Mutex
	session *agentclient.Session
	resize  func() (rows, cols uint16)
	last    syscall.Signal // the last one that was forwarded
	at      time.Time
}

// signalError is the end by a signal that msb got.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return fmt.Sprintf("ended by %v", e.sig) }

// catchSignals begins to do so; stop ends it.
func (a *app) catchSignals(parent context.Context) *signals {
	s := &signals{ch: make(chan os.Signal, 8), pipe: make(chan os.Signal, 1)}
	s.ctx, s.cancel = context.WithCancelCause(parent)
	want := []os.Signal{syscall.SIGWINCH}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(sig) { // nohup, or a job in the background
			want = append(want, sig)
		}
	}
	signal.Notify(s.ch, want...)
	signal.Notify(s.pipe, syscall.SIGPIPE) // nobody reads it: the write's error is enough
	go s.loop()
	return s
}

func (s *signals) stop() {
	signal.Stop(s.ch)
	signal.Stop(s.pipe)
	s.cancel(nil)
}

func (s *signals) loop() {
	for {
		select {
		case sig := <-s.ch:
			s.handle(sig.(syscall.Signal))
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *signals) handle(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.session
	switch {
	case sig == syscall.SIGWINCH:
		if x != nil && s.resize != nil {
			rows, cols := s.resize()
			go x.Resize(rows, cols)
		}
		return
	case x != nil && (sig == syscall.SIGINT || sig == syscall.SIGQUIT) && (s.last == 0 || time.Since(s.at) > again):
		s.last, s.at = sig, time.Now()
		go x.Signal(int(sig)) // the connection may be stuck; the next signal must not wait for it
		return
	}
	s.cancel(&signalError{sig})
}

// forwardTo says where signals go from now on; nil is nowhere.
func (s *signals) forwardTo(x *agentclient.Session, a *app) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session, s.resize = x, a.size
}

// killedBy is the exit code of a command that died of a signal: of the one that was forwarded to it, else SIGKILL.
func (s *signals) killedBy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != 0 {
		return 128 + int(s.last)
	}
	return exitKilled
}

// explain makes an exit code of an error whose cause is a signal.
func (s *signals) explain(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := context.Cause(s.ctx).(*signalError); ok {
		return exitCode(128 + int(e.sig))
	}
	return err
}
