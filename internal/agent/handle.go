package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// handle is an open file or directory of one client.
type handle struct {
	file   *os.File
	path   string
	slot   int  // whose it is
	append bool // writes go to the end
}

// handleTable holds the handles of all clients. The zero table is empty.
type handleTable struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*handle
	per  map[int]int // how many each slot has
}

// maxHandles is how many handles a client may have (contract msb-0.6 §4.6).
const maxHandles = 1024

var errHandles = errors.New("too many open handles")

func (t *handleTable) add(h *handle) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open, t.per = make(map[uint64]*handle), make(map[int]int)
	}
	if t.per[h.slot] >= maxHandles {
		return 0, errHandles
	}
	t.last++
	t.open[t.last] = h
	t.per[h.slot]++
	return t.last, nil
}

func (t *handleTable) get(n uint64, slot int) (*handle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.getLocked(n, slot)
}

func (t *handleTable) getLocked(n uint64, slot int) (*handle, error) {
	h := t.open[n]
	switch {
	case h == nil:
		return nil, fmt.Errorf("invalid handle: %d", n)
	case h.slot != slot:
		return nil, fmt.Errorf("handle %d is owned by a different relay client", n)
	}
	return h, nil
}

func (t *handleTable) close(n uint64, slot int) error {
	t.mu.Lock()
	h, err := t.getLocked(n, slot)
	if err == nil {
		t.removeLocked(n, h)
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return h.file.Close()
}

func (t *handleTable) removeLocked(n uint64, h *handle) {
	delete(t.open, n)
	if t.per[h.slot]--; t.per[h.slot] == 0 {
		delete(t.per, h.slot)
	}
}

// dropRange closes the handles of the client with these ids.
func (t *handleTable) dropRange(start, end uint32) {
	if end <= start {
		return
	}
	first, last := agentproto.SlotOf(start), agentproto.SlotOf(end-1)
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, h := range t.open {
		if h.slot >= first && h.slot <= last {
			t.removeLocked(n, h)
			_ = h.file.Close()
		}
	}
}

func (t *handleTable) closeAll() { t.dropRange(0, 1<<32-1) }
