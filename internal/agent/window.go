package agent

import "sync"

// window bounds the bytes of a session that are under way to its client. The zero window does not.
type window struct {
	size uint64

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

// sent takes n bytes from the window. As a reader learns only then how many they are, it may go over by a read.
func (w *window) sent(n int) {
	if w.size == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += uint64(n)
}

// acked gives n bytes back.
func (w *window) acked(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open -= min(n, w.open)
	if w.moved.L != nil {
		w.moved.Broadcast()
	}
}

func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.moved.L != nil {
		w.moved.Broadcast()
	}
}
