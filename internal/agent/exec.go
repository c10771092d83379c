package agent

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// execSession is one command, from its request to its core.exec.exited.
type execSession struct {
	a   *Agent
	id  uint32
	req agentproto.ExecRequest

	input  *inbox
	window window

	mu      sync.Mutex
	io      *stdio           // once the files are open
	child   *child           // once it runs
	pending []syscall.Signal // signals from before that
	fed     bool             // there was input
	dropped bool
	ended   bool // no feeder may start any more

	feeder sync.WaitGroup

	reads atomic.Uint64 // of output
	left  atomic.Bool   // the session is over, and somebody still has its output
}

// maxPending bounds the signals that wait for a command to start.
const maxPending = 16

// exec begins a session. The command starts in the session's own goroutine.
func (a *Agent) exec(id uint32, payload []byte) error {
	s := &execSession{a: a, id: id, input: newInbox()}
	if err := agentproto.Decode(payload, &s.req); err != nil {
		return err
	}
	s.window.init(s.req.Window)
	if err := a.open(id, s); err != nil {
		return err
	}
	go s.run()
	return nil
}

func (s *execSession) run() {
	defer s.a.running.Done()
	defer s.input.close()
	std, c, failed := s.start()
	if failed != nil {
		s.finish(agentproto.TypeExecFailed, failed)
		return
	}
	s.say(agentproto.TypeExecStarted, &agentproto.ExecStarted{PID: uint32(c.pid)})
	std.closeChild()

	var status syscall.WaitStatus
	if s.req.Linger == 0 {
		s.output(std)
		s.a.reaper.look(c)
		status = <-c.exit
		defer s.a.pipes.fill()
		if s.endFeeding() {
			s.endInput(std)
		} else { // nobody has anything to say of it: first the news
			defer std.close()
		}
	} else {
		s.a.reaper.hurry()
		status = s.linger(std, c)
	}
	exited := &agentproto.ExecExited{Code: int32(status.ExitStatus())}
	if !status.Exited() {
		exited.Code, exited.Signal = -1, int32(status.Signal())
	}
	s.finish(agentproto.TypeExecExited, exited)
}

// output sends what the command writes, until nobody can write it any more.
func (s *execSession) output(std *stdio) {
	var stderr sync.WaitGroup
	if std.err != nil {
		stderr.Go(func() { s.copy(agentproto.TypeExecStderr, std.err) })
	}
	s.copy(agentproto.TypeExecStdout, std.out)
	stderr.Wait()
}

// linger is output and the command's end, but those who have its output after it are only waited for while they write.
func (s *execSession) linger(std *stdio, c *child) syscall.WaitStatus {
	copied := make(chan struct{})
	go func() {
		s.output(std)
		close(copied)
	}()
	status := <-c.exit
	tick := time.NewTicker(time.Duration(s.req.Linger) * time.Millisecond)
	defer tick.Stop()
	for last := s.reads.Load(); ; {
		select {
		case <-copied:
			s.endInput(std)
			return status
		case <-tick.C:
		}
		if now := s.reads.Load(); now != last || s.window.full() { // there is more to come, or the client is slow
			last = now
			continue
		}
		s.left.Store(true)
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.input.close()
		std.closeStdin()
		s.feeder.Wait()
		go func() {
			<-copied // whoever writes must not be stopped by it
			std.close()
		}()
		return status
	}
}

// start opens the command's files, starts it and delivers what was sent to it meanwhile.
func (s *execSession) start() (*stdio, *child, *agentproto.ExecFailed) {
	cmd, failed := s.a.prepare(&s.req)
	if failed != nil {
		return nil, nil, failed
	}
	std, failed := cmd.openFiles(&s.a.pipes, s.req.Rows, s.req.Cols)
	if failed != nil {
		return nil, nil, failed
	}
	s.mu.Lock()
	s.io = std
	s.mu.Unlock()

	c, failed := cmd.spawn(s.a.reaper, std.child[:])
	if failed != nil {
		std.closeChild()
		std.close()
		return nil, nil, failed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = c
	for _, sig := range s.pending {
		_ = s.a.reaper.signal(c, sig)
	}
	if s.dropped {
		_ = s.a.reaper.signal(c, syscall.SIGKILL)
		std.close()
	}
	if s.fed {
		s.feeder.Go(s.feed)
	}
	return std, c, nil
}

// endFeeding lets nobody begin to write to the command, and reports whether somebody has.
func (s *execSession) endFeeding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.fed
}

