// Package proxy looks into a sandbox's TCP connections, as far as it has to: into the first bytes, for the name that rules
// about domains are held to; into TLS, by ending it with a certificate of an authority that the guest trusts and opening it
// anew to the server, whose certificate it verifies; into HTTP in either, for the host of each request and for secrets.
//
// A [Proxy] is the netstack.Inspector of one sandbox. For each connection of the guest there is one to the server, and both
// speak the same protocol: what the server chose is what the guest is offered. Nothing is kept but what is in flight.
package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Config says what is looked into.
type Config struct {
	TLS           *sandbox.TLS // nil or not enabled: no TLS is looked into
	CACert, CAKey []byte       // the authority that the guest trusts, in PEM
	Upstream      []Authority  // trusted in servers, beside Roots
	Roots         *x509.CertPool
	Secrets       *secret.Set // until SetSecrets
	// Terminate is called when a secret's violation is to end the sandbox. It must not wait.
	Terminate func(why string)
	Logger    *slog.Logger // default: discards
}

// Proxy looks into the connections of one sandbox.
type Proxy struct {
	cfg      Config
	secrets  atomic.Pointer[secret.Set]
	log      *slog.Logger
	ports    []uint16
	bypass   []sandbox.HostPattern
	issuer   *issuer
	upstream *upstream

	server *http.Server // of the guest's requests
	accept *handover
	http1  *http.Transport
	http2  *http.Transport
	served sync.WaitGroup
}

// Bounds of one connection (contract msb-0.6 §5.6). Streams are fewer than the contract's 1024: each may have a header of
// its own in memory.
const (
	maxHeader        = 64 << 10  // bytes of a request's
	maxAnswerHeader  = 256 << 10 // of a response's
	maxStreams       = 128
	streamWindow     = 1 << 20 // bytes of HTTP/2 that may wait here, of a stream and of all of a connection
	connWindow       = 1 << 20
	handshakeTimeout = 30 * time.Second
	headerTimeout    = time.Minute
	idleTimeout      = 15 * time.Minute
)

// New makes a proxy. Close ends it.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg, log: cfg.Logger, ports: cfg.TLS.Ports()}
	p.secrets.Store(cfg.Secrets)
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if len(p.ports) > 0 {
		capacity, hours := sandbox.DefaultCertCache, sandbox.DefaultCertHours
		if c := cfg.TLS.Cache; c != nil {
			capacity, hours = max(c.Capacity, 0), max(c.ValidityHours, 0)
		}
		if capacity == 0 {
			capacity = sandbox.DefaultCertCache
		}
		if hours == 0 {
			hours = sandbox.DefaultCertHours
		}
		var err error
		if p.issuer, err = newIssuer(cfg.CACert, cfg.CAKey, capacity, time.Duration(hours)*time.Hour); err != nil {
			return nil, err
		}
		if p.upstream, err = newUpstream(cfg.TLS, cfg.Upstream, cfg.Roots); err != nil {
			return nil, err
		}
		for _, b := range cfg.TLS.Bypass {
			h, err := sandbox.ParseHostPattern(b)
			if err != nil {
				return nil, err
			}
			p.bypass = append(p.bypass, h)
		}
	}
	p.serveHTTP()
	return p, nil
}

func (p *Proxy) serveHTTP() {
	h2 := &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: connWindow, MaxReceiveBufferPerStream: streamWindow}
	transport := func(set func(*http.Protocols, bool)) *http.Transport {
		t := &http.Transport{
			DialContext: dialed, DialTLSContext: dialed, DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHeader,
			ExpectContinueTimeout: time.Second, HTTP2: h2, Protocols: new(http.Protocols),
			ReadBufferSize: 32 << 10, WriteBufferSize: 32 << 10,
		}
		set(t.Protocols, true)
		return t
	}
	// TLS, where there is any, has ended below them.
	p.http1, p.http2 = transport((*http.Protocols).SetHTTP1), transport((*http.Protocols).SetUnencryptedHTTP2)
	p.accept = &handover{conns: make(chan net.Conn), done: make(chan struct{})}
	p.server = &http.Server{
		Handler: http.HandlerFunc(serveRequest), MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		HTTP2: h2, Protocols: new(http.Protocols), DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, c.(*httpConn).s)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			c.(*httpConn).state(state)
		},
	}
	p.server.Protocols.SetHTTP1(true)
	p.server.Protocols.SetUnencryptedHTTP2(true)
	p.served.Go(func() { _ = p.server.Serve(p.accept) })
}

// Close ends all that was started. It is called when no connection is served any more.
func (p *Proxy) Close() error {
	err := p.server.Close()
	p.served.Wait()
	p.http1.CloseIdleConnections()
	p.http2.CloseIdleConnections()
	return err
}

// SetSecrets puts other secrets in the place of those that there are, for requests that begin from now on. It is for sandboxes
// whose TLS is looked into.
func (p *Proxy) SetSecrets(s *secret.Set) { p.secrets.Store(s) }

// portDoT is where DNS over TLS is served (RFC 7858).
const portDoT = 853

// Wants is described at netstack.Inspector.
func (p *Proxy) Wants(c *netstack.Conn) bool {
	port := c.To.Port()
	return slices.Contains(p.ports, port) || port == portDoT && len(p.ports) > 0 || !p.secrets.Load().Empty() || c.Strict || c.Policy().UsesNames()
}

// Serve is described at netstack.Inspector.
func (p *Proxy) Serve(ctx context.Context, c *netstack.Conn, guest netstack.GuestConn) {
	s := &session{Proxy: p, ctx: ctx, conn: c}
	if c.To.Port() == portDoT {
		s.dot(guest)
		return
	}
	s.serve(guest)
}

// handover is a listener of connections that were accepted elsewhere.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// dialed is how a transport gets the connection that it is to use: it is open already.
func dialed(ctx context.Context, _, _ string) (net.Conn, error) {
	if c, ok := ctx.Value(dialedKey{}).(net.Conn); ok {
		return c, nil
	}
	return nil, errors.New("no connection")
}

type (
	sessionKey struct{}
	dialedKey  struct{}
)
