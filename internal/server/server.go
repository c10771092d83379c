// Package server is what the HTTP server of microsandbox has whatever protocol is spoken: it listens, knows who asks and for which
// namespace, refuses what browsers of others send, writes a request log and an audit log, bounds what a namespace may have, and
// keeps one connection to each sandbox's agent for all requests (contract server-v0.2 §1).
//
// A [Server] is made with [New]; each protocol mounts its [Route]s; [Server.Serve] answers until its context ends and then lets
// go of what it holds. Sandboxes live on: the server is a client of its backend and keeps nothing that another one could not find
// again.
package server

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// DefaultAddress is where the server listens unless told otherwise (contract server-v0.2 §1.1).
const (
	DefaultHost = "127.0.0.1"
	DefaultPort = 5555
)

// Config says how to serve. Backend is needed; the zero value of the rest is a development server with the default limits.
type Config struct {
	Backend  backend.Backend
	Settings config.File // the defaults of sandboxes
	// Keys say who may ask; nil is development mode, in which everybody may do everything.
	Keys *Keys
	// Namespaces is the directory with a directory and a Sandboxfile for each namespace.
	Namespaces string
	// Hosts are names, besides localhost and addresses, that requests may be for. They are only looked at by a server that
	// listens on loopback, or when there are some.
	Hosts []string
	// Origins are those of web pages that may ask; "*" is every one. The pages of others are refused.
	Origins []string
	// VolumeRoots are the directories of this machine from which sandboxes may mount.
	VolumeRoots []string
	// HostImage and HostNetwork let keys of one namespace have the image host, which has this machine's programs, and reach what listens
	// on this machine.
	HostImage, HostNetwork bool

	Limits   Limits
	Timeouts Timeouts
	TLS      *tls.Config // nil: plain HTTP

	Log   *slog.Logger // of requests and troubles; nil is silence
	Audit *slog.Logger // of what was changed, by whom; nil is silence
	// AuditFile is the log that Audit writes to as JSON, to be read what was changed before (see ReadLog); "" is none.
	AuditFile string
}

// Limits bound what a server takes on. Zero is the default; negative is no limit.
type Limits struct {
	// Of one namespace, at the same time:
	Sandboxes int // running; no limit
	CPUs      int // of running sandboxes; no limit
	MemoryMiB int // of running sandboxes; no limit
	DiskMiB   int // of root disks, stopped sandboxes' included; no limit

	Starts      int // at the same time, of all; twice the machine's CPUs
	Queue       int // starts that wait; 256
	Connections int // 4096
}

// Timeouts bound what clients take their time for. Zero is the default.
type Timeouts struct {
	Header time.Duration // the header of a request; 10 s
	Body   time.Duration // a whole bounded body, and each part of one without a bound; 30 s
	Write  time.Duration // to take each part of an answer; 1 min
	Idle   time.Duration // between requests; 2 min
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{cmp.Or(t.Header, 10*time.Second), cmp.Or(t.Body, 30*time.Second), cmp.Or(t.Write, time.Minute), cmp.Or(t.Idle, 2*time.Minute)}
}

// The bounds of one request.
const (
	// MaxBody is the longest body of a route that says nothing else, in bytes (contract server-v0.2 §1.3).
	MaxBody   = 2 << 20
	maxHeader = 64 << 10
	// minDropped and maxDropped bound the bodies that are thrown away when nobody wanted them, in bytes. Shorter ones net/http throws away.
	minDropped = 256 << 10
	maxDropped = 256 << 20
	// ShutdownTimeout is how long requests may take to end once the server is told to.
	ShutdownTimeout = 20 * time.Second
)

// Server answers requests. It is made with New.
type Server struct {
	cfg   Config
	mux   *http.ServeMux
	conns *conns
	admit *admission
	log   *slog.Logger
	audit *slog.Logger
	pulls pulls
	// What all requests keep in memory.
	outputs, bodies *memory

	// What goes on behind requests, see Go.
	background context.Context
	stop       context.CancelFunc
	tasks      sync.WaitGroup
	draining   chan struct{}
	drain      func() // closes it

	mu        sync.Mutex
	strict    bool // which names are asked for is looked at
	observers []func(Served)
	actions   []func(action string, ok bool)
	audits    []func(Audit)
}

// New returns a server without routes.
func New(cfg Config) *Server {
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	discard := slog.New(slog.NewTextHandler(io.Discard, nil))
	if k, ok := cfg.Backend.(backend.Keeper); ok && cfg.Keys != nil {
		k.KeepValues(cfg.Keys.ValuesKey())
	}
	if a, ok := cfg.Backend.(backend.Accountant); ok {
		a.Account()
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), log: cmp.Or(cfg.Log, discard), audit: cmp.Or(cfg.Audit, discard), strict: true}
	s.background, s.stop = context.WithCancel(context.Background())
	s.draining = make(chan struct{})
	s.drain = sync.OnceFunc(func() { close(s.draining) })
	s.conns = newConns(cfg.Backend)
	s.admit = newAdmission(cfg.Backend, cfg.Limits)
	s.outputs, s.bodies = newMemory(maxOutputs), newMemory(maxBodies)
	return s
}

// Config is what the server was made with.
func (s *Server) Config() Config { return s.cfg }

// Backend is where the sandboxes are.
func (s *Server) Backend() backend.Backend { return s.cfg.Backend }