// endInput closes the agent's side of the command's files and waits for who writes them.
func (s *execSession) endInput(std *stdio) {
	s.endFeeding()
	s.input.close()
	std.close()
	s.feeder.Wait()
}

func (c *command) openFiles(pipes *spare, rows, cols uint16) (*stdio, *agentproto.ExecFailed) {
	if c.tty {
		std, err := openPTY(c.id.uid, rows, cols)
		if err != nil {
			return nil, c.failure(agentproto.FailPTYSetup, stagePTY, err)
		}
		return std, nil
	}
	std, err := pipes.take(c.id.uid)
	if err != nil {
		var e syscall.Errno
		errors.As(err, &e)
		return nil, c.failure(kindOf(e), stageIO, err)
	}
	return std, nil
}

// say sends a frame unless the client is gone.
func (s *execSession) say(t agentproto.Type, p agentproto.Payload) {
	if !s.isDropped() {
		_ = s.a.out.send(s.id, t, p)
	}
}

// finish ends the session: first the id is free, then the client hears of it.
func (s *execSession) finish(t agentproto.Type, p agentproto.Payload) {
	s.a.forget(s.id)
	s.say(t, p)
}

func (s *execSession) isDropped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

func (s *execSession) message(t agentproto.Type, payload []byte, f *agentproto.Frame) error {
	if t == agentproto.TypeExecStdin {
		c, err := newChunk(payload, f)
		if err == nil {
			s.stdin(c)
		}
		return err
	}
	defer f.Release()
	switch t {
	case agentproto.TypeExecResize:
		var size agentproto.ExecResize
		if err := agentproto.Decode(payload, &size); err != nil {
			return err
		}
		s.resize(size)
	case agentproto.TypeExecSignal:
		var sig agentproto.ExecSignal
		if err := agentproto.Decode(payload, &sig); err != nil {
			return err
		}
		if sig.Signal < 1 || sig.Signal > 64 {
			return &agentproto.Error{Kind: agentproto.InvalidPayload, Message: "no such signal"}
		}
		s.signal(syscall.Signal(sig.Signal))
	case agentproto.TypeAck:
		return s.window.ack(payload)
	default:
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: "the session is a command"}
	}
	return nil
}

func (s *execSession) resize(size agentproto.ExecResize) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.io != nil {
		s.io.resize(size.Rows, size.Cols)
	}
	s.req.Rows, s.req.Cols = size.Rows, size.Cols
}

func (s *execSession) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.child != nil:
		_ = s.a.reaper.signal(s.child, sig)
	case len(s.pending) < maxPending:
		s.pending = append(s.pending, sig)
	}
}

func (s *execSession) terminate() { s.signal(syscall.SIGTERM) }

func (s *execSession) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
	s.input.close()
	s.window.close()
	if s.child != nil {
		_ = s.a.reaper.signal(s.child, syscall.SIGKILL)
		s.io.close() // what outlives the kill may keep writing, to nobody
	}
}

// stdin queues input for the command.
func (s *execSession) stdin(c chunk) {
	s.mu.Lock()
	if !s.fed && s.child != nil && !s.ended {
		s.feeder.Go(s.feed)
	}
	s.fed = true
	s.mu.Unlock()
	if !s.input.push(c) {
		s.input.close()
		s.a.out.reply(s.id, agentproto.TypeExecStdinError, &agentproto.ExecStdinError{
			Message: "the command does not read its input; what was sent is dropped"})
	}
}

// feed writes the queued input to the command.
func (s *execSession) feed() {
	for {
		c, ok := s.input.pop()
		if !ok {
			return
		}
		err := s.write(c)
		n := len(c.data)
		c.frame.Release()
		s.input.done(n)
		if err != nil {
			s.input.close()
			if !errors.Is(err, os.ErrClosed) {
				number, name := errno(err)
				s.say(agentproto.TypeExecStdinError, &agentproto.ExecStdinError{Errno: number, ErrnoName: name, Message: "write to stdin: " + err.Error()})
			}
			return
		}
		if ack := s.window.received(n); ack > 0 {
			s.say(agentproto.TypeAck, &agentproto.Ack{Bytes: ack})
		}
	}
}

// write writes input to the command.
func (s *execSession) write(c chunk) error {
	s.mu.Lock()
	std := s.io
	s.mu.Unlock()
	if c.end {
		std.closeStdin()
		return nil
	}
	in := std.stdin()
	if in == nil {
		return os.ErrClosed
	}
	_, err := in.Write(c.data)
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err
}
