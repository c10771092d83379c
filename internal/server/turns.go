package server

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns are places that namespaces take in turn: of those that wait, the one that has fewest is next, the first of them where there are
// several. No namespace has all places.
type turns struct {
	places int // of all
	each   int // of one namespace
	queue  int // that may wait; 0 is any number

	mu      sync.Mutex
	taken   int
	of      map[string]int // by namespace, of those that have some
	waiting []*waiter
}

// waiter waits to be told that it has a place, or that it will have none.
type waiter struct {
	namespace string
	told      chan error // holds one
}

// share is how many of so many places one namespace may have.
func share(places int) int {
	if places < 3 {
		return places
	}
	return places - max(1, places/4)
}

// take waits for a place. What it returns is a [Failure] of a full queue, or the cause of the context's end.
func (t *turns) take(ctx context.Context, namespace string) error {
	w, err := t.enter(namespace)
	if err != nil {
		return err
	}
	select {
	case err := <-w.told:
		return err
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 && <-w.told == nil { // just now
		t.leave(namespace)
	}
	return context.Cause(ctx)
}

// enter begins to wait. Where the queue is full, who waits for the namespace that waits for most gives way to one that waits for less.
func (t *turns) enter(namespace string) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &waiter{namespace, make(chan error, 1)}
	t.waiting = append(t.waiting, w)
	t.giveLocked()
	if t.queue <= 0 || len(t.waiting) <= t.queue {
		return w, nil
	}
	count := map[string]int{}
	for _, other := range t.waiting {
		count[other.namespace]++
	}
	last := len(t.waiting) - 1
	for i, other := range slices.Backward(t.waiting) {
		if count[other.namespace] > count[t.waiting[last].namespace] {
			last = i
		}
	}
	out := t.waiting[last]
	t.waiting = slices.Delete(t.waiting, last, last+1)
	err := busy("too many sandboxes are being started, or images pulled", 2*time.Second)
	if out == w {
		return nil, err
	}
	out.told <- err
	return w, nil
}

// leave gives a place back.
func (t *turns) leave(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	if t.of[namespace]--; t.of[namespace] == 0 {
		delete(t.of, namespace)
	}
	t.giveLocked()
}

func (t *turns) giveLocked() {
	for t.taken < t.places {
		next := -1
		for i, w := range t.waiting {
			if n := t.of[w.namespace]; n < t.each && (next < 0 || n < t.of[t.waiting[next].namespace]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		if t.of == nil {
			t.of = map[string]int{}
		}
		t.of[w.namespace]++
		t.taken++
		w.told <- nil
	}
}

// length is how many wait.
func (t *turns) length() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.waiting)
}
