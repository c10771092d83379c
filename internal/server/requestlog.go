package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

type traceKey struct{}

// trace is what is noted of one request.
type trace struct {
	id     string
	began  time.Time
	route  string
	caller Caller
	// What the request keeps in memory.
	output, body holding

	mu    sync.Mutex
	attrs []slog.Attr
	op    string
}

func traceOf(ctx context.Context) *trace {
	if t, ok := ctx.Value(traceKey{}).(*trace); ok {
		return t
	}
	return &trace{}
}

// RequestID is the number of a request, which the log and the header X-Request-Id have.
func RequestID(ctx context.Context) string { return traceOf(ctx).id }

// Note adds attributes to the request's line in the log. Bodies, code and keys never go there.
func Note(ctx context.Context, attrs ...slog.Attr) {
	t := traceOf(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attrs = append(t.attrs, attrs...)
}

// Operation says what the request is for, in the words of its protocol: "sandbox.start". The log and the metrics have it.
func Operation(ctx context.Context, op string) {
	t := traceOf(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.op = op
}

func requestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func auditID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Served is a request that was answered, for those who count.
type Served struct {
	Route, Operation string
	Status           int
	Took             time.Duration
}

// Observe has f called after each request.
func (s *Server) Observe(f func(Served)) { s.observers = append(s.observers, f) }

// ObserveActions has f called after each change that is audited.
func (s *Server) ObserveActions(f func(action string, ok bool)) { s.actions = append(s.actions, f) }

// Audit is a change that somebody made, or tried to.
type Audit struct {
	ID      string // 32 hex digits, its own
	At      time.Time
	Request string
	Caller  Caller
	Action  string
	Ref     sandbox.Ref
	Kind    sandbox.Kind // "": it was done
	Failure string       // what went wrong, a hundred bytes of it at most
}

// ObserveAudit has f called with each change that is audited, before it is logged.
func (s *Server) ObserveAudit(f func(Audit)) { s.audits = append(s.audits, f) }

// served logs a request. Its query is left out: it may hold a signature.
func (s *Server) served(t *trace, rec *recorder, r *http.Request) {
	took := time.Since(t.began)
	_ = rec.control.SetWriteDeadline(time.Now().Add(rec.timeout)) // for what is still in buffers
	t.mu.Lock()
	attrs, op := t.attrs, t.op
	t.mu.Unlock()
	status := rec.status
	if status == 0 {
		status = http.StatusOK
	}
	line := []slog.Attr{slog.String("id", t.id), slog.String("method", clip(r.Method)), slog.String("path", logPath(r.URL.Path)), slog.Int("status", status),
		slog.Int64("bytes", rec.bytes), slog.Float64("ms", float64(took.Microseconds())/1000), slog.String("remote", r.RemoteAddr)}
	if t.caller.KeyID != "" {
		line = append(line, slog.String("key", t.caller.KeyID))
	}
	if op != "" {
		line = append(line, slog.String("operation", op))
	}
	level := slog.LevelInfo
	if status >= 500 {
		level = slog.LevelError
	}
	s.log.LogAttrs(r.Context(), level, "request", append(line, attrs...)...)
	for _, f := range s.observers {
		f(Served{t.route, op, status, took})
	}
	if p := recover(); p != nil {
		if p != http.ErrAbortHandler {
			s.log.Error("panic", "id", t.id, "panic", p, "stack", stack())
		}
		panic(http.ErrAbortHandler)
	}
}

// Audited notes that somebody changed something, or tried to.
func (s *Server) Audited(ctx context.Context, action string, ref sandbox.Ref, err error, attrs ...slog.Attr) {
	c, at, id := CallerOf(ctx), time.Now().UTC(), auditID()
	ref.Namespace, ref.Name = clip(ref.Namespace), sandbox.Name(clip(string(ref.Name))) // it may not have been looked at
	line := []slog.Attr{slog.String("event", id), slog.String("request", RequestID(ctx)), slog.String("key", c.KeyID), slog.String("as", c.Namespace), slog.String("action", action),
		slog.String("namespace", ref.Namespace), slog.String("sandbox", string(ref.Name)), slog.Bool("ok", err == nil)}
	if err != nil {
		line = append(line, slog.String("kind", string(sandbox.KindOf(err))), slog.String("error", clip(err.Error())))
	}
	if sandbox.KindOf(err) == sandbox.ImagePullFailed {
		s.pulls.failed.Add(1)
	}
	for _, f := range s.actions {
		f(action, err == nil)
	}
	for _, f := range s.audits {
		a := Audit{ID: id, At: at, Request: RequestID(ctx), Caller: c, Action: action, Ref: ref, Kind: sandbox.KindOf(err)}
		if err != nil {
			a.Failure = clip(err.Error())
		}
		f(a)
	}
	record := slog.NewRecord(at, slog.LevelInfo, "audit", 0)
	record.AddAttrs(append(line, attrs...)...)
	if err := s.audit.Handler().Handle(ctx, record); err != nil {
		s.log.Error("the audit log cannot be written", "err", err)
	}
}

// recorder notes what was answered, and bounds how long each part may take to be taken.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	status  int
	bytes   int64
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 || status == http.StatusSwitchingProtocols {
		r.status = status
	}
	_ = r.control.SetWriteDeadline(time.Now().Add(r.timeout))
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	_ = r.control.SetWriteDeadline(time.Now().Add(r.timeout))
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// logPath is a path as the log has it: what signs a URL (see package proxy) is left out.
func logPath(p string) string {
	if !strings.Contains(p, "~") {
		return clip(p)
	}
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if at := strings.IndexByte(part, '~'); at >= 0 {
			parts[i] = part[:at] + "~[secret]"
		}
	}
	return clip(strings.Join(parts, "/"))
}

// stack is where a handler panicked.
func stack() string {
	const most = 8 << 10
	s := string(debug.Stack())
	return s[:min(len(s), most)]
}

// Flush sends what there is.
func (r *recorder) Flush() { _ = r.control.Flush() }
