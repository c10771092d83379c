package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
)

// h2Preface is what an HTTP/2 connection begins with (RFC 9113, section 3.4).
var h2Preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// serveRequests serves the requests of a connection until its end. head is what it begins with.
func (s *session) serveRequests(guest net.Conn, head []byte) {
	transport := s.http1
	s.h2 = bytes.HasPrefix(head, h2Preface[:14])
	if s.h2 {
		transport = s.http2
	}
	client, err := transport.NewClientConn(context.WithValue(s.ctx, dialedKey{}, s.host), s.scheme, s.conn.To.String())
	if err != nil {
		s.conn.Abort()
		return
	}
	defer client.Close()
	c := &httpConn{Conn: guest, s: s, gone: make(chan struct{})}
	s.client, s.guest = client, c
	client.SetStateHook(func(*http.ClientConn) { c.endIfUnused() })
	select {
	case s.accept.conns <- c:
	case <-s.ctx.Done():
		return
	}
	select {
	case <-c.gone:
	case <-s.ctx.Done():
		_ = guest.Close()
		<-c.gone
	}
}

func serveRequest(w http.ResponseWriter, r *http.Request) {
	s := r.Context().Value(sessionKey{}).(*session)
	s.guest.asked.Store(true)
	s.request(w, r)
}

// request checks one request, sends it on as its secrets need it, and copies the answer back.
func (s *session) request(w http.ResponseWriter, r *http.Request) {
	plan, v := s.admit(r)
	if !v.Allowed {
		s.conn.Refuse(hostOf(r.Host), v)
		forbid(w, v.Reason)
		return
	}
	out := s.outgoing(r)
	upgrade := upgradeOf(r.Header)
	if upgrade != "" {
		out.Header.Set("Connection", "Upgrade")
		out.Header.Set("Upgrade", upgrade)
		if plan.Watches() {
			out.Header.Del("Sec-Websocket-Extensions") // compressed frames could not be searched; a server need not take any up
		}
	}
	watch := &watched{closed: make(chan struct{})}
	done, err := plan.Request(out)
	defer done()
	if err != nil {
		s.stopped(w, err)
		return
	}
	if out.Body != nil {
		watch.ReadCloser = out.Body
		out.Body = watch
	}
	_ = http.NewResponseController(w).EnableFullDuplex()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	trace, answered := informer(w, plan)
	res, err := s.client.RoundTrip(out.WithContext(httptrace.WithClientTrace(ctx, trace)))
	answered()
	if err != nil {
		if bad := watch.violation(); bad != nil {
			s.stopped(w, bad)
			return
		}
		// As if the server had ended the guest's own connection.
		panic(http.ErrAbortHandler)
	}
	plan.Mask(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		s.switchTo(w, res, upgrade, plan)
		return
	}
	err = answer(w, res, plan)
	if out.Body != nil && !s.h2 && !watch.ended() {
		// The server wants no more of the request. The connection, with the rest of it, is of no use any more; nobody reads it
		// from here on but Close.
		s.guest.linger.Store(true)
		cancel()
		_ = http.NewResponseController(w).SetReadDeadline(longAgo)
		<-watch.closed
	}
	if bad := watch.violation(); bad != nil {
		s.violated(bad)
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// admit decides whether a request may be sent on this connection, and with what secrets.
func (s *session) admit(r *http.Request) (*secret.Plan, policy.Verdict) {
	name := hostOf(r.Host)
	refused := func(format string, args ...any) (*secret.Plan, policy.Verdict) {
		return nil, policy.Verdict{Rule: policy.BuiltIn, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Method == http.MethodConnect:
		return refused("CONNECT leads to where nobody looks")
	case (strings.EqualFold(r.Method, http.MethodTrace) || strings.EqualFold(r.Method, "TRACK")) && !s.secrets.Load().Empty():
		return refused("%s has a server send back what it was sent, secrets too", r.Method) // RFC 9110, section 9.3.8
	case s.tls && name != s.called():
		return refused("the connection is to %s, the request is for %q", s.called(), name)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		name = "" // it names nothing
	} else if !isName(name) && name != "" {
		return refused("the request is for a host with no valid name")
	}
	v := s.authority(name)
	if !v.Allowed {
		return nil, v
	}
	if name != "" && !s.tls {
		s.conn.SetName(name)
	}
	target := secret.Target{Host: hostOf(r.Host), Pinned: s.pinned(name), Verified: s.tls && s.verified}
	if name == "" {
		// An address is what the connection was made to; there is nothing that could have been resolved to another.
		a, err := netip.ParseAddr(target.Host)
		target.Pinned = err == nil && a.Unmap() == s.conn.To.Addr()
	}
	return s.secrets.Load().For(target), v
}

// hostOf is the host of an authority as names are compared.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		authority = host
	}
	return canonical(strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]"))
}

// outgoing is r as it is sent on. It shares r's body and trailer.
func (s *session) outgoing(r *http.Request) *http.Request {
	out := &http.Request{
		Method: r.Method, Host: r.Host, Header: r.Header.Clone(), ContentLength: r.ContentLength, Trailer: r.Trailer,
		URL:  &url.URL{Scheme: s.scheme, Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery},
		Body: io.NopCloser(r.Body), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if out.URL.Host == "" { // HTTP/1.0
		out.URL.Host = s.conn.To.String()
	}
	if r.ContentLength == 0 {
		out.Body = nil
	}
	removeHops(out.Header)
	if r.ProtoMajor >= 2 || strings.Contains(strings.ToLower(r.Header.Get("Connection")), "te") {
		if headerHas(r.Header, "Te", "trailers") {
			out.Header.Set("Te", "trailers")
		}
	}
	if _, said := out.Header["User-Agent"]; !said {
		out.Header.Set("User-Agent", "") // none, also by default
	}
	return out
}

// hops are the headers that are about one connection only (RFC 9110, section 7.6.1).
var hops = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func removeHops(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hops {
		h.Del(name)
	}
}

func headerHas(h http.Header, name, token string) bool {
	for _, v := range h[name] {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// upgradeOf is the protocol that a request wants to go over to, or an answer does. What would be HTTP or TLS again, with hosts
// and secrets that nobody sees, is never gone over to: such a request is sent as one that does not ask for it.
func upgradeOf(h http.Header) string {
	to := h.Get("Upgrade")
	if !headerHas(h, "Connection", "upgrade") || len(h["Upgrade"]) != 1 || strings.Contains(to, ",") {
		return ""
	}
	for _, p := range []string{"h2c", "http", "tls"} {
		if name, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(to)), "/"); name == p {
			return ""
		}
	}
	return to
}

// informer passes on answers that are only informative, but 100, which the server here sends by itself when the body is read.
// The transport tells of them in a goroutine of its own, also when RoundTrip has returned: from answered on nothing is passed on.
func informer(w http.ResponseWriter, plan *secret.Plan) (trace *httptrace.ClientTrace, answered func()) {
	var mu sync.Mutex
	over := false
	trace = &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		mu.Lock()
		defer mu.Unlock()
		if over || code == http.StatusContinue || code == http.StatusSwitchingProtocols {
			return nil
		}
		plan.Mask(http.Header(header))
		maps.Copy(w.Header(), http.Header(header))
		w.WriteHeader(code)
		clear(w.Header())
		return nil
	}}
	return trace, func() { mu.Lock(); over = true; mu.Unlock() }
}

