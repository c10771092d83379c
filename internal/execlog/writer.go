package execlog

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The queue between who prints and the disk holds queueBytes; as many again may be on their way. When it is full, a session
// waits for the disk as long as the log could keep what it prints: burst bytes at once, and refill bytes a second. Who
// prints more than that, to a client that reads it, is not held up: the oldest in the queue are dropped, and the log says
// how much is missing there. So short output is whole, the end of long output is exact, and nothing is out of order. Nobody
// waits longer than patience for a disk that hangs.
const (
	queueBytes = 2 << 20
	burst      = MaxFile * (1 + OldFiles)
	refill     = 32 << 20
	patience   = 2 * time.Second
	closeWait  = 5 * time.Second // for a disk that hangs, at the end
	keepBuffer = 64 << 10        // what an idle writer holds
	flushBytes = 256 << 10       // one write
)

// Owner is whose memory data are; they are released when they are written.
type Owner interface{ Release() }

// Writer writes the log of one run. Its methods may be called from any goroutine.
type Writer struct {
	out  file // the goroutine's
	wait time.Duration
	log  *slog.Logger

	mu      sync.Mutex
	queue   []item
	bytes   int    // in queue
	missing uint64 // bytes that were dropped from before queue
	running bool
	closed  bool
	stuck   bool // somebody ran out of patience, and nothing was taken from queue since
	waiting int  // who waits for room
	last    time.Time
	budget  float64   // bytes that are waited for
	counted time.Time // when budget was reckoned

	wake    chan struct{} // there are items
	room    chan struct{} // closed when queue was taken
	hurry   chan struct{} // closed when wait is over before its time
	hurried sync.Once
	done    chan struct{} // closed when the goroutine has ended
}

type item struct {
	at     time.Time
	source sandbox.LogSource
	s      *Session // nil: system
	data   []byte
	owner  Owner // of data; nil: nobody's
	end    bool  // the session prints no more
}

// Session is what one exec session prints.
type Session struct {
	w     *Writer
	id    uint64
	tty   bool
	whole bool
	// cut are the first bytes of a character whose rest comes with the next piece, for stdout and stderr. They are the
	// writing goroutine's.
	cut [2][]byte
}

// NewWriter returns a writer of the directory, which is there. Nothing is touched before the first entry, nor within wait of it:
// the run of who prints to its owner and ends at once costs no file. After wait every entry is written as it comes.
func NewWriter(dir string, wait time.Duration, log *slog.Logger) *Writer {
	return &Writer{out: file{dir: dir}, wait: wait, log: log, budget: burst, wake: make(chan struct{}, 1), room: make(chan struct{}), hurry: make(chan struct{}), done: make(chan struct{})}
}

// Session begins a session. Ids count from 1. The output of one that is to be whole is waited for however much it is: nobody
// else has it.
func (w *Writer) Session(id uint64, tty, whole bool) *Session {
	return &Session{w: w, id: id, tty: tty, whole: whole}
}

// Stdout logs what the session printed. data is owner's, whom it releases.
func (s *Session) Stdout(data []byte, owner Owner) {
	source := sandbox.LogStdout
	if s.tty {
		source = sandbox.LogOutput
	}
	s.w.put(item{source: source, s: s, data: data, owner: owner})
}

// Stderr is as Stdout.
func (s *Session) Stderr(data []byte, owner Owner) {
	s.w.put(item{source: sandbox.LogStderr, s: s, data: data, owner: owner})
}

// End says that the session prints no more.
func (s *Session) End() { s.w.put(item{s: s, end: true}) }

// System logs a word of the supervisor's.
func (w *Writer) System(text string) {
	w.put(item{source: sandbox.LogSystem, data: []byte(text)})
}

func (w *Writer) put(it item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.admitLocked(len(it.data), it.s != nil && it.s.whole)
	if w.closed {
		it.release()
		return
	}
	it.at = time.Now()
	if it.at.Before(w.last) {
		it.at = w.last // somebody set the clock: the order of the log is that of its times
	}
	w.last = it.at
	w.queue = append(w.queue, it)
	w.bytes += len(it.data)
	if !w.running {
		w.running = true
		go w.run()
	}
	signal(w.wake)
}

func (it *item) release() {
	if it.owner != nil {
		it.owner.Release()
		it.owner = nil
	}
}

// admitLocked makes room for n bytes, by waiting or by dropping what is oldest.
func (w *Writer) admitLocked(n int, whole bool) {
	if n == 0 {
		return
	}
	now := time.Now()
	if !w.counted.IsZero() {
		w.budget = min(burst, w.budget+refill*now.Sub(w.counted).Seconds())
	}
	w.counted = now
	w.budget = max(w.budget-float64(n), -refill)
	if w.fitsLocked(n) {
		return
	}
	w.hurried.Do(func() { close(w.hurry) })
	if (whole || w.budget > 0) && !w.stuck {
		w.stuck = !w.waitLocked(n)
	}
	if w.closed {
		return
	}
	kept := w.queue[:0]
	for i := range w.queue {
		it := w.queue[i]
		if w.fitsLocked(n) || len(it.data) == 0 {
			kept = append(kept, it)
			continue
		}
		w.bytes -= len(it.data)
		w.missing += uint64(len(it.data))
		it.release()
	}
	clear(w.queue[len(kept):])
	w.queue = kept
}

