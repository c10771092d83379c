package server

import (
	"context"
	"sync"
	"time"
)

// recheck is how often it is looked whether who asked for what goes on may still have it.
const recheck = 15 * time.Second

// While is a context that ends when check fails, which is called every now and then until stop is called. So a revoked key or one that
// has ended also ends what it began: streams, pipes and connections that were upgraded.
func While(ctx context.Context, check func() error) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var mu sync.Mutex // of timer and over
	over := false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(recheck, func() {
		if err := check(); err != nil {
			cancel(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if !over {
			timer.Reset(recheck)
		}
	})
	return ctx, func() {
		mu.Lock()
		over = true
		timer.Stop()
		mu.Unlock()
		cancel(nil)
	}
}
