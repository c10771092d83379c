package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestServerTLS has a server with a certificate, which plain HTTP is no use to.
func TestServerTLS(t *testing.T) {
	served(t, func(w *world) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		w.must(err)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		w.must(err)
		secret, err := x509.MarshalECPrivateKey(key)
		w.must(err)
		cert, private := filepath.Join(w.top, "cert.pem"), filepath.Join(w.top, "key.pem")
		w.write(cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
		w.write(private, string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})), 0o600)
		s := &service{w: w}
		w.t.Cleanup(func() { w.run("server", "stop") })
		s.start("--dev", "--tls-cert", cert, "--tls-key", private)
		if !strings.HasPrefix(s.url, "https://127.0.0.1:") {
			t.Fatalf("it is at %s", s.url)
		}
		parsed, err := x509.ParseCertificate(der)
		w.must(err)
		pool := x509.NewCertPool()
		pool.AddCert(parsed)
		get := func(roots *x509.CertPool, url string, most uint16) (string, error) {
			c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MaxVersion: most}}}
			resp, err := c.Get(url + "/api/v1/health")
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return string(body), err
		}
		if body, err := get(pool, s.url, 0); err != nil || body != `{"message":"Service is healthy"}` {
			t.Errorf("health: %q, %v", body, err)
		}
		if body, err := get(nil, s.url, 0); err == nil {
			t.Errorf("with a certificate that nobody knows: %q", body)
		}
		if body, err := get(pool, s.url, tls.VersionTLS11); err == nil {
			t.Errorf("with TLS 1.1: %q", body)
		}
		if body, err := get(pool, strings.Replace(s.url, "https", "http", 1), 0); err == nil && strings.Contains(body, "healthy") {
			t.Errorf("without TLS: %q", body)
		}
		w.ok2("server", "stop")
		w.write(private, "nothing", 0o600)
		if line := w.errorLine(w.run("server", "start", "--dev", "--detach", "--port", "0", "--tls-cert", cert, "--tls-key", private)); !strings.Contains(line, "read the certificate") {
			t.Errorf("with a key that is none: %q", line)
		}
	})
}
