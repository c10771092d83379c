package testimage

import (
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Options say what a registry asks for. The zero value asks for nothing.
type Options struct {
	Username, Password string
	Bearer             bool // the password is changed for a token first, as most registries want it
	TLS                bool
	Wrap               func(http.Handler) http.Handler // sees every request, to count or to break it
}

// Registry is a registry on loopback, which ends with the test.
type Registry struct {
	Host   string // host:port
	CAFile string // with TLS: the certificate to trust

	auth      authn.Authenticator
	transport http.RoundTripper
	close     func()
}

// Close ends the registry before the test does.
func (r *Registry) Close() { r.close() }

// Serve starts a registry in this process.
func Serve(t testing.TB, o Options) *Registry {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if o.Username != "" {
		h = guard(h, o)
	}
	if o.Wrap != nil {
		h = o.Wrap(h)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	r := &Registry{auth: authn.Anonymous, transport: http.DefaultTransport}
	if o.TLS {
		srv.StartTLS()
		r.CAFile = filepath.Join(t.TempDir(), "ca.pem")
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
		if err := os.WriteFile(r.CAFile, block, 0o644); err != nil {
			t.Fatal(err)
		}
		r.transport = srv.Client().Transport
	} else {
		srv.Start()
	}
	r.close = sync.OnceFunc(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	t.Cleanup(r.close)
	r.Host = srv.Listener.Addr().String()
	if o.Username != "" {
		r.auth = &authn.Basic{Username: o.Username, Password: o.Password}
	}
	return r
}

// guard asks for the password, or for a token that is given for it.
func guard(next http.Handler, o Options) http.Handler {
	token := rand.Text()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		known := user == o.Username && password == o.Password
		switch {
		case r.URL.Path == "/token" && o.Bearer && known:
			fmt.Fprintf(w, `{"token": %q}`, token)
			return
		case !o.Bearer && known, o.Bearer && r.Header.Get("Authorization") == "Bearer "+token:
			next.ServeHTTP(w, r)
			return
		}
		challenge := `Basic realm="test"`
		if scheme := "http"; o.Bearer {
			if r.TLS != nil {
				scheme = "https"
			}
			challenge = fmt.Sprintf(`Bearer realm="%s://%s/token",service="test"`, scheme, r.Host)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	})
}

// Push stores an image, or with an index those of several platforms, and returns the whole reference.
func (r *Registry) Push(t testing.TB, ref string, what any) string {
	t.Helper()
	full, err := name.ParseReference(r.Host+"/"+ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	opts := []remote.Option{remote.WithAuth(r.auth), remote.WithTransport(r.transport)}
	switch v := what.(type) {
	case v1.Image:
		err = remote.Write(full, v, opts...)
	case v1.ImageIndex:
		err = remote.WriteIndex(full, v, opts...)
	default:
		err = fmt.Errorf("cannot push a %T", what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Host + "/" + ref
}

// ServeDebian starts Debian's docker-registry as a process, which ends with the test. The package need not be installed.
func ServeDebian(t testing.TB) *Registry {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		debs := packages(t, "docker-registry", func() ([]string, error) { return []string{"docker-registry"}, nil })
		dir := cached(t, "docker-registry", func(dir string) error {
			_, err := run(dir, "dpkg-deb", "-x", debs[0], dir)
			return err
		})
		bin = filepath.Join(dir, "usr", "bin", "docker-registry")
	}
	addr := freeAddr(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", config)
	// It takes REGISTRY_… from its environment for configuration.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "REGISTRY_") })
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skip("docker-registry does not start: ", err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	end := func() { _ = cmd.Process.Kill(); <-done }
	t.Cleanup(end)
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return &Registry{Host: addr, auth: authn.Anonymous, transport: http.DefaultTransport, close: end}
		}
		select {
		case <-done:
			t.Fatalf("docker-registry ended: %s", out.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatal("docker-registry does not answer")
	return nil
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
