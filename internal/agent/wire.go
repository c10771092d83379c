package agent

import (
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// wire is the writing end of the connection. Sessions write to it and wait when the host does not read. The goroutine
// that reads the connection must not wait, so what it has to say goes through a queue.
type wire struct {
	activity *atomic.Uint64

	mu  sync.Mutex
	w   io.Writer
	err error
	raw syscall.RawConn // of w, if it is a socket

	start   sync.Once
	stop    sync.Once
	replies chan []byte
	done    chan struct{}
}

// maxReplies bounds the queue of replies. A host that asks without reading the answers is waited for.
const maxReplies = 1024

func newWire(w io.Writer, activity *atomic.Uint64) *wire {
	out := &wire{w: w, activity: activity, replies: make(chan []byte, maxReplies), done: make(chan struct{})}
	if c, ok := w.(syscall.Conn); ok {
		out.raw, _ = c.SyscallConn()
	}
	return out
}

// write writes whole frames, in one piece.
func (w *wire) write(frames []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		_, w.err = w.w.Write(frames)
	}
	return w.err
}

// send writes one frame, and waits for the host to take it.
func (w *wire) send(id uint32, t agentproto.Type, p agentproto.Payload) error {
	w.count(t)
	return w.write(agentproto.Append(nil, id, t, p))
}

// reply writes one frame without waiting for the host: what the connection does not take at once is queued.
func (w *wire) reply(id uint32, t agentproto.Type, p agentproto.Payload) {
	w.count(t)
	b := agentproto.Append(nil, id, t, p)
	if w.raw != nil && w.mu.TryLock() {
		sent := w.try(b)
		if sent == len(b) || w.err != nil {
			w.mu.Unlock()
			return
		}
		if sent > 0 { // the rest comes before anything else
			go func() {
				defer w.mu.Unlock()
				_, w.err = w.w.Write(b[sent:])
			}()
			return
		}
		w.mu.Unlock()
	}
	w.start.Do(func() { go w.run() })
	select {
	case w.replies <- b:
	case <-w.done:
	}
}

// try writes as much as the connection takes now. It is called with mu held.
func (w *wire) try(b []byte) (sent int) {
	if w.err != nil {
		return 0
	}
	_ = w.raw.Control(func(fd uintptr) {
		sent, _ = syscall.SendmsgN(int(fd), b, nil, nil, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
	})
	return max(sent, 0)
}

func (w *wire) run() {
	for {
		select {
		case b := <-w.replies:
			if w.write(b) != nil {
				return
			}
		case <-w.done:
			return
		}
	}
}

// close makes every later write fail. One that is under way ends when the connection does.
func (w *wire) close() { w.stop.Do(func() { close(w.done) }) }

// count counts a message as activity if it is one (contract msb-0.6 §4.7).
func (w *wire) count(t agentproto.Type) {
	switch t {
	case agentproto.TypeClockSync, agentproto.TypePing, agentproto.TypePong, agentproto.TypeTouched, agentproto.TypeError:
	default:
		w.activity.Add(1)
	}
}
