package agent

import (
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// inbox is the data that a client has sent to a session and that the session has not consumed yet. Clients that use
// windows never fill it. For others the wire has no way to say "wait": when it is full, the connection waits for the
// session, but only as long as the session makes progress; then the session loses its input, not everyone else theirs.
type inbox struct {
	mu     sync.Mutex
	queue  []chunk
	bytes  int
	closed bool
	more   chan struct{} // has room for one signal: the queue is not empty, or closed
	room   chan struct{} // the same: bytes has shrunk, or closed
}

// chunk is one frame's data, or the end of the input, or the end of the session.
type chunk struct {
	data  []byte
	frame *agentproto.Frame
	end   bool
	last  bool
}

// newChunk takes a frame whose payload is {data}.
func newChunk(payload []byte, f *agentproto.Frame) (chunk, error) {
	data, err := agentproto.DecodeData(payload)
	if err != nil {
		f.Release()
		return chunk{}, err
	}
	return chunk{data: data, frame: f, end: len(data) == 0}, nil
}

// Bounds of an inbox.
const (
	maxInbox   = 4 << 20          // bytes
	inboxStall = 10 * time.Second // without progress while it is full
)

func newInbox() *inbox {
	return &inbox{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push queues a chunk and takes its frame. It returns false if the session has stalled: nothing of it is consumed.
func (in *inbox) push(c chunk) bool {
	var stall *time.Timer
	for {
		in.mu.Lock()
		if in.closed {
			in.mu.Unlock()
			c.frame.Release()
			return true
		}
		if in.bytes == 0 || in.bytes+len(c.data) <= maxInbox {
			in.queue = append(in.queue, c)
			in.bytes += len(c.data)
			in.mu.Unlock()
			wake(in.more)
			return true
		}
		in.mu.Unlock()
		if stall == nil {
			stall = time.NewTimer(inboxStall)
			defer stall.Stop()
		}
		select {
		case <-in.room:
			stall.Reset(inboxStall)
		case <-stall.C:
			c.frame.Release()
			return false
		}
	}
}

// pop waits for the next chunk. It returns false when the inbox is closed. The caller releases the frame, and says done.
func (in *inbox) pop() (chunk, bool) {
	for {
		in.mu.Lock()
		if in.closed {
			in.mu.Unlock()
			return chunk{}, false
		}
		if len(in.queue) > 0 {
			c := in.queue[0]
			in.queue[0] = chunk{}
			in.queue = in.queue[1:]
			in.mu.Unlock()
			return c, true
		}
		in.mu.Unlock()
		<-in.more
	}
}

// done says that a chunk's bytes are consumed.
func (in *inbox) done(n int) {
	in.mu.Lock()
	in.bytes -= n
	in.mu.Unlock()
	wake(in.room)
}

// close drops what is queued; later chunks are dropped, too.
func (in *inbox) close() {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return
	}
	in.closed = true
	queue := in.queue
	in.queue = nil
	in.mu.Unlock()
	for _, c := range queue {
		c.frame.Release()
	}
	wake(in.more)
	wake(in.room)
}
