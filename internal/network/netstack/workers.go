package netstack

import "sync"

// workers run tasks in goroutines that are kept for the next. A new goroutine has a small stack, and the way down to a packet that is sent
// makes it grow several times. The zero value is not usable.
type workers struct {
	tasks chan func()
	stop  chan struct{}
	spare chan struct{} // has a token for each goroutine that waits
	all   sync.WaitGroup
	once  sync.Once
}

const maxSpareWorkers = 8

func newWorkers() *workers {
	return &workers{tasks: make(chan func()), stop: make(chan struct{}), spare: make(chan struct{}, maxSpareWorkers)}
}

// run calls task in a goroutine. The caller is to see to it that close waits for it.
func (w *workers) run(task func()) {
	select {
	case w.tasks <- task:
	default:
		w.all.Go(func() { w.work(task) })
	}
}

func (w *workers) work(task func()) {
	for {
		task()
		task = nil
		select {
		case w.spare <- struct{}{}:
		default:
			return // enough are waiting
		}
		select {
		case task = <-w.tasks:
		case <-w.stop:
			return
		}
		<-w.spare
	}
}

// close ends the goroutines. No task may be running or be run any more. It may be called twice.
func (w *workers) close() {
	w.once.Do(func() { close(w.stop) })
	w.all.Wait()
}
