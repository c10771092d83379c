package microsandbox

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// LogSource says where an entry of a sandbox's log comes from.
type LogSource string

// The sources. What a session with a terminal prints is output, others have stdout and stderr; system is what the sandbox's
// supervisor says.
const (
	LogSourceStdout LogSource = "stdout"
	LogSourceStderr LogSource = "stderr"
	LogSourceOutput LogSource = "output"
	LogSourceSystem LogSource = "system"
)

// LogOptions say which entries to read. The zero value is all that programs in the guest printed.
type LogOptions struct {
	Tail    uint64 // only the last so many; 0 is all
	Since   time.Time
	Until   time.Time
	Sources []LogSource // default stdout, stderr, output
}

// LogEntry is one piece of output, as it came: not always a line, nor a whole one.
type LogEntry struct {
	Source    LogSource
	SessionID *uint64 // the command that printed it; nil for system
	Timestamp time.Time
	Data      []byte // the guest chooses it, control characters included
	Cursor    string // to go on behind this entry
}

// Text is the entry's data.
func (e LogEntry) Text() string { return string(e.Data) }

// LogStreamOptions say which entries a stream has.
type LogStreamOptions struct {
	Sources    []LogSource // default stdout, stderr, output
	Since      time.Time
	FromCursor string // behind the entry that had it; excludes Since
	Until      time.Time
	Follow     bool // wait for more, until the sandbox has ended
}

// Logs returns what the sandbox's log has, in the order of its times.
func (s *Sandbox) Logs(ctx context.Context, opts LogOptions) ([]LogEntry, error) {
	return s.handle.Logs(ctx, opts)
}

// LogStream reads the sandbox's log piece by piece.
func (s *Sandbox) LogStream(ctx context.Context, opts LogStreamOptions) (*LogStreamHandle, error) {
	return s.handle.LogStream(ctx, opts)
}

// Logs returns what the sandbox's log has, in the order of its times. The sandbox need not run.
func (h *SandboxHandle) Logs(ctx context.Context, opts LogOptions) ([]LogEntry, error) {
	stream, err := h.openLogs(ctx, sandbox.LogOptions{Sources: sourcesOf(opts.Sources), Since: opts.Since, Until: opts.Until, Tail: int(min(opts.Tail, math.MaxInt32))})
	if err != nil {
		return nil, wrap(err)
	}
	defer stream.Close()
	entries := []LogEntry{}
	for {
		e, err := stream.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, wrap(err)
		}
		if e.Source != sandbox.LogBootError {
			entries = append(entries, entryOf(e))
		}
	}
}

// LogStream reads the sandbox's log piece by piece. The sandbox need not run. Close ends the stream; ctx bounds only the call.
// Kind: ErrInvalidArgument, for a cursor that is none.
func (h *SandboxHandle) LogStream(ctx context.Context, opts LogStreamOptions) (*LogStreamHandle, error) {
	if opts.FromCursor != "" && !opts.Since.IsZero() {
		return nil, fail(ErrInvalidArgument, "Since and FromCursor exclude each other")
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := h.openLogs(life, sandbox.LogOptions{Sources: sourcesOf(opts.Sources), Since: opts.Since, Until: opts.Until, Cursor: opts.FromCursor, Follow: opts.Follow})
	if err != nil {
		cancel()
		return nil, wrap(err)
	}
	l := &LogStreamHandle{stream: stream, cancel: cancel, entries: make(chan LogEntry), done: make(chan struct{})}
	go l.read(life)
	return l, nil
}

func (h *SandboxHandle) openLogs(ctx context.Context, opt sandbox.LogOptions) (backend.LogStream, error) {
	b, err := capable[backend.LogReader](h.e, "Sandbox::logs")
	if err != nil {
		return nil, err
	}
	if _, err := h.refresh(ctx); err != nil {
		return nil, err
	}
	return b.OpenLogs(ctx, h.ref, opt)
}

func sourcesOf(all []LogSource) []sandbox.LogSource {
	var out []sandbox.LogSource
	for _, s := range all {
		out = append(out, sandbox.LogSource(s))
	}
	return out
}

// entryOf copies an entry, whose data is the stream's.
func entryOf(e sandbox.LogEntry) LogEntry {
	return LogEntry{Source: LogSource(e.Source), SessionID: e.Session, Timestamp: e.Time, Data: slices.Clone(e.Data), Cursor: e.Cursor}
}

// LogStreamHandle is a log that is being read. One goroutine receives.
type LogStreamHandle struct {
	stream  backend.LogStream
	cancel  context.CancelFunc
	entries chan LogEntry
	done    chan struct{} // closed when nobody reads any more
	err     error         // why; nil at the end. For after done.
	close   sync.Once
}

// read hands out entries one by one, so that Recv can be given up without losing one.
func (l *LogStreamHandle) read(ctx context.Context) {
	defer close(l.done)
	for {
		e, err := l.stream.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				l.err = err
			}
			return
		}
		if e.Source == sandbox.LogBootError {
			continue
		}
		select {
		case l.entries <- entryOf(e):
		case <-ctx.Done():
			return
		}
	}
}

// Recv returns the next entry, and nil after the last.
func (l *LogStreamHandle) Recv(ctx context.Context) (*LogEntry, error) {
	select {
	case e := <-l.entries:
		return &e, nil
	case <-l.done:
		return nil, wrap(l.err)
	case <-ctx.Done():
		return nil, wrap(ctx.Err())
	}
}

// Close ends the stream. It may be called twice.
func (l *LogStreamHandle) Close() error {
	var err error
	l.close.Do(func() {
		l.cancel()
		<-l.done
		err = l.stream.Close()
	})
	return wrap(err)
}
