package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Auth is what a registry knows its user by.
type Auth struct {
	Username string
	Password Secret
}

// Secret is a string that is not printed.
type Secret string

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) LogValue() slog.Value         { return slog.StringValue("[secret]") }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"[secret]"`), nil }

// Login is a registry that `msb registry login` stored credentials for.
type Login struct {
	Host     string `json:"host"`
	Username string `json:"username"`
}

// loginFile is $MSB_HOME/registries.json, which only its owner may read. There is no key ring: a key ring needs a session
// that asks for its password, and the machines that this is for seldom have one.
type loginFile struct {
	Registries map[string]storedAuth `json:"registries"`
}

type storedAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Login asks the registry whether it knows a, and stores it for pulls to come. Of o only Insecure and CACerts count.
func (s *Store) Login(ctx context.Context, host string, a Auth, o PullOptions) error {
	host, err := registryHost(host)
	if err != nil {
		return err
	}
	o.Auth = &a
	c, err := s.newClient(ctx, Reference{Registry: host, Repository: "library/login", Tag: defaultTag}, host, o)
	if err == nil {
		err = c.check(ctx)
		c.close()
	}
	if err != nil {
		return loginError(host, err)
	}
	return s.changeLogins(func(f *loginFile) error {
		f.Registries[host] = storedAuth{a.Username, string(a.Password)}
		return nil
	})
}

// loginError tells the user why a registry did not let them in.
func loginError(host string, err error) error {
	e := &sandbox.Error{Op: "registry login", Kind: sandbox.ImagePullFailed, Message: "log in to " + host, Err: err}
	var answer *transport.Error
	if errors.As(err, &answer) {
		e.Err = short(answer)
		if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
			e.Hint = "check the user name and the password"
		}
	}
	return e
}

// Logout forgets what Login stored.
func (s *Store) Logout(host string) error {
	host, err := registryHost(host)
	if err != nil {
		return err
	}
	return s.changeLogins(func(f *loginFile) error {
		if _, ok := f.Registries[host]; !ok {
			return &sandbox.Error{Op: "registry logout", Kind: sandbox.InvalidArgument,
				Message: fmt.Sprintf("not logged in to %s", host), Hint: "see: msb registry list"}
		}
		delete(f.Registries, host)
		return nil
	})
}

// Logins returns what is stored, by host.
func (s *Store) Logins() ([]Login, error) {
	f, err := s.readLogins()
	if err != nil {
		return nil, err
	}
	logins := []Login{}
	for host, a := range f.Registries {
		logins = append(logins, Login{host, a.Username})
	}
	slices.SortFunc(logins, func(a, b Login) int { return cmp.Compare(a.Host, b.Host) })
	return logins, nil
}

// registryHost reads the name of a registry as a user writes it.
func registryHost(s string) (string, error) {
	h := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(s), "https://"), "http://"), "/")
	h = strings.TrimSuffix(strings.TrimSuffix(h, "/v1"), "/v2")
	switch h {
	case "index.docker.io", "registry-1.docker.io", "hub.docker.com":
		h = dockerHub
	}
	if !isRegistry(h) || !registryPattern().MatchString(h) || !portIsRight(h) {
		return "", &sandbox.Error{Op: "parse registry", Kind: sandbox.InvalidArgument,
			Message: fmt.Sprintf("%.100q is not a registry", s), Hint: "write host or host:port, for example ghcr.io"}
	}
	return h, nil
}

func (s *Store) loginPath() string { return filepath.Join(s.home, "registries.json") }

func (s *Store) readLogins() (loginFile, error) {
	f := loginFile{Registries: map[string]storedAuth{}}
	b, err := os.ReadFile(s.loginPath())
	if isMissing(err) {
		return f, nil
	}
	if err != nil {
		return f, s.wrap("read stored registry logins", err)
	}
	if err := json.Unmarshal(b, &f); err != nil || f.Registries == nil {
		return f, &sandbox.Error{Op: "read stored registry logins", Kind: sandbox.InvalidConfig,
			Message: s.loginPath() + " is damaged", Hint: "remove it and log in again", Err: err}
	}
	return f, nil
}

// changeLogins changes the file under a lock, so that of two changes at once none is lost.
func (s *Store) changeLogins(change func(*loginFile) error) error {
	const op = "store the registry login"
	if err := s.prepare(); err != nil {
		return err
	}
	lock, err := os.Open(s.dir)
	if err != nil {
		return s.wrap(op, err)
	}
	defer lock.Close()
	if err := flock(lock, syscall.LOCK_EX); err != nil {
		return s.wrap(op, err)
	}
	f, err := s.readLogins()
	if err != nil {
		return err
	}
	if err := change(&f); err != nil {
		return err
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return err
	}
	return s.wrap(op, atomicfile.WriteSync(s.loginPath(), append(b, '\n'), 0o600))
}

// credentials returns what to show the registry, and where it is from (contract msb-0.6 §1.6): what the caller gave, what
// `registry login` stored, what is configured, what Docker stored, nothing.
func (s *Store) credentials(ctx context.Context, host string, reg name.Registry, given *Auth) (authn.Authenticator, string, error) {
	if given != nil {
		return given.authenticator(), "given", nil
	}
	f, err := s.readLogins()
	if err != nil {
		return nil, "", err
	}
	if a, ok := f.Registries[host]; ok {
		return (&Auth{a.Username, Secret(a.Password)}).authenticator(), "msb registry login", nil
	}
	if a := s.cfg.Registries[host].Auth; a != nil {
		return a.authenticator(), "config.json", nil
	}
	// Docker's file may name a helper that is not there, or one that asks somebody. An image for everybody needs neither.
	docker, err := authn.Resolve(ctx, authn.DefaultKeychain, reg)
	if err != nil || docker == authn.Anonymous {
		return authn.Anonymous, "", nil
	}
	return docker, "docker login", nil
}

func (a *Auth) authenticator() authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{Username: a.Username, Password: string(a.Password)})
}
