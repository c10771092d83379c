package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// session is one connection of the guest's.
type session struct {
	*Proxy
	ctx  context.Context
	conn *netstack.Conn

	tls      bool   // it is looked into
	name     string // of the server, as the TLS hello says it; "" if it does not or there was none
	verified bool   // the server proved to be that

	host   net.Conn // the server's side, decrypted
	guest  *httpConn
	client *http.ClientConn
	scheme string
	h2     bool // the connection is one of HTTP/2
	warned sync.Once
}

// serve looks at the first flight and does what is to be done with the connection.
func (s *session) serve(guest netstack.GuestConn) {
	f := sniff(guest, s.conn.Host)
	switch {
	case f.err != nil:
		s.conn.Abort()
	case f.kind == speaksTLS:
		s.serveTLS(guest, f)
	case f.kind == speaksHTTP && (s.conn.Strict || !s.secrets.Load().Empty() || s.conn.Policy().UsesNames()):
		s.host, s.scheme = s.conn.Host, "http"
		s.serveRequests(replayed(guest, f.head), f.head)
	default:
		s.serveOpaque(guest, f)
	}
}

// serveOpaque lets pass what shows no name, unless a name is what it is allowed by and must be shown.
func (s *session) serveOpaque(guest netstack.GuestConn, f flight) {
	if s.conn.Strict {
		if v := s.conn.Policy().CheckAuthority(policy.TCP, s.conn.To, "", false); !v.Allowed {
			v.Reason += ", and strict: this connection does not show a name"
			s.conn.Deny("", v)
			return
		}
	}
	plan := s.secrets.Load().For(secret.Target{})
	if f.kind == opaque && plan.Watches() {
		s.pipe(replayed(guest, f.head), s.conn.Host, nil, plan)
		return
	}
	s.conn.Splice(f.head)
}

// pinned reports whether this sandbox saw the name resolved to the address that it is connected to.
func (s *session) pinned(name string) bool {
	return slices.Contains(s.conn.Names, name) || name == dns.HostName && s.conn.Policy().Class(s.conn.To.Addr()) == policy.Host
}

// authority is the policy's verdict on a connection or a request to the host of that name; "" names nothing.
func (s *session) authority(name string) policy.Verdict {
	return s.conn.Policy().CheckAuthority(policy.TCP, s.conn.To, name, name != "" && s.pinned(name))
}

// serveTLS holds a TLS connection to its name, and looks into it or lets it pass.
func (s *session) serveTLS(guest netstack.GuestConn, f flight) {
	s.name = f.hello.name
	s.conn.SetName(s.name)
	v := s.authority(s.name)
	if !v.Allowed {
		s.conn.Deny(s.name, v)
		return
	}
	intercept := slices.Contains(s.ports, s.conn.To.Port())
	if intercept && s.name != "" && s.pinned(s.name) && slices.ContainsFunc(s.bypass, func(h sandbox.HostPattern) bool { return h.Matches(s.name) }) {
		intercept = false
	}
	if !intercept {
		if s.conn.Strict && v.ByName {
			v.Allowed, v.Reason = false, v.Reason+", but strict: this connection is not looked into"
			s.conn.Deny(s.name, v)
			return
		}
		s.conn.Splice(f.head)
		return
	}
	s.tls = true
	inner, server, err := s.handshakes(replayed(guest, f.head), f.hello.alpn)
	if err != nil {
		s.log.Info("TLS", "to", s.called(), "err", err)
		return
	}
	// What is inside is to be ended as TLS is ended; the gateway closes what is below.
	defer server.Close()
	defer inner.Close()
	s.host, s.scheme = server, "https"
	switch server.ConnectionState().NegotiatedProtocol {
	case "h2":
		s.serveRequests(inner, h2Preface)
	case "", "http/1.1", "http/1.0":
		f := sniff(inner, server)
		guest := replayed(inner, f.head)
		if f.kind == speaksHTTP && f.err == nil {
			s.serveRequests(guest, f.head)
			return
		}
		s.serveInner(guest, f)
	default:
		s.serveInner(inner, flight{kind: opaque})
	}
}

