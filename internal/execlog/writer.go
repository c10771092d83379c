package execlog

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The queue between who prints and the disk has room for queueBytes; as many again may be on their way. When it is full, a
// session waits for the disk as long as the log could keep what it prints: burst bytes at once, and refill bytes for each second that it did not wait. Who
// prints more than that, to a client that reads it, is not held up: the oldest segment of the queue is dropped, and the log
// says how much is missing there. So short output is whole, the end of long output is exact, and nothing is out of order.
// Nobody waits longer than patience for a disk that hangs.
const (
	segmentBytes = 256 << 10
	segmentItems = 16 << 10 // of a segment; each takes 72 bytes beside its data
	queueBytes   = 8 * segmentBytes
	burst        = MaxFile * (1 + OldFiles)
	refill       = 32 << 20
	patience     = 2 * time.Second
	closeWait    = 5 * time.Second // for a disk that hangs, at the end
	flushBytes   = 256 << 10       // one write
	gather       = 5 * time.Millisecond
	keepBuffer   = 64 << 10 // what an idle writer holds
)

// Writer writes the log of one run. Its methods may be called from any goroutine; what they are given they copy.
type Writer struct {
	out  file // the goroutine's
	wait time.Duration
	log  *slog.Logger

	mu      sync.Mutex
	queue   []*segment // the last is being filled
	free    []*segment
	missing uint64 // bytes that were dropped from before queue
	running bool
	closed  bool
	stuck   bool // somebody ran out of patience, and nothing was taken from queue since
	waiting int  // who waits for room
	last    time.Time
	budget  float64   // bytes that are waited for
	counted time.Time // when budget was reckoned

	wake    chan struct{} // there are items
	stir    chan struct{} // there are many items, somebody waits, or it is the end
	room    chan struct{} // closed when queue was taken
	hurry   chan struct{} // closed when wait is over before its time
	hurried sync.Once
	done    chan struct{} // closed when the goroutine has ended
}

// segment is a part of the queue.
type segment struct {
	data  []byte
	items []item
}

type item struct {
	at     time.Time
	source sandbox.LogSource
	s      *Session // nil: system
	size   int      // of its data, which are behind those of the item before
	end    bool     // the session prints no more
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
	return &Writer{out: file{dir: dir}, wait: wait, log: log, budget: burst, wake: make(chan struct{}, 1), stir: make(chan struct{}, 1), room: make(chan struct{}),
		hurry: make(chan struct{}), done: make(chan struct{})}
}

// Session begins a session. Ids count from 1. The output of one that is to be whole is waited for however much it is: nobody
// else has it.
func (w *Writer) Session(id uint64, tty, whole bool) *Session {
	return &Session{w: w, id: id, tty: tty, whole: whole}
}

// Stdout logs what the session printed.
func (s *Session) Stdout(data []byte) { s.w.put(item{source: s.stdout(), s: s}, data) }

// Stderr is as Stdout.
func (s *Session) Stderr(data []byte) { s.w.put(item{source: sandbox.LogStderr, s: s}, data) }

// End says that the session prints no more.
func (s *Session) End() { s.w.put(item{s: s, end: true}, nil) }

func (s *Session) stdout() sandbox.LogSource {
	if s.tty {
		return sandbox.LogOutput
	}
	return sandbox.LogStdout
}

// System logs a word of the supervisor's.
func (w *Writer) System(text string) { w.put(item{source: sandbox.LogSystem}, []byte(text)) }

func (w *Writer) put(it item, data []byte) {
	if len(data) == 0 && !it.end {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.counted.IsZero() {
		w.budget = min(burst, w.budget+refill*now.Sub(w.counted).Seconds())
	}
	w.counted = now
	w.budget = max(w.budget-float64(len(data)), -refill)
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), segmentBytes)
		seg := w.admitLocked(n, it.s != nil && it.s.whole)
		if w.closed {
			return
		}
		it.at, it.size = now, n
		if it.at.Before(w.last) {
			it.at = w.last // somebody set the clock: the order of the log is that of its times
		}
		w.last = it.at
		seg.data = append(seg.data, data[:n]...)
		seg.items = append(seg.items, it)
		data = data[n:]
	}
	if !w.running {
		w.running = true
		go w.run()
	}
	signal(w.wake)
}