func (w *Writer) fitsLocked(n int) bool { return w.closed || w.bytes == 0 || w.bytes+n <= queueBytes }

// waitLocked waits until there is room for n bytes, and reports false if that takes too long.
func (w *Writer) waitLocked(n int) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	w.waiting++
	defer func() { w.waiting-- }()
	for !w.fitsLocked(n) {
		room := w.room
		signal(w.wake)
		w.mu.Unlock()
		over := false
		select {
		case <-room:
		case <-late.C:
			over = true
		}
		w.mu.Lock()
		if over {
			return false
		}
	}
	return true
}

// takeLocked takes the queue. An entry in front of it says how much is missing.
func (w *Writer) takeLocked(spare []item) []item {
	batch := w.queue
	if w.missing > 0 {
		at := w.last
		if len(batch) > 0 {
			at = batch[0].at
		}
		text := fmt.Sprintf("--- %d bytes of output are missing here: they came faster than they could be written ---\n", w.missing)
		batch = append([]item{{at: at, source: sandbox.LogSystem, data: []byte(text)}}, batch...)
	}
	w.queue, w.bytes, w.missing, w.stuck = spare[:0], 0, 0, false
	close(w.room)
	w.room = make(chan struct{})
	return batch
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close writes what is queued and ends the log. A writer that has not opened its file because of wait leaves nothing.
func (w *Writer) Close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	running := w.running
	close(w.room)
	w.room = make(chan struct{})
	w.mu.Unlock()
	if !running {
		return
	}
	signal(w.wake)
	select {
	case <-w.done:
	case <-time.After(closeWait):
		w.log.Warn("the end of the log could not be written in time")
	}
}

// run is the goroutine that writes.
func (w *Writer) run() {
	defer close(w.done)
	if w.wait > 0 && !w.settle() {
		return
	}
	defer w.out.close()
	var batch []item
	for {
		<-w.wake
		for {
			w.mu.Lock()
			batch = w.takeLocked(batch)
			closed := w.closed
			w.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			w.write(batch)
			clear(batch)
			if cap(batch) > 1024 {
				batch = nil
			}
			w.rest()
		}
		w.out.shrink()
	}
}

// rest keeps a flood that is not waited for from taking a CPU for the log, most of which would be overwritten at once.
func (w *Writer) rest() {
	w.mu.Lock()
	free := w.closed || w.waiting > 0 || w.budget > 0
	w.mu.Unlock()
	if free {
		return
	}
	t := time.NewTimer(time.Second * queueBytes / refill)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-w.wake: // more, or the end
			w.mu.Lock()
			free := w.closed || w.waiting > 0
			w.mu.Unlock()
			if free {
				return
			}
		}
	}
}

// settle waits as long as was asked for, and reports whether the log is to be written at all.
func (w *Writer) settle() bool {
	wait := time.NewTimer(w.wait)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
		case <-w.hurry:
		case <-w.wake:
			w.mu.Lock()
			closed, queue := w.closed, w.queue
			w.mu.Unlock()
			if !closed {
				continue
			}
			for i := range queue {
				queue[i].release()
			}
			return false
		}
		signal(w.wake) // what came meanwhile
		return true
	}
}

func (w *Writer) write(batch []item) {
	for i := range batch {
		w.encode(batch[i])
		batch[i].release()
		if w.out.full() {
			w.flush()
		}
	}
	w.flush()
}

// flush writes what is encoded.
func (w *Writer) flush() {
	lost, err := w.out.flush()
	if lost > 0 {
		w.mu.Lock()
		w.missing += uint64(lost)
		w.mu.Unlock()
	}
	if err != nil {
		w.log.Warn("the log cannot be written: output is dropped", "err", err)
	}
}

func (w *Writer) encode(it item) {
	switch {
	case it.s == nil:
		w.pieces(it.at, it.source, 0, it.data)
	case it.end:
		for n, source := range [...]sandbox.LogSource{it.s.stdout(), sandbox.LogStderr} {
			w.pieces(it.at, source, it.s.id, it.s.cut[n])
			it.s.cut[n] = nil
		}
	default:
		n := 0
		if it.source == sandbox.LogStderr {
			n = 1
		}
		data := it.data
		if len(it.s.cut[n]) > 0 {
			data = append(it.s.cut[n], data...)
		}
		whole := wholeRunes(data)
		w.pieces(it.at, it.source, it.s.id, data[:whole])
		it.s.cut[n] = append([]byte(nil), data[whole:]...)
	}
}

func (s *Session) stdout() sandbox.LogSource {
	if s.tty {
		return sandbox.LogOutput
	}
	return sandbox.LogStdout
}

// pieces encodes data as one entry, or as several where it is large.
func (w *Writer) pieces(at time.Time, source sandbox.LogSource, session uint64, data []byte) {
	for len(data) > 0 {
		n := len(data)
		if n > MaxData {
			n = MaxData
			for n > MaxData-utf8.UTFMax && !utf8.RuneStart(data[n]) {
				n--
			}
		}
		w.out.line(at, source, session, data[:n])
		data = data[n:]
	}
}

// wholeRunes is how much of data comes before a character that is cut off at its end.
func wholeRunes(data []byte) int {
	for n := len(data) - 1; n >= 0 && n > len(data)-utf8.UTFMax; n-- {
		if utf8.RuneStart(data[n]) {
			if !utf8.FullRune(data[n:]) {
				return n
			}
			break
		}
	}
	return len(data)
}