// serveInner passes on what is in TLS and is not HTTP.
func (s *session) serveInner(guest net.Conn, f flight) {
	if v := s.authority(s.name); s.conn.Strict && v.ByName {
		v.Allowed, v.Reason = false, v.Reason+", but strict: what is in this connection shows no name"
		s.conn.Deny(s.name, v)
		return
	}
	s.pipe(guest, s.host, f.early, s.secrets.Load().For(secret.Target{Host: s.name, Pinned: s.name != "" && s.pinned(s.name), Verified: s.verified}))
}

// called is what the server is called in certificates: its name, or its address where it has none.
func (s *session) called() string {
	if s.name != "" {
		return s.name
	}
	return s.conn.To.Addr().String()
}

// handshakes ends the guest's TLS, after TLS to the server was begun: it is the server that chooses the protocol. With an error the
// guest's side has been ended, too.
func (s *session) handshakes(guest net.Conn, alpn []string) (inner, server *tls.Conn, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	cfg, verified := s.upstream.config(s.called(), alpn)
	server = tls.Client(s.conn.Host, cfg)
	if err := server.HandshakeContext(ctx); err != nil {
		if cause := certificateError(err); cause != "" {
			s.conn.Note(fmt.Sprintf("the certificate of %s is not trusted: %s", s.called(), cause))
		}
		refuse(guest, err)
		return nil, nil, fmt.Errorf("the server's side: %w", err)
	}
	s.verified = verified
	cert, err := s.issuer.certificate(s.called())
	if err != nil {
		s.conn.Abort()
		return nil, nil, err
	}
	mine := &tls.Config{Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true}
	if p := server.ConnectionState().NegotiatedProtocol; p != "" {
		mine.NextProtos = []string{p}
	}
	inner = tls.Server(guest, mine)
	if err := inner.HandshakeContext(ctx); err != nil {
		s.warned.Do(func() {
			s.conn.Note(fmt.Sprintf("the guest did not accept the certificate made for %s: its program may not trust the sandbox's authority", s.called()))
		})
		s.conn.Abort()
		return nil, nil, fmt.Errorf("the guest's side: %w", err)
	}
	return inner, server, nil
}

// Alerts of TLS (RFC 8446, section 6.2).
const (
	alertHandshakeFailure   = 40
	alertBadCertificate     = 42
	alertCertificateExpired = 45
	alertUnknownCA          = 48
)

// refuse answers the guest's hello with the alert that its program would have sent to the server, so that it fails at once and says why.
func refuse(guest net.Conn, err error) {
	alert := byte(alertHandshakeFailure)
	var bad *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		alert = alertUnknownCA
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		alert = alertCertificateExpired
	case errors.As(err, &bad):
		alert = alertBadCertificate
	}
	const record, fatal = 21, 2
	_, _ = guest.Write([]byte{record, 3, 3, 0, 2, fatal, alert})
	_ = closeWrite(guest)
}

// certificateError says what was wrong with a server's certificate, or "".
func certificateError(err error) string {
	var c *tls.CertificateVerificationError
	if errors.As(err, &c) {
		return c.Err.Error()
	}
	return ""
}

// dot answers DNS over TLS itself: names are resolved by the resolver behind the gateway, whomever the guest asks.
func (s *session) dot(guest netstack.GuestConn) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	inner := tls.Server(guest, &tls.Config{SessionTicketsDisabled: true, NextProtos: []string{"dot"},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if name := canonical(h.ServerName); isName(name) {
				s.name = name
			}
			cert, err := s.issuer.certificate(s.called())
			if err != nil {
				return nil, err
			}
			c := &tls.Config{Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true}
			if slices.Contains(h.SupportedProtos, "dot") {
				c.NextProtos = []string{"dot"}
			}
			return c, nil
		}})
	if err := inner.HandshakeContext(ctx); err != nil {
		s.log.Info("DNS over TLS", "to", s.called(), "err", err)
		s.conn.Abort()
		return
	}
	s.conn.ServeDNS(s.ctx, inner)
	_ = inner.Close()
}

// violated does what is to be done about a violation, and reports whether err was one.
func (s *session) violated(err error) bool {
	var v *secret.Violation
	if !errors.As(err, &v) {
		return false
	}
	if v.Action != sandbox.ViolationBlock {
		s.conn.Refuse(v.Host, policy.Verdict{Rule: policy.BuiltIn, Reason: v.Error()})
	}
	if v.Action == sandbox.ViolationBlockAndStop && s.cfg.Terminate != nil {
		s.cfg.Terminate(v.Error())
	}
	return true
}
