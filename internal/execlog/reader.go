package execlog

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Life is how it stands with a sandbox whose log is followed.
type Life int

// The states of Life: entries may come; none will come unless it is started again; none will come.
const (
	Alive Life = iota
	Ended
	Gone
)

// While a log is followed, life is asked after every glance, when nothing was written for that long. One that has ended
// may be started again within restartWait (msb restart); then the stream is over.
const (
	glance      = 500 * time.Millisecond
	poll        = 100 * time.Millisecond // where the kernel does not tell of writes
	restartWait = 2 * time.Second
)

// Options say what to read.
type Options struct {
	sandbox.LogOptions
	// Life says whether more will come. It is asked only by those who follow; nil is Gone.
	Life func() Life
}

// Reader reads a log. It is for one goroutine.
type Reader struct {
	ctx   context.Context
	dir   string
	opt   Options
	want  map[sandbox.LogSource]bool
	boot  *sandbox.LogEntry // to be told first
	exec  source
	sys   *source // runner.log; nil if it is not wanted
	skip  int     // so many wanted entries come before the tail
	watch *watch
	ended time.Time // when the sandbox was first seen to have ended
}

// source is one of the logs that are merged, with the entry that comes next.
type source struct {
	tape *tape
	sys  bool
	next *sandbox.LogEntry
	at   position // before next
	last time.Time
}

// Open opens the log in a directory, which need not be there. ctx bounds the stream. Kinds: InvalidCursor, MissedRotation, IO.
func Open(ctx context.Context, dir string, opt Options) (*Reader, error) {
	r := &Reader{ctx: ctx, dir: dir, opt: opt, want: map[sandbox.LogSource]bool{}}
	sources := opt.Sources
	if len(sources) == 0 {
		sources = sandbox.DefaultLogSources
	}
	for _, s := range sources {
		r.want[s] = true
	}
	var from []position
	if opt.Cursor != "" {
		var err error
		if from, err = decodeCursor(opt.Cursor); err != nil {
			return nil, err
		}
	} else {
		r.boot = readBootError(dir)
	}
	if opt.Tail > 0 {
		if err := r.count(from); err != nil {
			return nil, err
		}
	}
	return r, r.open(from)
}

func (r *Reader) open(from []position) error {
	from = append(slices.Clone(from), make([]position, maxPositions)...)
	t, err := openTape(r.dir, File, true, from[0])
	if err != nil {
		return errors.Join(err, r.Close())
	}
	r.exec = source{tape: t}
	if r.want[sandbox.LogSystem] {
		if t, err = openTape(r.dir, RunnerFile, false, from[1]); err != nil {
			return errors.Join(err, r.Close())
		}
		r.sys = &source{tape: t, sys: true}
	}
	return nil
}

// count finds out how many entries come before the tail, by reading all that are there now.
func (r *Reader) count(from []position) error {
	all := &Reader{ctx: r.ctx, dir: r.dir, opt: r.opt, want: r.want}
	all.opt.Follow = false
	if err := all.open(from); err != nil {
		return err
	}
	defer all.Close()
	n := 0
	for {
		_, err := all.read(false)
		if errors.Is(err, io.EOF) {
			r.skip = max(0, n-r.opt.Tail)
			return nil
		}
		if err != nil {
			return err
		}
		n++
	}
}

// Next returns the next entry, and io.EOF after the last.
func (r *Reader) Next() (sandbox.LogEntry, error) {
	if b := r.boot; b != nil {
		r.boot = nil
		b.Cursor = r.cursor()
		return *b, nil
	}
	for {
		e, err := r.next()
		if err != nil {
			return e, err
		}
		if r.skip > 0 {
			r.skip--
			continue
		}
		e.Cursor = r.cursor()
		return e, nil
	}
}

func (r *Reader) next() (sandbox.LogEntry, error) {
	if err := r.cancelled(); err != nil {
		return sandbox.LogEntry{}, err
	}
	if !r.opt.Follow {
		return r.read(false)
	}
	for {
		if r.watch == nil {
			r.watch = newWatch(r.ctx, r.dir) // before the look that finds nothing
		}
		e, err := r.read(true)
		if !errors.Is(err, io.EOF) || errors.Is(err, errUntil) {
			return e, err
		}
		over := !r.opt.Until.IsZero() && time.Now().After(r.opt.Until)
		wait := glance
		switch r.life() {
		case Alive:
			r.ended = time.Time{}
		case Ended:
			if r.ended.IsZero() {
				r.ended = time.Now()
			}
			over = over || time.Since(r.ended) > restartWait
			wait = poll
		case Gone:
			over = true
		}
		if over {
			return r.read(true) // what was written after our last look
		}
		r.watch.wait(wait)
		if err := r.cancelled(); err != nil {
			return sandbox.LogEntry{}, err
		}
	}
}

