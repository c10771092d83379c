package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestOpen(t *testing.T) {
	home := t.TempDir()
	var mu sync.Mutex
	var first []byte
	var all sync.WaitGroup
	for range 8 { // as many commands at once
		all.Go(func() {
			cert, key, err := Open(home)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := tls.X509KeyPair(cert, key); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = cert
			}
			if !bytes.Equal(first, cert) {
				t.Error("there are two authorities")
			}
		})
	}
	all.Wait()
	for name, mode := range map[string]os.FileMode{KeyFile: 0o600, CertFile: 0o644, ".": 0o700 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(home, "tls", name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(first) {
		t.Error("it is no certificate")
	}
}

func TestOpenMends(t *testing.T) {
	home := t.TempDir()
	cert, key, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(home, "tls", name) }
	for what, spoil := range map[string]func() error{
		"no key":         func() error { return os.Remove(at(KeyFile)) },
		"no certificate": func() error { return os.Remove(at(CertFile)) },
		"expired": func() error {
			c, k, err := generate(time.Now().Add(-validity - time.Hour))
			return errors.Join(err, os.WriteFile(at(CertFile), c, 0o644), os.WriteFile(at(KeyFile), k, 0o600))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		again, _, err := Open(home)
		if err != nil || bytes.Equal(again, cert) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, spoil := range map[string]func() error{
		"a key that others may read": func() error { return os.Chmod(at(KeyFile), 0o640) },
		"a key of another":           func() error { return errors.Join(os.Chmod(at(KeyFile), 0o600), os.WriteFile(at(KeyFile), key, 0o600)) },
		"nonsense":                   func() error { return os.WriteFile(at(CertFile), []byte("x"), 0o644) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(home); sandbox.KindOf(err) != sandbox.IO {
			t.Errorf("%s: %v", what, err)
		}
	}
}
