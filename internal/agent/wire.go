package agent

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// wire is the writing end of the connection. Sessions write to it and wait when the host does not read. The goroutine
// that reads the connection must not wait, so what it has to say goes through a queue.
type wire struct {
	activity *atomic.Uint64

	mu  sync.Mutex
	w   io.Writer
	err error

	start   sync.Once
	stop    sync.Once
	replies chan []byte
	done    chan struct{}
}

// maxReplies bounds the queue of replies. A host that asks without reading the answers is waited for.
const maxReplies = 1024

func newWire(w io.Writer, activity *atomic.Uint64) *wire {
	return &wire{w: w, activity: activity, replies: make(chan []byte, maxReplies), done: make(chan struct{})}
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

// reply queues one frame; it does not wait for the host.
func (w *wire) reply(id uint32, t agentproto.Type, p agentproto.Payload) {
	w.count(t)
	w.start.Do(func() { go w.run() })
	select {
	case w.replies <- agentproto.Append(nil, id, t, p):
	case <-w.done:
	}
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
