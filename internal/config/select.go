package config

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Environment variables that say where sandboxes live (contract msb-0.6 §1.5).
const (
	BackendVar = "MSB_BACKEND"
	KeyVar     = "MSB_API_KEY"
	URLVar     = "MSB_API_URL"
	ProfileVar = "MSB_PROFILE"
)

// DefaultURL is where the cloud is.
const DefaultURL = "https://api.microsandbox.dev"

// The kinds of backends.
const (
	Local = "local"
	Cloud = "cloud"
)

// Profile is a backend with a name. Of the key, KeyEnv or Key is set, or neither where it has none or it is in a key ring.
type Profile struct {
	Backend string // Local or Cloud
	URL     string
	KeyEnv  string // variable of the environment that holds the key
	Key     Secret
	keyring bool
}

// Secret is a string that is not printed.
type Secret string

// String hides it.
func (Secret) String() string { return "[secret]" }

// GoString hides it.
func (Secret) GoString() string { return "[secret]" }

// MarshalJSON hides it.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"[secret]"`), nil }

// Selection is where sandboxes live, and what said so. Its JSON is that of msb context (contract msb-0.6 §1.3).
type Selection struct {
	Kind    string `json:"kind"`              // Local or Cloud
	URL     string `json:"api_url,omitempty"` // of a cloud
	Source  string `json:"source"`            // MSB_BACKEND, MSB_PROFILE, active_profile or default
	Profile string `json:"profile,omitempty"`
	Key     Secret `json:"-"`
}

// Select climbs the ladder of contract msb-0.6 §1.5: MSB_BACKEND, then the profile that MSB_PROFILE or the file names, then
// this machine. A key or an address alone selects nothing. It never falls back from a cloud to this machine: what is missing is
// an InvalidConfig error.
func (f File) Select() (Selection, error) {
	backend, given := os.LookupEnv(BackendVar)
	cloud := strings.EqualFold(backend, Cloud)
	switch {
	case !given:
	case strings.EqualFold(backend, Local):
		return Selection{Kind: Local, Source: BackendVar}, nil
	case !cloud:
		return Selection{}, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s must be 'local' or 'cloud', got %q", BackendVar, backend)}
	case os.Getenv(KeyVar) != "":
		u, err := baseURL(os.Getenv(URLVar), DefaultURL)
		return Selection{Kind: Cloud, URL: u, Source: BackendVar, Key: Secret(os.Getenv(KeyVar))}, err
	}
	name, source := os.Getenv(ProfileVar), ProfileVar
	if name == "" {
		name, source = f.ActiveProfile, "active_profile"
	}
	if name == "" {
		if cloud {
			return Selection{}, cloudNeeds("")
		}
		return Selection{Kind: Local, Source: "default"}, nil
	}
	p, known := f.Profiles[name]
	switch {
	case !known:
		return Selection{}, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("there is no profile %.100q, which %s names", name, source),
			Hint: "write it into profiles of config.json, or name another"}
	case p.Backend == Local && cloud:
		return Selection{}, cloudNeeds(fmt.Sprintf("the profile %q, which %s names, is a local one", name, source))
	case p.Backend == Local:
		return Selection{Kind: Local, Source: source, Profile: name}, nil
	}
	key, err := p.key(name)
	if err != nil {
		return Selection{}, err
	}
	u, err := baseURL(os.Getenv(URLVar), p.URL, DefaultURL)
	return Selection{Kind: Cloud, URL: u, Source: source, Profile: name, Key: key}, err
}

func cloudNeeds(hint string) error {
	return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: BackendVar + "=cloud requires a non-empty " + KeyVar + " or a cloud profile", Hint: hint}
}

// key is the profile's key, wherever it is.
func (p Profile) key(name string) (Secret, error) {
	fail := func(format string, args ...any) (Secret, error) {
		return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("the key of the profile %.100q ", name) + fmt.Sprintf(format, args...)}
	}
	switch {
	case p.Key != "":
		return p.Key, nil
	case p.keyring:
		return fail("is in a key ring, which is not supported: use env:VARIABLE")
	case p.KeyEnv == "":
		return fail("is missing: say api_key_ref")
	case os.Getenv(p.KeyEnv) == "":
		return fail("is to be in %s, which is not set", p.KeyEnv)
	}
	return Secret(os.Getenv(p.KeyEnv)), nil
}

// baseURL is the first that is set, without the slash at its end.
func baseURL(all ...string) (string, error) {
	for _, s := range all {
		if s == "" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return "", &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "the cloud's address is no http or https URL with a host and a path alone"} // it may hold a secret
		}
		return strings.TrimRight(s, "/"), nil
	}
	return "", nil
}

func (f *File) profileSettings() setting {
	return each(func(d *document, m member, name string) error {
		var p Profile
		var ref string
		err := object(map[string]setting{"backend": word(&p.Backend, Local, Cloud), "url": text(&p.URL), "api_key_ref": text(&ref)})(d, m.value, name)
		switch kind, rest, _ := strings.Cut(ref, ":"); {
		case err != nil:
			return err
		case p.Backend == "":
			return d.fail(m.value.at, "%.100s has no backend", name)
		case ref == "":
		case kind == "env" && rest != "":
			p.KeyEnv = rest
		case kind == "inline" && rest != "":
			p.Key = Secret(rest)
		case kind == "keyring" && rest != "":
			p.keyring = true
		default:
			return d.fail(m.value.at, "%.100s.api_key_ref should be env:VARIABLE, inline:KEY or keyring:NAME", name)
		}
		f.Profiles[m.key] = p
		return nil
	})
}
