package execlog

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The queue between who prints and the disk. Within queueBytes nobody waits; beyond, a session waits for the disk, but no
// longer than patience: from then on output is dropped and counted until half of the queue is written, and the log says so.
// So nothing comes out of order, and a disk that hangs holds up the guest once, not for ever.
const (
	queueBytes = 2 << 20
	patience   = 2 * time.Second
	closeWait  = 5 * time.Second // for a disk that hangs, at the end
	flushBytes = 256 << 10       // one write
	keepBuffer = 64 << 10        // what an idle writer holds
)

// Owner is whose memory data are; they are released when they are written.
type Owner interface{ Release() }

// Writer writes the log of one run. Its methods may be called from any goroutine.
type Writer struct {
	out  file // the goroutine's
	wait time.Duration
	log  *slog.Logger

	mu       sync.Mutex
	queue    []item
	bytes    int // in the queue, and in the hands of the goroutine
	running  bool
	closed   bool
	dropping bool
	dropped  uint64
	last     time.Time

	wake    chan struct{} // there are items
	room    chan struct{} // there are fewer
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
	w   *Writer
	id  uint64
	tty bool
	// cut are the first bytes of a character whose rest comes with the next piece, for stdout and stderr. They are the
	// writing goroutine's.
	cut [2][]byte
}

// NewWriter returns a writer of the directory, which is there. Nothing is touched before the first entry, nor within wait of it:
// the run of who prints to its owner and ends at once costs no file. After wait every entry is written as it comes.
func NewWriter(dir string, wait time.Duration, log *slog.Logger) *Writer {
	return &Writer{out: file{dir: dir}, wait: wait, log: log, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), hurry: make(chan struct{}), done: make(chan struct{})}
}

// Session begins a session. Ids count from 1.
func (w *Writer) Session(id uint64, tty bool) *Session { return &Session{w: w, id: id, tty: tty} }

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
	it.at = time.Now()
	if w.closed || !w.admitLocked(len(it.data)) {
		if it.owner != nil {
			it.owner.Release()
		}
		return
	}
	if it.at.Before(w.last) {
		it.at = w.last // somebody set the clock: the order of the log is that of its times
	}
	w.last = it.at
	w.queueLocked(it)
}

func (w *Writer) queueLocked(it item) {
	w.queue = append(w.queue, it)
	w.bytes += len(it.data)
	if !w.running {
		w.running = true
		go w.run()
	}
	signal(w.wake)
}

// admitLocked waits until there is room for n bytes, and reports whether they may be queued.
func (w *Writer) admitLocked(n int) bool {
	if n == 0 {
		return true
	}
	if w.dropping {
		if w.bytes > queueBytes/2 {
			w.dropped += uint64(n)
			return false
		}
		w.dropping = false
		w.confessLocked()
	}
	if w.bytes == 0 || w.bytes+n <= queueBytes {
		return true
	}
	w.hurried.Do(func() { close(w.hurry) })
	late := time.NewTimer(patience)
	defer late.Stop()
	for w.bytes > 0 && w.bytes+n > queueBytes {
		w.mu.Unlock()
		waiting := true
		select {
		case <-w.room:
		case <-late.C:
			waiting = false
		}
		w.mu.Lock()
		if w.closed {
			return false
		}
		if !waiting {
			w.dropping = true
			w.dropped += uint64(n)
			return false
		}
	}
	return true
}

// confessLocked queues an entry that says how much is missing here.
func (w *Writer) confessLocked() {
	if w.dropped > 0 {
		text := fmt.Sprintf("--- %d bytes of output are missing here: the log could not be written in time ---\n", w.dropped)
		w.dropped = 0
		w.queueLocked(item{at: time.Now(), source: sandbox.LogSystem, data: []byte(text)})
	}
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
	w.confessLocked()
	w.closed = true
	running := w.running
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
			batch, w.queue = w.queue, batch[:0]
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
		}
		w.out.shrink()
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
			for _, it := range queue {
				if it.owner != nil {
					it.owner.Release()
				}
			}
			return false
		}
		signal(w.wake) // what came meanwhile
		return true
	}
}

func (w *Writer) write(batch []item) {
	done := 0
	for _, it := range batch {
		w.encode(it)
		if it.owner != nil {
			it.owner.Release()
		}
		done += len(it.data)
		if w.out.full() {
			w.flush(done)
			done = 0
		}
	}
	w.flush(done)
}

// flush writes what is encoded, and makes room for n bytes.
func (w *Writer) flush(n int) {
	lost, err := w.out.flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes -= n
	if lost > 0 {
		w.dropped += uint64(lost)
		w.dropping = true // so that the log says so when it can be written again
	}
	if err != nil {
		w.log.Warn("the log cannot be written: output is dropped", "err", err)
	}
	signal(w.room)
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
