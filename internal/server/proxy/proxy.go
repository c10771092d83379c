// Package proxy leads HTTP and WebSocket requests below /proxy/NAMESPACE/SANDBOX/PORT/ to a port in the sandbox, with nothing published
// on this machine. Who asks has an API key of the namespace, or the URL is signed: the port is followed by ~EXPIRY~KEY~SIGNATURE then, where KEY is the ID of the key that it was signed for, so
// that links within the page keep it.
//
// What a sandbox shows is hostile, and comes from the same origin as this server. So browsers are told to treat it as a page of no origin
// at all (Content-Security-Policy: sandbox): its scripts run, and can ask this server for nothing but what the URL is signed for.
package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Life is how long a signed URL is good for that nobody said it of; MaxLife how long it can be.
const (
	Life    = time.Hour
	MaxLife = 7 * 24 * time.Hour
)

// Handler leads requests to sandboxes.
type Handler struct {
	server *server.Server
	secret []byte
	now    func() time.Time
}

// New returns the handler of a server. In development mode signatures are good for as long as the server lives.
func New(s *server.Server) *Handler {
	h := &Handler{server: s, now: time.Now}
	if keys := s.Config().Keys; keys != nil {
		h.secret = keys.Secret("preview")
		return h
	}
	h.secret = make([]byte, 32)
	_, _ = rand.Read(h.secret) // never fails (crypto/rand)
	return h
}

// Routes are the endpoints. The signature is instead of a key and of the page's origin.
func (h *Handler) Routes() []server.Route {
	keyed := server.Route{Pattern: "/proxy/{namespace}/{sandbox}/{port}/{path...}", MaxBody: -1, Shown: true, Handler: http.HandlerFunc(h.keyed)}
	signed := server.Route{MaxBody: -1, Public: true, AnyOrigin: true, Handler: http.HandlerFunc(h.signed)}
	return []server.Route{{Pattern: keyed.Pattern, MaxBody: -1, Public: true, AnyOrigin: true, Handler: h.split(h.server.Guard(keyed), h.server.Guard(signed))}}
}

// split looks whether a URL is signed.
func (h *Handler) split(keyed, signed http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.PathValue("port"), "~") {
			signed.ServeHTTP(w, r)
			return
		}
		keyed.ServeHTTP(w, r)
	})
}

// Sign returns the path of a URL for a port of a sandbox that is good for life; the caller may use the sandbox.
func (h *Handler) Sign(ctx context.Context, namespace, name string, port uint16, life time.Duration) (string, error) {
	ref := sandbox.Ref{Namespace: namespace, Name: sandbox.Name(name)}
	if err := ref.Validate(); err != nil {
		return "", err
	}
	if err := server.CallerOf(ctx).Check(namespace); err != nil {
		return "", err
	}
	if port == 0 || life <= 0 || life > MaxLife {
		return "", server.Invalid("a preview is of a port from 1 to 65535, for at most %d hours", int(MaxLife.Hours()))
	}
	expiry := strconv.FormatInt(h.now().Add(life).Unix(), 36)
	key := server.CallerOf(ctx).KeyID
	return fmt.Sprintf("/proxy/%s/%s/%d~%s~%s~%s/", namespace, name, port, expiry, key, h.signature(ref, port, expiry, key)), nil
}

func (h *Handler) signature(ref sandbox.Ref, port uint16, expiry, key string) string {
	m := hmac.New(sha256.New, h.secret)
	fmt.Fprintf(m, "%s/%s/%d/%s/%s", ref.Namespace, ref.Name, port, expiry, key)
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:18])
}

// signed answers a request whose URL is signed.
func (h *Handler) signed(w http.ResponseWriter, r *http.Request) {
	refused := &server.Failure{Status: http.StatusForbidden, Code: server.CodeDenied, Message: "this URL is not signed, or not any more"}
	parts := strings.Split(r.PathValue("port"), "~")
	if len(parts) != 4 {
		server.WriteFailure(w, r, refused)
		return
	}
	ref, port, err := target(r, parts[0])
	if err != nil {
		server.WriteFailure(w, r, refused)
		return
	}
	expiry, err := strconv.ParseInt(parts[1], 36, 64)
	if err != nil || h.now().Unix() >= expiry || !hmac.Equal([]byte(parts[3]), []byte(h.signature(ref, port, parts[1], parts[2]))) || h.live(parts[2]) != nil {
		server.WriteFailure(w, r, refused)
		return
	}
	ctx, stop := server.While(r.Context(), func() error { return h.live(parts[2]) })
	defer stop()
	r = r.WithContext(ctx)
	w.Header().Set("Access-Control-Allow-Origin", "*") // for the page itself, which has no origin; who has the URL may see it
	h.lead(w, r, ref, port)
}

// live is the error of a key that was revoked; in development mode there are none.
func (h *Handler) live(key string) error {
	if keys := h.server.Config().Keys; keys != nil {
		return keys.Live(key)
	}
	return nil
}

