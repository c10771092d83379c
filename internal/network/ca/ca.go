// Package ca keeps this installation's certificate authority, under which the runner makes certificates for the hosts that a
// sandbox speaks to, where its TLS is looked into. The key is in MSB_HOME/tls/ca.key, for its owner only; sandboxes get the
// certificate.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The files below MSB_HOME/tls (contract msb-0.6 §5.2).
const (
	CertFile = "ca.crt" // 0644
	KeyFile  = "ca.key" // 0600

	validity = 10 * 365 * 24 * time.Hour
	backdate = 24 * time.Hour
	maxPEM   = 1 << 20
)

// Open returns the authority of an installation, in PEM, and makes it if there is none. Any number of processes may do so
// at once. An authority that has expired is made anew.
func Open(home string) (cert, key []byte, err error) {
	dir := filepath.Join(home, "tls")
	fail := func(err error) ([]byte, []byte, error) {
		return nil, nil, &sandbox.Error{Kind: sandbox.IO, Message: "open this installation's certificate authority in " + dir, Err: err}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	certPath, keyPath := filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile)
	cert, key, err = Read(certPath, keyPath)
	switch {
	case err == nil:
		return cert, key, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errExpired):
		return fail(err)
	}
	if cert, key, err = generate(time.Now()); err != nil {
		return fail(err)
	}
	// At no time there are two that do not belong together.
	if err := os.Remove(certPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if err := errors.Join(atomicfile.Write(keyPath, key, 0o600), atomicfile.Write(certPath, cert, 0o644)); err != nil {
		return fail(err)
	}
	return cert, key, nil
}

var errExpired = errors.New("the authority has expired")

// Read reads an authority that is somewhere else, and checks that it is one. A key that others may read is refused.
func Read(certPath, keyPath string) (cert, key []byte, err error) {
	if key, err = readKey(keyPath); err != nil {
		return nil, nil, err
	}
	if cert, err = ReadPEM(certPath); err != nil {
		return nil, nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s and %s: %w", certPath, keyPath, err)
	case !pair.Leaf.IsCA:
		return nil, nil, fmt.Errorf("%s is not the certificate of an authority", certPath)
	case time.Now().After(pair.Leaf.NotAfter):
		return nil, nil, fmt.Errorf("%s: %w", certPath, errExpired)
	}
	return cert, key, nil
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others than its owner: chmod 600 %s", path, path)
	}
	return readBounded(path)
}

// ReadPEM reads a file with certificates.
func ReadPEM(path string) ([]byte, error) {
	b, err := readBounded(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(b) {
		err = fmt.Errorf("%s has no certificate in it", path)
	}
	return b, err
}

func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(b) > maxPEM {
		err = fmt.Errorf("%s is larger than %d KiB", path, maxPEM>>10)
	}
	return b, err
}

// bundles are where systems keep the certificates that they trust.
var bundles = [...]string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// HostBundle returns the certificates, in PEM, that this machine trusts.
func HostBundle() ([]byte, error) {
	for _, path := range bundles {
		b, err := ReadPEM(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	return nil, errors.New("this machine has no bundle of certificates at any usual place")
}

func generate(now time.Time) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "microsandbox CA", Organization: []string{"microsandbox"}},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(validity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	if err != nil {
		return nil, nil, err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), nil
}
