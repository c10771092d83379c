package sshserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Files in the ssh directory of MSB_HOME.
const (
	hostKeyFile    = "host_ed25519"
	authorizedFile = "authorized_keys"
)

// maxKeys bounds a file of keys, in bytes.
const maxKeys = 1 << 20

// HostKey reads the private key of a file, and makes one if there is none. Kinds: InvalidConfig, IO.
func HostKey(file string) (ssh.Signer, error) {
	for {
		data, err := readKeys(file)
		switch {
		case err == nil:
			signer, err := ssh.ParsePrivateKey(data)
			if err != nil {
				return nil, &sandbox.Error{Op: "ssh", Kind: sandbox.InvalidConfig, Message: "read the host key " + file, Err: err}
			}
			return signer, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, keyError("read the host key", err)
		}
		if err := makeHostKey(file); err != nil && !errors.Is(err, fs.ErrExist) { // somebody else was quicker
			return nil, keyError("make a host key", err)
		}
	}
}

// NewKey makes a key that is kept nowhere.
func NewKey() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}

// makeHostKey makes a key that is there whole or not at all.
func makeHostKey(file string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(key, "microsandbox")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".host_key-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}

// Authorized returns a function that reads the public keys of a file, each time anew. A file that is not there has none.
func Authorized(file string) func() ([]ssh.PublicKey, error) {
	return func() ([]ssh.PublicKey, error) {
		data, err := readKeys(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, keyError("read the authorized keys", err)
		}
		return parseKeys(data), nil
	}
}

// parseKeys reads what it can of lines with keys. Lines with options are left out: they would be let in without them.
func parseKeys(data []byte) []ssh.PublicKey {
	var keys []ssh.PublicKey
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		if err == nil && len(options) == 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// Authorize adds the keys in data, one per line, to a file, those that it has not. It returns how many there were and how
// many are new. Kinds: InvalidArgument, when there is none, IO.
func Authorize(file string, data []byte) (all, added int, err error) {
	given := parseKeys(data)
	if len(given) == 0 {
		return 0, 0, &sandbox.Error{Op: "ssh", Kind: sandbox.InvalidArgument, Message: "there is no public key in it", Hint: "it is a line such as: ssh-ed25519 AAAA… name"}
	}
	have, err := Authorized(file)()
	if err != nil {
		return 0, 0, err
	}
	var lines bytes.Buffer
	for _, key := range given {
		known := false
		for _, k := range have {
			known = known || bytes.Equal(k.Marshal(), key.Marshal())
		}
		if !known {
			lines.Write(ssh.MarshalAuthorizedKey(key))
			have = append(have, key)
			added++
		}
	}
	if added == 0 {
		return len(given), 0, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return 0, 0, keyError("write the authorized keys", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = f.Write(lines.Bytes())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return 0, 0, keyError("write the authorized keys", err)
	}
	return len(given), added, nil
}

func readKeys(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeys+1))
	if err == nil && len(data) > maxKeys {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxKeys)
	}
	return data, err
}

func keyError(message string, err error) error {
	return &sandbox.Error{Op: "ssh", Kind: sandbox.IO, Message: message, Err: err}
}

// AuthorizedPath is where the keys are that are let in by default, below MSB_HOME.
func AuthorizedPath(home string) string { return filepath.Join(home, "ssh", authorizedFile) }

// Open reads the server's keys, and makes the host's where there is none yet. "" is the file below MSB_HOME that all servers share.
func (s *Server) Open(home, hostKey, authorized string) (err error) {
	if hostKey == "" {
		hostKey = filepath.Join(home, "ssh", hostKeyFile)
	}
	if authorized == "" {
		authorized = AuthorizedPath(home)
	}
	s.Authorized = Authorized(authorized)
	s.HostKey, err = HostKey(hostKey)
	return err
}
