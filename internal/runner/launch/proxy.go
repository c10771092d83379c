package launch

import "github.com/microsandbox-go/microsandbox/sandbox"

// Proxy is what the look into connections needs of this machine's files and environment. It holds secrets: like all of a
// Config it travels on a file descriptor, and is in no record.
type Proxy struct {
	CACert, CAKey []byte      // the authority that the guest trusts, in PEM; none: no TLS is looked into
	Upstream      []Authority // that servers are verified with, beside this machine's
	HostCAs       []byte      // what this machine trusts, in PEM, where the guest is to trust it, too
	Secrets       []string    // values, in the order of the spec
	Password      string      // of the outbound proxy
}

// Authority is certificates, in PEM, that are trusted in servers that match Pattern; "" is all.
type Authority struct {
	Pattern string
	PEM     []byte
}

// String keeps what is in it out of messages.
func (Proxy) String() string { return "[secret]" }

// GoString is for %#v.
func (Proxy) GoString() string { return "[secret]" }

// Secrets are what a sandbox is to have in the place of its secrets.
type Secrets struct {
	Spec   *sandbox.Secrets  `json:"spec"`
	Values map[string]string `json:"values"` // by EnvVar; the others keep theirs
}

// String keeps what is in it out of messages.
func (Secrets) String() string { return "[secret]" }

// GoString is for %#v.
func (Secrets) GoString() string { return "[secret]" }
