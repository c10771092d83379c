package image

import (
	"io"
	"sync"
)

const (
	aheadBuf  = 256 << 10
	aheadBufs = 4
)

// ahead reads on a goroutine of its own, a few buffers ahead of who reads from it.
type ahead struct {
	full chan []byte
	free chan []byte
	stop chan struct{}
	done chan struct{}
	once sync.Once
	err  error // once full is closed
	cur  []byte
	rest []byte // of cur
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan []byte, aheadBufs), free: make(chan []byte, aheadBufs), stop: make(chan struct{}), done: make(chan struct{})}
	for range aheadBufs {
		a.free <- make([]byte, aheadBuf)
	}
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.stop:
			a.err = io.ErrClosedPipe
			return
		}
		n := 0
		var err error
		for n < len(b) && err == nil {
			var got int
			got, err = r.Read(b[n:cap(b)])
			n += got
		}
		if n > 0 {
			a.full <- b[:n] // never blocks: there are as many places as buffers
		}
		if err != nil {
			a.err = err
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.cur != nil {
			a.free <- a.cur[:cap(a.cur)]
			a.cur = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.cur, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close returns when the goroutine is gone, which is as soon as what it reads from lets it. Who still reads gets an error.
func (a *ahead) Close() {
	a.once.Do(func() { close(a.stop) })
	<-a.done
}