// keyed answers a request whose caller has a key.
func (h *Handler) keyed(w http.ResponseWriter, r *http.Request) {
	ref, port, err := target(r, r.PathValue("port"))
	if err == nil {
		err = server.CallerOf(r.Context()).Check(ref.Namespace)
	}
	if err != nil {
		server.WriteFailure(w, r, server.FailureOf(err))
		return
	}
	h.lead(w, r, ref, port)
}

func target(r *http.Request, port string) (sandbox.Ref, uint16, error) {
	ref := sandbox.Ref{Namespace: r.PathValue("namespace"), Name: sandbox.Name(r.PathValue("sandbox"))}
	if err := ref.Validate(); err != nil {
		return ref, 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return ref, 0, server.Invalid("the port has to be a number from 1 to 65535")
	}
	return ref, uint16(n), nil
}

// isolated is what keeps a page of a sandbox from being one of this server.
const isolated = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"

// lead passes the request on.
func (h *Handler) lead(w http.ResponseWriter, r *http.Request, ref sandbox.Ref, port uint16) {
	ctx := r.Context()
	server.Operation(ctx, "proxy")
	server.Note(ctx, slog.String("namespace", ref.Namespace), slog.String("sandbox", string(ref.Name)), slog.Int("port", int(port)))
	client, release, err := h.server.Agent(ctx, ref)
	if err != nil {
		server.WriteFailure(w, r, gateway(err))
		return
	}
	defer release()
	prefix := "/proxy/" + r.PathValue("namespace") + "/" + r.PathValue("sandbox") + "/" + r.PathValue("port")
	forward(w, r, prefix, port, func(ctx context.Context) (net.Conn, error) { return client.DialTCP(ctx, "127.0.0.1", port) })
}

// forward passes the request to what dial reaches, without the prefix of its path.
func forward(w http.ResponseWriter, r *http.Request, prefix string, port uint16, dial func(context.Context) (net.Conn, error)) {
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 5 * time.Minute, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			if err != nil {
				return nil, err
			}
			return struct{ net.Conn }{c}, nil // without CloseWrite: when a client that upgraded goes, all of it does
		}}
	defer transport.CloseIdleConnections()
	p := &httputil.ReverseProxy{
		Transport:     quiet{transport},
		FlushInterval: -1, // what streams is passed on at once
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port), RawQuery: p.In.URL.RawQuery}
			p.Out.URL.Path = strings.TrimPrefix(p.In.URL.Path, prefix)
			if raw := p.In.URL.EscapedPath(); strings.HasPrefix(raw, prefix) {
				p.Out.URL.RawPath = strings.TrimPrefix(raw, prefix)
			}
			p.Out.Host = ""
			p.SetXForwarded()
			p.Out.Header.Set("X-Forwarded-Prefix", prefix)
			p.Out.Header.Del("Cookie") // of this server's name: whatever else listens on it may have set them
			if p.In.PathValue("port") != "" {
				for _, name := range []string{"Authorization", "Proxy-Authorization"} { // the key is not the sandbox's
					if strings.Contains(p.Out.Header.Get(name), server.TokenPrefix) {
						p.Out.Header.Del(name)
					}
				}
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			head := resp.Header
			for _, name := range []string{"Nel", "Report-To", "Reporting-Endpoints", "Alt-Svc", "X-Request-Id"} { // about the origin, which is ours
				head.Del(name)
			}
			head.Del("Set-Cookie")
			head.Del("Clear-Site-Data")
			head.Del("Service-Worker-Allowed")
			head.Del("Strict-Transport-Security")
			head.Del("Access-Control-Allow-Credentials")
			if w.Header().Get("Access-Control-Allow-Origin") != "" {
				head.Del("Access-Control-Allow-Origin") // ours counts
			}
			head.Add("Content-Security-Policy", isolated)
			head.Set("X-Content-Type-Options", "nosniff")
			head.Set("Referrer-Policy", "no-referrer") // the URL is a secret
			if to := head.Get("Location"); strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "//") {
				head.Set("Location", prefix+to)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			server.WriteFailure(w, r, gateway(err))
		},
	}
	p.ServeHTTP(w, r)
}

// quiet passes on no interim answers (1xx), whose headers ModifyResponse does not see: httputil learns of them by a trace.
type quiet struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (q quiet) RoundTrip(r *http.Request) (*http.Response, error) {
	return q.RoundTripper.RoundTrip(r.WithContext(untraced{r.Context()}))
}

// untraced is a context without a trace.
type untraced struct{ context.Context }

func (c untraced) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

// gateway is the failure of a sandbox that does not answer.
func gateway(err error) *server.Failure {
	f := &server.Failure{Status: http.StatusBadGateway, Code: server.CodeInternal, Message: "the sandbox does not answer on this port", Err: err}
	var big *http.MaxBytesError
	switch k := sandbox.KindOf(err); {
	case errors.As(err, &big):
		return server.FailureOf(err)
	case k == sandbox.NotFound:
		f.Status, f.Code, f.Message = http.StatusNotFound, server.CodeNotFound, err.Error()
	case k == sandbox.NotRunning:
		f.Status, f.Message = http.StatusServiceUnavailable, err.Error()
	}
	return f
}
