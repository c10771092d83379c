package agent

import (
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// window bounds the bytes of a session that are under way to its client, and counts those that came from it. A size of
// 0 does neither.
type window struct {
	size     uint64
	consumed uint64 // input not yet acknowledged

	mu     sync.Mutex
	moved  sync.Cond
	open   uint64 // bytes sent and not acknowledged
	closed bool
}

func (w *window) init(size uint32) {
	w.size = uint64(size)
	w.moved.L = &w.mu
}

// wait returns when something may be sent, or when the window is closed.
func (w *window) wait() {
	if w.size == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.open >= w.size && !w.closed {
		w.moved.Wait()
	}
}

// full reports whether wait would wait.
func (w *window) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size > 0 && w.open >= w.size && !w.closed
}

// sent takes n bytes from the window. As a reader learns only then how many they are, it may go over by a read.
func (w *window) sent(n int) {
	if w.size == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += uint64(n)
}

// ack gives back the bytes that an x.msb.ack says.
func (w *window) ack(payload []byte) error {
	var m agentproto.Ack
	if err := agentproto.Decode(payload, &m); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open -= min(m.Bytes, w.open)
	w.moved.Broadcast()
	return nil
}

// received counts n bytes of input as consumed. It returns how many to acknowledge: 0 until a quarter of the window has
// come together. One goroutine may call it.
func (w *window) received(n int) (ack uint64) {
	w.consumed += uint64(n)
	if w.size == 0 || w.consumed < w.size/4 {
		return 0
	}
	ack, w.consumed = w.consumed, 0
	return ack
}

func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.moved.Broadcast()
}
