package proxy

import (
	"container/list"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// issuer makes certificates for hosts, under an authority that the guest trusts. All of them are for one key, which is made
// anew in every run.
type issuer struct {
	chain    [][]byte
	ca       *x509.Certificate
	caKey    crypto.Signer
	key      *ecdsa.PrivateKey
	capacity int
	validity time.Duration

	mu     sync.Mutex
	byName map[string]*list.Element // of issued
	recent *list.List               // the least recently used last
}

type issued struct {
	name string
	cert *tls.Certificate
}

// newIssuer takes the authority's certificate and key in PEM.
func newIssuer(certPEM, keyPEM []byte, capacity int, validity time.Duration) (*issuer, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("certificate authority: the certificate is not one of an authority")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &issuer{chain: pair.Certificate, ca: pair.Leaf, caKey: signer, key: key, capacity: capacity, validity: validity,
		byName: map[string]*list.Element{}, recent: list.New()}, nil
}

// certificate returns one for a name or an address.
func (i *issuer) certificate(name string) (*tls.Certificate, error) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	if e := i.byName[name]; e != nil {
		c := e.Value.(issued).cert
		if now.Before(c.Leaf.NotAfter.Add(-i.validity / 4)) {
			i.recent.MoveToFront(e)
			return c, nil
		}
		i.drop(e)
	}
	c, err := i.make(name, now)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	if i.recent.Len() >= i.capacity {
		i.drop(i.recent.Back())
	}
	i.byName[name] = i.recent.PushFront(issued{name, c})
	return c, nil
}

func (i *issuer) drop(e *list.Element) {
	delete(i.byName, e.Value.(issued).name)
	i.recent.Remove(e)
}

// backdate is how far the guest's clock may be behind.
const backdate = time.Hour

func (i *issuer) make(name string, now time.Time) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	until := now.Add(i.validity)
	if until.After(i.ca.NotAfter) {
		until = i.ca.NotAfter
	}
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(name) <= 64 { // the limit of a common name (RFC 5280, appendix A)
		t.Subject = pkix.Name{CommonName: name}
	}
	if ip := net.ParseIP(name); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, i.ca, &i.key.PublicKey, i.caKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, i.chain...), PrivateKey: i.key, Leaf: leaf}, nil
}
