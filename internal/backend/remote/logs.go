package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The bounds of a stream of events.
const (
	maxEvent    = 8 << 20          // bytes of one
	resumeFor   = 30 * time.Second // how long a stream that broke off is tried again
	resumePause = 200 * time.Millisecond
)

// OpenLogs reads the log of a sandbox. A stream that breaks off goes on behind its last entry.
func (b *Backend) OpenLogs(ctx context.Context, ref sandbox.Ref, opt sandbox.LogOptions) (backend.LogStream, error) {
	if err := check(ref); err != nil {
		return nil, err
	}
	v, err := b.extension(ctx)
	if err != nil {
		return nil, err
	}
	path := byName(ref)
	if v < cloudapi.ExtensionVersion {
		if !opt.Follow || opt.Tail > 0 || !opt.Since.IsZero() || !opt.Until.IsZero() {
			return nil, b.needs(ctx, "a log that is not followed from its beginning")
		}
		now, err := b.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		path = "/sandboxes/" + url.PathEscape(now.ID)
	}
	q := url.Values{}
	sources := opt.Sources
	if sources == nil {
		sources = sandbox.DefaultLogSources
	}
	var words []string
	for _, s := range sources {
		words = append(words, string(s))
	}
	q.Set("sources", strings.Join(words, ","))
	if !opt.Follow {
		q.Set("follow", "false")
	}
	if !opt.Since.IsZero() {
		q.Set("since", opt.Since.Format(time.RFC3339Nano))
	}
	if !opt.Until.IsZero() {
		q.Set("until", opt.Until.Format(time.RFC3339Nano))
	}
	if opt.Tail > 0 {
		q.Set("tail", strconv.Itoa(opt.Tail))
	}
	s := &stream{b: b, cursor: opt.Cursor, call: call{op: "logs", ref: ref, method: http.MethodGet, path: path + "/logs", query: q}}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if err := s.open(); err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// stream is a log that a server sends.
type stream struct {
	b      *Backend
	ctx    context.Context
	cancel context.CancelFunc
	call   call
	cursor string // of the last entry
	body   io.ReadCloser
	lines  *bufio.Reader
	ended  bool
}

func (s *stream) open() error {
	s.call.header = map[string]string{"Accept": "text/event-stream"}
	if s.cursor != "" {
		s.call.header["Last-Event-ID"] = s.cursor
		s.call.query.Del("tail") // was counted already
	}
	resp, err := s.b.send(s.ctx, s.call)
	if err != nil {
		return err
	}
	s.body, s.lines = resp.Body, bufio.NewReaderSize(resp.Body, 64<<10)
	return nil
}

// Close gives back the connection.
func (s *stream) Close() error {
	s.cancel()
	if s.body != nil {
		return s.body.Close()
	}
	return nil
}

// Next returns the next entry.
func (s *stream) Next() (sandbox.LogEntry, error) {
	if s.ended {
		return sandbox.LogEntry{}, io.EOF
	}
	var since time.Time // it broke off
	broken := 0
	for {
		e, err := s.read()
		if err == nil || err == io.EOF || sandbox.KindOf(err) == sandbox.Protocol {
			return e, err
		}
		if s.ctx.Err() != nil {
			return e, s.call.failed(s.ctx, err)
		}
		if since.IsZero() {
			since = time.Now()
		}
		s.body.Close()
		for {
			// A server that is just starting again refuses connections, knows nothing of us, or breaks off again.
			if time.Since(since) > resumeFor {
				return e, err
			}
			if broken++; broken > 1 { // the first time it may be there at once
				select {
				case <-s.ctx.Done():
				case <-time.After(resumePause):
				}
			}
			if err = s.open(); err == nil {
				break
			}
			if sandbox.KindOf(err) != sandbox.Runtime {
				return e, err
			}
		}
	}
}

// read reads one event that is an entry. The error io.EOF is the end of the log; any other, that the stream broke off.
func (s *stream) read() (sandbox.LogEntry, error) {
	bad := func(err error) (sandbox.LogEntry, error) {
		return sandbox.LogEntry{}, &sandbox.Error{Op: "logs", Ref: s.call.ref, Kind: sandbox.Protocol, Message: "the cloud's log", Err: err}
	}
	var id, kind string
	var data bytes.Buffer
	for size := 0; ; {
		line, err := s.lines.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			line = append([]byte{}, line...)
			var rest []byte
			for err == bufio.ErrBufferFull && len(line) < maxEvent {
				rest, err = s.lines.ReadSlice('\n')
				line = append(line, rest...)
			}
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != bufio.ErrBufferFull {
			return sandbox.LogEntry{}, err
		}
		if size += len(line); size > maxEvent {
			return bad(bufio.ErrTooLong)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "id":
				id = string(value)
			case "event":
				kind = string(value)
			case "data":
				if data.Len() > 0 {
					data.WriteByte('\n')
				}
				data.Write(value)
			}
			continue
		}
		switch kind {
		case "end":
			s.ended = true
			return sandbox.LogEntry{}, io.EOF
		case "log":
			var ev cloudapi.LogEvent
			if err := json.Unmarshal(data.Bytes(), &ev); err != nil {
				return bad(err)
			}
			at, err := time.Parse(time.RFC3339Nano, ev.Time)
			if err != nil {
				return bad(err)
			}
			e := sandbox.LogEntry{Time: at, Source: sandbox.LogSource(ev.Source), Session: ev.Session, Data: []byte(ev.Text), Cursor: id}
			if ev.Data != nil {
				e.Data = ev.Data
			}
			if id != "" {
				s.cursor = id
			}
			return e, nil
		}
		id, kind, size = "", "", 0
		data.Reset()
	}
}
