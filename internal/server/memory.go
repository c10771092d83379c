package server

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"
)

// What all requests keep in memory at once, in bytes: of what answers are made of, as JSON, and of bodies. A namespace has half of it at
// most. Making and sending an answer takes about five times as much.
const (
	maxOutputs = 64 << 20
	maxBodies  = 64 << 20
	// freeBody is how much of a body counts as nothing, and freeOutput how much of an output. What is over it is held in steps.
	freeBody   = 64 << 10
	freeOutput = 64 << 10
	holdStep   = 256 << 10
)

// memory bounds what requests keep.
type memory struct {
	most int64

	mu   sync.Mutex
	held int64
	of   map[string]int64 // by namespace, of those that have some
}

func newMemory(most int64) *memory { return &memory{most: most, of: map[string]int64{}} }

func (m *memory) roomLocked(namespace string, n int64) bool {
	return m.held+n <= m.most && (namespace == AllNamespaces || m.of[namespace]+n <= m.most/2)
}

func (m *memory) take(namespace string, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.roomLocked(namespace, n) {
		return false
	}
	m.held += n
	m.of[namespace] += n
	return true
}

func (m *memory) give(namespace string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= n
	if m.of[namespace] -= n; m.of[namespace] == 0 {
		delete(m.of, namespace)
	}
}

// holding is what one request keeps of a memory, until it is released.
type holding struct {
	memory *memory // nil: nothing is counted

	mu        sync.Mutex
	namespace string // whose it is, once there is some
	n         int64
	released  bool
}

func (h *holding) add(namespace string, n int64) error {
	if h.memory == nil || n <= 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released { // what a request left behind is not in its answer
		return nil
	}
	if h.n == 0 {
		h.namespace = namespace
	}
	if !h.memory.take(h.namespace, n) {
		return errFull
	}
	h.n += n
	return nil
}

func (h *holding) look(namespace string, n int64) error {
	if h.memory == nil {
		return nil
	}
	h.memory.mu.Lock()
	defer h.memory.mu.Unlock()
	if !h.memory.roomLocked(namespace, n) {
		return errFull
	}
	return nil
}

var errFull = busy("the server keeps too much in memory for requests", 2*time.Second)

func (h *holding) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	if h.n > 0 {
		h.memory.give(h.namespace, h.n)
		h.n = 0
	}
}

// Hold counts n bytes more of what the answer to a request is made of, until it has been sent. Where there is no room for them it returns a
// [Failure], 429 with a time to come back. Outside a request nothing is counted.
func Hold(ctx context.Context, n int) error {
	return traceOf(ctx).output.add(CallerOf(ctx).Namespace, int64(n))
}

// Room is the error of Hold if there is no room for much output now. Who is about to run something asks before.
func Room(ctx context.Context) error {
	return traceOf(ctx).output.look(CallerOf(ctx).Namespace, holdStep)
}

// Meter bounds the output that is gathered for one answer: to a number of bytes, and to what there is room for.
type Meter struct {
	most, size, held int
	hold             func(n int) error
	full             bool
}

// MeterOf returns the meter of a request for most bytes.
func MeterOf(ctx context.Context, most int) Meter {
	return Meter{most: most, hold: func(n int) error { return Hold(ctx, n) }}
}

// Add counts n bytes. Once they are too many it returns false, forever.
func (m *Meter) Add(n int) bool {
	m.full = m.full || m.size+n > m.most
	for !m.full && m.size+n > freeOutput+m.held {
		m.full = m.hold(holdStep) != nil
		m.held += holdStep
	}
	if !m.full {
		m.size += n
	}
	return !m.full
}

// Full reports whether there was more than the bound.
func (m *Meter) Full() bool { return m.full }

// JSONSize is how long a text is in JSON, at most.
func JSONSize(p []byte) int {
	n := 0
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		switch {
		case r == utf8.RuneError && size == 1:
			n += 3 // U+FFFD
		case r < ' ' || r == '\u2028' || r == '\u2029':
			n += 6
		case r == '"' || r == '\\':
			n += 2
		default:
			n += size
		}
		p = p[size:]
	}
	return n
}
