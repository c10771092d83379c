package runner

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/runner/launch"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The flow log has two files of this size at most, in bytes; and so many lines may wait to be written.
const (
	flowLogSize  = 4 << 20
	flowLogQueue = 1024
)

// flowLog writes flows as lines of JSON, in a goroutine of its own, so that a slow disk does not hold up the network. What
// it cannot keep up with is left out, and counted in the next line.
type flowLog struct {
	path string
	log  *slog.Logger
	done sync.WaitGroup

	mu     sync.Mutex
	queue  chan sandbox.Flow
	lost   int
	closed bool
}

// newFlowLog makes the log in dir; its file is made with its first line.
func newFlowLog(dir string, log *slog.Logger) *flowLog {
	l := &flowLog{path: filepath.Join(dir, launch.FlowFile), log: log, queue: make(chan sandbox.Flow, flowLogQueue)}
	l.done.Go(l.write)
	return l
}

// add never waits.
func (l *flowLog) add(f sandbox.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	f.Suppressed += l.lost
	select {
	case l.queue <- f:
		l.lost = 0
	default:
		l.lost++
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
	for f := range l.queue {
		line, err := json.Marshal(f)
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
				l.drain()
				return
			}
			out = bufio.NewWriter(file)
		}
		size += int64(len(line))
		_, _ = out.Write(line)
		if len(l.queue) == 0 {
			if err := out.Flush(); err != nil {
				l.log.Warn("the flow log ends here", "err", err)
				l.drain()
				return
			}
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

// drain takes what nobody will write.
func (l *flowLog) drain() {
	for range l.queue {
	}
}