func (r *Reader) life() Life {
	if r.opt.Life == nil {
		return Gone
	}
	return r.opt.Life()
}

func (r *Reader) cancelled() error {
	if r.ctx.Err() == nil {
		return nil
	}
	return &sandbox.Error{Op: "logs", Kind: sandbox.Cancelled, Message: "reading the log was cancelled", Err: context.Cause(r.ctx)}
}

// errUntil is the end of what was asked for.
var errUntil = &untilError{}

type untilError struct{}

func (*untilError) Error() string        { return io.EOF.Error() }
func (*untilError) Is(target error) bool { return target == io.EOF }

// read returns the next wanted entry that is there, io.EOF if there is none now.
func (r *Reader) read(follow bool) (sandbox.LogEntry, error) {
	for {
		if err := r.exec.peek(r, follow); err != nil {
			return sandbox.LogEntry{}, err
		}
		from := &r.exec
		if r.sys != nil {
			if err := r.sys.peek(r, follow); err != nil {
				return sandbox.LogEntry{}, err
			}
			if r.sys.next != nil && (r.exec.next == nil || r.sys.next.Time.Before(r.exec.next.Time)) {
				from = r.sys
			}
		}
		if from.next == nil {
			return sandbox.LogEntry{}, io.EOF
		}
		if !r.opt.Until.IsZero() && !from.next.Time.Before(r.opt.Until) {
			return sandbox.LogEntry{}, errUntil
		}
		e := *from.next
		from.next = nil
		if r.opt.Since.IsZero() || !e.Time.Before(r.opt.Since) {
			return e, nil
		}
	}
}

// peek reads the entry that comes next if it is not known yet. Lines that are none, as after a crash, are passed over.
func (s *source) peek(r *Reader, follow bool) error {
	for s.next == nil {
		s.at = s.tape.at
		b, err := s.tape.line(follow)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.sys {
			e := parseRunner(b, s.last)
			s.last, s.next = e.Time, &e
			return nil
		}
		e, _, err := parseLine(b)
		if err == nil && r.want[e.Source] {
			s.next = &e
		}
	}
	return nil
}

// cursor is where to go on behind the last entry that was returned.
func (r *Reader) cursor() string {
	at := make([]position, 0, maxPositions)
	at = append(at, r.exec.place())
	if r.sys != nil {
		at = append(at, r.sys.place())
	}
	return encodeCursor(at)
}

func (s *source) place() position {
	if s.next != nil {
		return s.at
	}
	return s.tape.at
}

// Close gives back what the reader holds. It may be called twice.
func (r *Reader) Close() error {
	if r.exec.tape != nil {
		r.exec.tape.close()
		r.exec.tape.files = nil
	}
	if r.sys != nil {
		r.sys.tape.close()
		r.sys.tape.files = nil
	}
	if r.watch != nil {
		r.watch.close()
		r.watch = nil
	}
	return nil
}

// watch is told by the kernel of writes in a directory (inotify(7)): nobody in the sandbox is woken by being watched.
type watch struct {
	ctx  context.Context
	f    *os.File // nil where there is none
	stop func() bool
}

func newWatch(ctx context.Context, dir string) *watch {
	w := &watch{ctx: ctx, stop: func() bool { return true }}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w // a user may have so many (fs.inotify.max_user_instances)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF); err != nil {
		unix.Close(fd)
		return w
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	w.stop = context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })
	return w
}

// wait returns when something was written, after d, or when ctx is done.
func (w *watch) wait(d time.Duration) {
	if w.f == nil {
		t := time.NewTimer(min(d, poll))
		defer t.Stop()
		select {
		case <-t.C:
		case <-w.ctx.Done():
		}
		return
	}
	if w.ctx.Err() != nil {
		return
	}
	_ = w.f.SetReadDeadline(time.Now().Add(d))
	if w.ctx.Err() != nil { // its deadline came before ours
		return
	}
	var events [4 << 10]byte
	_, _ = w.f.Read(events[:])
}

func (w *watch) close() {
	w.stop()
	if w.f != nil {
		_ = w.f.Close()
	}
}
