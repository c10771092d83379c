package sshserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func line(t testing.TB) []byte {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(key)
}

// Whoever makes the host key at the same time has the same one.
func TestHostKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssh", "host")
	const n = 8
	keys := make([]ssh.Signer, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if keys[i], err = HostKey(file); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !bytes.Equal(k.PublicKey().Marshal(), keys[0].PublicKey().Marshal()) {
			t.Error("two host keys")
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := HostKey(file); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("a file that is no key: %v", err)
	}
}

func TestAuthorize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ssh", "authorized_keys")
	one, two := line(t), line(t)
	restricted := append([]byte(`command="true" `), line(t)...)
	for _, c := range []struct {
		data       []byte
		all, added int
	}{{one, 1, 1}, {append(append([]byte("# comment\n\n"), one...), two...), 2, 1}, {two, 1, 0}} {
		all, added, err := Authorize(file, c.data)
		if all != c.all || added != c.added || err != nil {
			t.Errorf("%d keys, %d new, %v; want %d, %d", all, added, err, c.all, c.added)
		}
	}
	for _, bad := range [][]byte{nil, []byte("ssh-ed25519 nonsense"), restricted} {
		if _, _, err := Authorize(file, bad); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := os.WriteFile(file, append(restricted, one...), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := Authorized(file)(); len(keys) != 1 || err != nil {
		t.Errorf("%d keys beside one with options, %v", len(keys), err)
	}
	if keys, err := Authorized(filepath.Join(t.TempDir(), "none"))(); len(keys) != 0 || err != nil {
		t.Errorf("a file that is not there: %d, %v", len(keys), err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("#", maxKeys+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Authorized(file)(); !errors.Is(err, sandbox.IO) {
		t.Errorf("a file that is too large: %v", err)
	}
}

// What keys are made of is text that anybody wrote.
func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("# comment\n"))
	f.Add(append([]byte(`from="*" `), line(f)...))
	f.Add(line(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, k := range parseKeys(data) {
			if len(k.Marshal()) == 0 {
				t.Error("an empty key")
			}
		}
	})
}
