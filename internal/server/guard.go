package server

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// guard lets those requests through to a route that may go there.
func (s *Server) guard(route Route) http.Handler {
	most := cmp.Or(route.MaxBody, MaxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.cors(w, r)
		if !route.AnyOrigin && (s.crossSite(r) || route.Shown && s.cfg.Keys == nil && !s.originAllowed(r.Header.Get("Origin")) && fromElsewhere(r)) {
			route.Fail(w, r, &Failure{Status: http.StatusForbidden, Code: CodeDenied, Message: "a page of another site may not ask this",
				Hint: "allow its origin with --allow-origin"})
			return
		}
		if !route.Public {
			c, f := s.authenticate(r)
			if f != nil {
				route.Fail(w, r, f)
				return
			}
			traceOf(r.Context()).caller = c
			ctx := WithCaller(r.Context(), c)
			if token := credential(r.Header); s.cfg.Keys != nil {
				var stop func()
				ctx, stop = While(ctx, func() error { return s.cfg.Keys.still(token) })
				defer stop()
			}
			r = r.WithContext(ctx)
		}
		if most > 0 && r.ContentLength > most {
			w.Header().Set("Connection", "close")
			route.Fail(w, r, FailureOf(&http.MaxBytesError{Limit: most}))
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &timedBody{ReadCloser: r.Body, control: http.NewResponseController(w), timeout: s.cfg.Timeouts.Body, whole: most > 0}
			if most > 0 {
				r.Body = http.MaxBytesReader(w, r.Body, most)
			}
		}
		route.Handler.ServeHTTP(w, r)
	})
}

// timedBody bounds how long a body takes to come: the whole of it, or each part. When it has come the bound goes, for it would
// end the request's context. What does not come is a [Failure], 408.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration
	whole   bool
	begun   bool
}

func (b *timedBody) Read(p []byte) (int, error) {
	if !b.begun || !b.whole {
		b.begun = true
		_ = b.control.SetReadDeadline(time.Now().Add(b.timeout))
	}
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF: // else what is left of it is still to be thrown away
		_ = b.control.SetReadDeadline(time.Time{})
	case err != nil:
		err = &Failure{Status: http.StatusRequestTimeout, Code: CodeInvalid, Message: "the request body did not come", Err: err}
	}
	return n, err
}

// watchedBody knows whether all of it was read.
type watchedBody struct {
	io.ReadCloser
	over bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.over = b.over || err != nil
	return n, err
}

// drop sends the answer to a request and then throws away what nobody read of its long body. A client that sends all of it before it
// reads would else find the connection reset, and not the answer. One that waits to be told to send it does not send it.
func (s *Server) drop(rec *recorder, r *http.Request, body *watchedBody) {
	if body.over || rec.status == http.StatusSwitchingProtocols || 0 <= r.ContentLength && r.ContentLength < minDropped || r.Header.Get("Expect") != "" {
		return
	}
	if rec.control.Flush() == nil {
		_ = rec.control.SetReadDeadline(time.Now().Add(s.cfg.Timeouts.Body))
		_, _ = io.CopyN(io.Discard, body, maxDropped)
	}
}

// hostAllowed looks at the name that a request is for. A page that makes a browser believe that its own name is this machine's
// (DNS rebinding) asks for that name: there are no names here but localhost, and those that the server was told.
func (s *Server) hostAllowed(r *http.Request) bool {
	s.mu.Lock()
	strict := s.strict
	s.mu.Unlock()
	if !strict {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.ContainsFunc(s.cfg.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// crossSite reports whether a page of another origin asks for something to be done.
func (s *Server) crossSite(r *http.Request) bool {
	upgrade := r.Header.Get("Upgrade") != ""
	if !upgrade && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return fromElsewhere(r)
	}
	if s.originAllowed(origin) {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// fromElsewhere reports whether a browser says that a page of another origin asks.
func fromElsewhere(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site != "" && site != "same-origin" && site != "none"
}

func (s *Server) originAllowed(origin string) bool {
	return slices.Contains(s.cfg.Origins, "*") || origin != "null" && slices.ContainsFunc(s.cfg.Origins, func(o string) bool { return strings.EqualFold(o, origin) })
}

// The methods and headers that pages of allowed origins may use.
const (
	corsMethods = "GET, POST, PUT, PATCH, DELETE"
	corsHeaders = "Authorization, Accept, Content-Type, Last-Event-ID, Mcp-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name"
)

// cors tells a browser that a page of an allowed origin may read the answer.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || !s.originAllowed(origin) {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, Mcp-Session-Id, Mcp-Protocol-Version")
	return true
}

// preflight answers a browser's question whether a page may ask (contract server-v0.2 §1.2).
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if !s.cors(w, r) {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