// admitLocked returns a segment with room for n bytes, which it makes by waiting or by dropping what is oldest.
func (w *Writer) admitLocked(n int, whole bool) *segment {
	if len(w.queue) > 0 {
		if seg := w.queue[len(w.queue)-1]; len(seg.data)+n <= segmentBytes && len(seg.items) < segmentItems {
			return seg
		}
	}
	if len(w.queue) == queueBytes/segmentBytes {
		w.hurried.Do(func() { close(w.hurry) })
		if (whole || w.budget > 0) && !w.stuck {
			w.stuck = !w.waitLocked()
		}
		if w.closed {
			return nil
		}
	}
	if len(w.queue) == queueBytes/segmentBytes {
		oldest := w.queue[0]
		w.missing += uint64(len(oldest.data))
		w.queue = append(w.queue[:0], w.queue[1:]...)
		w.freeLocked(oldest)
	}
	seg := &segment{}
	if last := len(w.free) - 1; last >= 0 {
		seg, w.free = w.free[last], w.free[:last]
	}
	w.queue = append(w.queue, seg)
	if len(w.queue) == queueBytes/segmentBytes/2 && w.budget > 0 {
		signal(w.stir)
	}
	return seg
}

func (w *Writer) freeLocked(seg *segment) {
	seg.data = seg.data[:0]
	clear(seg.items)
	seg.items = seg.items[:0]
	w.free = append(w.free, seg)
}

// waitLocked waits until the queue was taken, and reports false if that takes too long.
func (w *Writer) waitLocked() bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	w.waiting++
	defer func() {
		w.waiting--
		w.counted = time.Now() // a disk that is slower than refill does not hold up a flood for good
	}()
	for !w.closed && len(w.queue) == queueBytes/segmentBytes {
		room := w.room
		signal(w.stir)
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

// takeLocked takes the queue, and how much is missing in front of it.
func (w *Writer) takeLocked(spare []*segment) (batch []*segment, missing uint64) {
	batch, missing = w.queue, w.missing
	w.queue, w.missing, w.stuck = spare[:0], 0, false
	close(w.room)
	w.room = make(chan struct{})
	return batch, missing
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
	signal(w.stir)
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
	var batch []*segment
	for {
		<-w.wake
		for {
			w.mu.Lock()
			var missing uint64
			batch, missing = w.takeLocked(batch)
			closed := w.closed
			if len(batch) == 0 {
				w.free = nil // an idle writer is small
				if !closed {
					w.missing = missing // for what comes next
				}
			}
			w.mu.Unlock()
			if len(batch) > 0 || closed {
				w.write(batch, missing)
			}
			if len(batch) == 0 && closed {
				return
			}
			if len(batch) == 0 {
				break
			}
			w.rest()
		}
		w.out.shrink()
	}
}

// rest lets entries come together, so that not each of many takes a write; and a flood that is not waited for it keeps from
// taking a CPU for the log, most of which would be overwritten at once.
func (w *Writer) rest() {
	w.mu.Lock()
	pause := gather
	if w.budget <= 0 {
		pause = time.Second * queueBytes / refill
	}
	now := w.closed || w.waiting > 0
	w.mu.Unlock()
	if now {
		return
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.stir:
	}
}

// settle waits as long as was asked for, and reports whether the log is to be written at all.
func (w *Writer) settle() bool {
	wait := time.NewTimer(w.wait)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
			return true
		case <-w.hurry:
			return true
		case <-w.stir:
			w.mu.Lock()
			closed := w.closed
			w.mu.Unlock()
			if closed {
				return false
			}
		}
	}
}

// write writes segments, and gives each back as soon as it is encoded.
func (w *Writer) write(batch []*segment, missing uint64) {
	if missing > 0 {
		at := time.Now()
		if len(batch) > 0 && len(batch[0].items) > 0 {
			at = batch[0].items[0].at
		}
		w.pieces(at, sandbox.LogSystem, 0, fmt.Appendf(nil, "--- %d bytes of output are missing here: they came faster than they could be written ---\n", missing))
	}
	for i, seg := range batch {
		data := seg.data
		for _, it := range seg.items {
			w.encode(it, data[:it.size])
			data = data[it.size:]
			if w.out.full() {
				w.flush()
			}
		}
		batch[i] = nil
		w.mu.Lock()
		w.freeLocked(seg)
		w.mu.Unlock()
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

func (w *Writer) encode(it item, data []byte) {
	switch {
	case it.s == nil:
		w.pieces(it.at, it.source, 0, data)
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
		if len(it.s.cut[n]) > 0 {
			data = append(it.s.cut[n], data...)
		}
		whole := wholeRunes(data)
		w.pieces(it.at, it.source, it.s.id, data[:whole])
		it.s.cut[n] = append([]byte(nil), data[whole:]...)
	}
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