// Route is a pattern and who answers there.
type Route struct {
	// Pattern is one of [http.ServeMux].
	Pattern string
	Handler http.Handler
	// Public routes need no key; [CallerOf] is then nobody.
	Public bool
	// MaxBody bounds the body in bytes: 0 is [MaxBody], negative is no bound.
	MaxBody int64
	// AnyOrigin lets pages of all origins ask: the handler knows by something else that it was meant.
	AnyOrigin bool
	// Shown routes answer with what others wrote. Where no key is asked for, pages of other sites may not even get it.
	Shown bool
	// Fail writes what the server itself refuses, in the words of the protocol; nil is [WriteFailure].
	Fail func(http.ResponseWriter, *http.Request, *Failure)
}

// Mount adds routes. It panics on a pattern that clashes with another, and must not be called once the server serves.
func (s *Server) Mount(routes ...Route) {
	for _, r := range routes {
		s.mux.Handle(r.Pattern, s.Guard(r))
	}
}

// Guard is what Mount makes of a route's handler, for those who choose between several behind one pattern.
func (s *Server) Guard(r Route) http.Handler {
	if r.Fail == nil {
		r.Fail = WriteFailure
	}
	return s.guard(r)
}

// Listen opens the address. A server without keys listens on loopback only.
func (s *Server) Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &sandbox.Error{Op: "listen", Kind: sandbox.IO, Message: "listen on " + addr, Err: cause(err), Hint: "choose another port with --port"}
	}
	loopback := isLoopback(l.Addr())
	if s.cfg.Keys == nil && !loopback {
		l.Close()
		return nil, &sandbox.Error{Op: "listen", Kind: sandbox.InvalidConfig, Message: "a server in development mode, which asks nobody for a key, does not listen on " + addr,
			Hint: "leave --dev out, or --host"}
	}
	s.mu.Lock()
	s.strict = loopback || len(s.cfg.Hosts) > 0
	s.mu.Unlock()
	return l, nil
}

func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func isLoopback(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// Serve answers requests on l, which it closes, until ctx ends; then it waits for those under way, ShutdownTimeout long.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.Close()
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var watch func(net.Conn, http.ConnState)
	if most := cmp.Or(s.cfg.Limits.Connections, 4096); most > 0 {
		l = netutil.LimitListener(l, most)
		watch = (&idlers{most: most * 3 / 4, at: map[net.Conn]*list.Element{}}).watch
	}
	h := &http.Server{Handler: s, ReadHeaderTimeout: s.cfg.Timeouts.Header, IdleTimeout: s.cfg.Timeouts.Idle, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return base }, ConnState: watch,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	if s.cfg.TLS != nil {
		h.TLSConfig = s.cfg.TLS.Clone()
		l = tls.NewListener(l, h.TLSConfig)
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	select {
	case err := <-done:
		_ = h.Close()
		return err
	case <-ctx.Done():
	}
	s.drain()
	grace, stop := context.WithTimeout(base, ShutdownTimeout)
	defer stop()
	err := h.Shutdown(grace)
	if err != nil {
		cancel()
		err = h.Close()
	}
	<-done
	return err
}

// Close ends what goes on behind requests and gives back the connections to sandboxes. Serve does it, too.
func (s *Server) Close() {
	s.drain()
	s.stop()
	s.tasks.Wait()
	s.conns.close()
}

// Draining is closed when the server is about to end: what never ends by itself ends then.
func (s *Server) Draining() <-chan struct{} { return s.draining }

// Go runs f behind the requests: it outlives the one that began it, and has its values, but not the server. When that closes f's
// context ends, and the server waits for it.
func (s *Server) Go(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(s.background, cancel)
	s.tasks.Go(func() {
		defer cancel()
		defer stop()
		f(ctx)
	})
}

// ServeHTTP gives the request a number, finds its route and logs how it went.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := &trace{id: requestID(), began: time.Now(), output: holding{memory: s.outputs}, body: holding{memory: s.bodies}}
	defer t.output.release()
	defer t.body.release()
	r = r.WithContext(context.WithValue(r.Context(), traceKey{}, t))
	rec := &recorder{ResponseWriter: w, control: http.NewResponseController(w), timeout: s.cfg.Timeouts.Write}
	rec.Header().Set("X-Request-Id", t.id)
	if r.ContentLength == 0 {
		s.answer(t, rec, r)
		return
	}
	// Whoever reads it, and if only to throw it away:
	_ = rec.control.SetReadDeadline(t.began.Add(s.cfg.Timeouts.Body))
	body := &watchedBody{ReadCloser: r.Body}
	r.Body = body
	s.answer(t, rec, r)
	s.drop(rec, r, body)
}

func (s *Server) answer(t *trace, rec *recorder, r *http.Request) {
	defer s.served(t, rec, r)
	h, pattern := s.mux.Handler(r)
	t.route = pattern
	switch {
	case !s.hostAllowed(r):
		WriteFailure(rec, r, &Failure{Status: http.StatusMisdirectedRequest, Code: CodeDenied, Message: "this server is not " + clip(r.Host)})
	case s.preflight(rec, r):
	case pattern == "": // not found, or with another method: no words (contract server-v0.2 §1.2)
		h.ServeHTTP(silent{rec}, r)
	default:
		s.mux.ServeHTTP(rec, r)
	}
}

// silent drops the body of an answer.
type silent struct{ http.ResponseWriter }

func (s silent) WriteHeader(code int) {
	s.Header().Del("Content-Type")
	s.Header().Del("X-Content-Type-Options")
	s.ResponseWriter.WriteHeader(code)
}

func (silent) Write(p []byte) (int, error) { return len(p), nil }

func clip(s string) string {
	const most = 100
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
