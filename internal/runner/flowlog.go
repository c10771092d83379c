package runner

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The flow log has two files of this size at most, in bytes; and so many lines may wait to be written.
const (
	flowLogSize  = 4 << 20
	flowLogQueue = 1024
	flowLogRate  = 500 // lines per second: the guest decides how many flows there are
	// flowLogGather is how long the line of a begin or an end may wait for others: a write of its own for each would cost more than the connection.
	flowLogGather = 20 * time.Millisecond
	flowLogBuffer = 64 << 10 // bytes; no line has as many
)

// flowLog writes flows as lines of JSON, and passes on events in words, in a goroutine of its own, so that a slow disk does
// not hold up the network. What it cannot keep up with is left out; flows that were are counted in the next line.
type flowLog struct {
	path  string
	log   *slog.Logger
	event func(text string) // may wait
	done  sync.WaitGroup

	mu     sync.Mutex
	queue  chan told
	second int64 // of the lines that are counted
	lines  int   // in that second
	lost   int
	closed bool
}

// told is a flow or, if that has no event, a text.
type told struct {
	flow sandbox.Flow
	text string
}

// newFlowLog makes the log in dir; its file is made with its first line.
func newFlowLog(dir string, log *slog.Logger, event func(text string)) *flowLog {
	l := &flowLog{path: filepath.Join(dir, launch.FlowFile), log: log, event: event, queue: make(chan told, flowLogQueue)}
	l.done.Go(l.write)
	return l
}

// add never waits.
func (l *flowLog) add(f sandbox.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now().Unix(); now != l.second {
		l.second, l.lines = now, 0
	}
	f.Suppressed += l.lost
	if l.lines++; l.lines > flowLogRate || !l.putLocked(told{flow: f}) {
		l.lost = f.Suppressed + 1
		return
	}
	l.lost = 0
}

// tell passes an event on in words. It never waits.
func (l *flowLog) tell(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putLocked(told{text: text})
}

func (l *flowLog) putLocked(t told) bool {
	if l.closed {
		return true
	}
	select {
	case l.queue <- t:
		return true
	default:
		return false
	}
}

// close writes what waits. It may be called twice.
func (l *flowLog) close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	l.done.Wait()
	return nil
}

func (l *flowLog) write() {
	var file *os.File
	var out *bufio.Writer
	size := int64(0)
	defer func() {
		if file != nil {
			_ = out.Flush()
			_ = file.Close()
		}
	}()
	var due <-chan time.Time // when what was gathered is to be written; nil while there is nothing
	flush := func() bool {
		due = nil
		err := out.Flush()
		if err != nil {
			l.log.Warn("the flow log ends here", "err", err)
			l.eventsOnly()
		}
		return err == nil
	}
	for {
		var t told
		var open bool
		select {
		case t, open = <-l.queue:
		case <-due:
			if !flush() {
				return
			}
			continue
		}
		if !open {
			return
		}
		if t.flow.Event == "" {
			l.event(t.text)
			continue
		}
		line, err := json.Marshal(t.flow)
		if err != nil {
			continue // it has no value that JSON has not
		}
		line = append(line, '\n')
		if file != nil && size+int64(len(line)) > flowLogSize {
			_ = out.Flush()
			_ = file.Close()
			file = nil
			if err := os.Rename(l.path, l.path+".1"); err != nil {
				l.log.Warn("turn over the flow log", "err", err)
			}
		}
		if file == nil {
			if file, size = l.open(); file == nil {
				l.eventsOnly()
				return
			}
			out = bufio.NewWriterSize(file, flowLogBuffer)
		}
		if out.Available() < len(line) && !flush() { // lines are written whole
			return
		}
		size += int64(len(line))
		_, _ = out.Write(line) // its error is Flush's, too
		switch {
		case t.flow.Event == sandbox.FlowDeny && len(l.queue) == 0: // somebody may be looking for it
			if !flush() {
				return
			}
		case due == nil:
			due = time.After(flowLogGather)
		}
	}
}

func (l *flowLog) open() (*os.File, int64) {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		l.log.Warn("there is no flow log", "err", err)
		return nil, 0
	}
	st, err := file.Stat()
	if err != nil {
		return file, 0
	}
	return file, st.Size()
}

// eventsOnly takes the flows that nobody will write.
func (l *flowLog) eventsOnly() {
	for t := range l.queue {
		if t.flow.Event == "" {
			l.event(t.text)
		}
	}
}
