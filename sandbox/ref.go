// Package sandbox holds the words that every part of microsandbox shares: what a sandbox is asked to be ([Spec]), what
// it is called ([Ref]), where it is in its life ([Status]) and what can go wrong ([Error]). It validates and does no I/O;
// the JSON of its types is the wire form (contract msb-0.6 §2.12).
package sandbox

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// DefaultNamespace is the tenant of the CLI and of SDK programs that name none.
const DefaultNamespace = "default"

// MaxNameLen is the longest name, in bytes (contract msb-0.6 §1.1).
const MaxNameLen = 128

// Name is a sandbox's name within its namespace: [A-Za-z0-9][A-Za-z0-9._-]*, 1 to 128 bytes.
type Name string

// Ref names a sandbox everywhere. The namespace is the tenant.
type Ref struct {
	Namespace string `json:"namespace"`
	Name      Name   `json:"name"`
}

// DefaultRef returns the Ref of name in the default namespace.
func DefaultRef(name string) Ref { return Ref{Namespace: DefaultNamespace, Name: Name(name)} }

// String is the bare name in the default namespace, else namespace/name.
func (r Ref) String() string {
	if r.Namespace == "" || r.Namespace == DefaultNamespace {
		return string(r.Name)
	}
	return r.Namespace + "/" + string(r.Name)
}

// Validate reports the first thing wrong with r as an InvalidConfig error.
func (r Ref) Validate() error {
	if err := validateWord("namespace", r.Namespace); err != nil {
		return err
	}
	return validateWord("sandbox name", string(r.Name))
}

// Validate reports the first thing wrong with n as an InvalidConfig error.
func (n Name) Validate() error { return validateWord("sandbox name", string(n)) }

func validateWord(what, s string) error {
	bad := func(why string) error {
		return &Error{Kind: InvalidConfig, Message: fmt.Sprintf("%s %q %s", what, s[:min(len(s), MaxNameLen)], why),
			Hint: "use letters, digits, '.', '_' and '-', starting with a letter or a digit"}
	}
	switch {
	case s == "":
		return bad("is empty")
	case len(s) > MaxNameLen:
		return bad(fmt.Sprintf("is longer than %d bytes", MaxNameLen))
	case !isAlnum(s[0]):
		return bad("must start with a letter or a digit")
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c != '.' && c != '_' && c != '-' {
			return bad(fmt.Sprintf("has the character %q", c))
		}
	}
	return nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// GenerateName returns a fresh name: "msb-" and 8 hex digits (contract msb-0.6 §1.1).
func GenerateName() Name {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return Name("msb-" + hex.EncodeToString(b[:]))
}

// ShortID returns the 24 hex digits that name a sandbox's directory under run/, short enough that socket paths stay
// under 108 bytes for names of 128.
func (r Ref) ShortID() string {
	h := sha256.Sum256([]byte(r.Namespace + "/" + string(r.Name)))
	return hex.EncodeToString(h[:12])
}

// Hostname returns the guest hostname of a sandbox that asked for none: its name, or for names longer than 64 bytes a
// prefix of 55 bytes, "-" and 8 hex digits of the name's SHA-256 (contract msb-0.6 §2.1).
func (n Name) Hostname() string {
	if len(n) <= 64 {
		return string(n)
	}
	h := sha256.Sum256([]byte(n))
	return string(n[:55]) + "-" + hex.EncodeToString(h[:4])
}
