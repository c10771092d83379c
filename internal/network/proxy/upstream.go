package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Authority is certificates, in PEM, that are trusted in servers that match Pattern; the zero pattern is every server.
type Authority struct {
	Pattern sandbox.HostPattern
	PEM     []byte
}

// upstream says how the certificates of servers are verified.
type upstream struct {
	system  func() *x509.CertPool
	extra   []Authority
	verify  bool
	scopes  []scope
	mu      sync.Mutex
	byScope map[string]*x509.CertPool // by which of extra are in it
}

type scope struct {
	pattern sandbox.HostPattern
	verify  bool
}

func newUpstream(t *sandbox.TLS, extra []Authority, roots *x509.CertPool) (*upstream, error) {
	u := &upstream{extra: extra, verify: t.VerifyUpstream == nil || *t.VerifyUpstream, byScope: map[string]*x509.CertPool{}}
	for _, s := range t.ScopedVerifyUpstream {
		p, err := sandbox.ParseHostPattern(s.Pattern)
		if err != nil {
			return nil, err
		}
		u.scopes = append(u.scopes, scope{p, s.Verify})
	}
	for _, a := range extra {
		if !x509.NewCertPool().AppendCertsFromPEM(a.PEM) {
			return nil, fmt.Errorf("an upstream authority's file has no certificate in it")
		}
	}
	u.system = sync.OnceValue(func() *x509.CertPool {
		if roots != nil {
			return roots
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		return pool
	})
	return u, nil
}

// config is for a connection to the server called name, a name or an address. verified reports whether the server has to
// prove to be that.
func (u *upstream) config(name string, alpn []string) (c *tls.Config, verified bool) {
	verified = u.verify
	for _, s := range u.scopes {
		if s.pattern.Matches(name) {
			verified = s.verify
			break
		}
	}
	return &tls.Config{ServerName: name, NextProtos: alpn, RootCAs: u.pool(name), InsecureSkipVerify: !verified}, verified
}

func (u *upstream) pool(name string) *x509.CertPool {
	key := make([]byte, len(u.extra))
	none := true
	for i, a := range u.extra {
		if a.Pattern == (sandbox.HostPattern{}) || a.Pattern.Matches(name) {
			key[i], none = 1, false
		}
	}
	if none {
		return u.system()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	pool := u.byScope[string(key)]
	if pool == nil {
		pool = u.system().Clone()
		for i, in := range key {
			if in == 1 {
				pool.AppendCertsFromPEM(u.extra[i].PEM)
			}
		}
		if len(u.byScope) < maxPools {
			u.byScope[string(key)] = pool
		}
	}
	return pool
}

// maxPools bounds the combinations of scoped authorities that are remembered: the guest chooses names.
const maxPools = 64