// answer copies a response.
func answer(w http.ResponseWriter, res *http.Response, plan *secret.Plan) error {
	defer res.Body.Close()
	removeHops(res.Header)
	h := w.Header()
	maps.Copy(h, res.Header)
	for _, name := range []string{"Date", "Content-Type"} {
		if _, said := h[name]; !said {
			h[name] = nil // none, also by default
		}
	}
	if res.Close {
		h.Set("Connection", "close")
	}
	plan.Mask(res.Trailer) // of which there are the names so far
	for name := range res.Trailer {
		h.Add("Trailer", name)
	}
	announced := len(res.Trailer)
	w.WriteHeader(res.StatusCode)
	var flush func() error
	if res.ContentLength < 0 || announced > 0 {
		flush = http.NewResponseController(w).Flush
		if err := flush(); err != nil {
			return err
		}
	}
	if err := copyAll(w, res.Body, flush); err != nil {
		return err
	}
	plan.Mask(res.Trailer)
	for name, vs := range res.Trailer {
		if len(res.Trailer) != announced {
			name = http.TrailerPrefix + name
		}
		for _, v := range vs {
			h.Add(name, v)
		}
	}
	return nil
}

// switchTo serves a connection that is HTTP no more.
func (s *session) switchTo(w http.ResponseWriter, res *http.Response, asked string, plan *secret.Plan) {
	server, ok := res.Body.(io.ReadWriteCloser)
	if !ok || asked == "" || !strings.EqualFold(upgradeOf(res.Header), asked) {
		panic(http.ErrAbortHandler)
	}
	defer server.Close()
	guest, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer s.hijacked(guest)
	res.Body, res.Status = nil, "" // what the server says in place of the status' text is not masked
	if err := errors.Join(res.Write(buffered), buffered.Flush()); err != nil {
		return
	}
	stop := context.AfterFunc(s.ctx, func() { _ = guest.Close(); _ = server.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		watch := plan.Watch
		if strings.EqualFold(asked, "websocket") {
			watch = plan.WatchFrames
		}
		if err := copyAll(server, watch(buffered, "its stream"), nil); s.violated(err) {
			_ = guest.Close()
		}
		_ = server.Close()
	})
	_ = copyAll(guest, server, nil)
	_ = guest.Close()
	up.Wait()
}

func (s *session) hijacked(guest net.Conn) {
	_ = guest.Close()
	if c, ok := guest.(*httpConn); ok {
		c.end()
	}
}

// stopped answers a request that a violation, or the guest's own breaking off, ended.
func (s *session) stopped(w http.ResponseWriter, err error) {
	if !s.violated(err) {
		panic(http.ErrAbortHandler)
	}
	forbid(w, err.Error())
}

// forbid says to the guest why a request was not sent.
func forbid(w http.ResponseWriter, why string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintf(w, "denied by policy: %s\n", why)
}

// watched is a body of which it is remembered how it ended: what reads it wraps errors, or drops them.
type watched struct {
	io.ReadCloser
	closed chan struct{} // nobody reads it any more
	once   sync.Once

	mu  sync.Mutex
	bad *secret.Violation
	end bool
}

func (f *watched) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil {
		var v *secret.Violation
		errors.As(err, &v)
		f.mu.Lock()
		f.bad, f.end = v, true
		f.mu.Unlock()
	}
	return n, err
}

func (f *watched) Close() error {
	defer f.once.Do(func() { close(f.closed) })
	return f.ReadCloser.Close()
}

// ended reports whether all of it was read, or could be.
func (f *watched) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.end
}

func (f *watched) violation() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad == nil {
		return nil
	}
	return f.bad
}
