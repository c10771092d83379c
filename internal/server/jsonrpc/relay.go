package jsonrpc

import (
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

// relay passes on what a start says for as long as somebody listens, who may go before it ends.
type relay struct {
	mu sync.Mutex
	to func(backend.Event)
}

func (r *relay) event(e backend.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to != nil {
		r.to(e)
	}
}

func (r *relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = nil
}
