package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// noDocker gives the test a Docker configuration of its own, and returns where it is.
func noDocker(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "none"))
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}

func TestCredentials(t *testing.T) {
	docker := noDocker(t)
	for _, o := range []testimage.Options{
		{Username: "me", Password: "secret-word"}, {Username: "me", Password: "secret-word", Bearer: true},
		{Username: "me", Password: "secret-word", Bearer: true, TLS: true},
	} {
		reg := testimage.Serve(t, o)
		ref := reg.Push(t, "private/x", layered(t, 1))
		var cas []string
		if o.TLS {
			cas = []string{reg.CAFile}
		}
		right, wrong := &Auth{"me", "secret-word"}, &Auth{"me", "other-word"}
		pull := func(cfg Options, o PullOptions) (*Store, error) {
			cfg.Backoff, cfg.CACerts = quick().Backoff, cas
			s := Open(t.TempDir(), cfg)
			_, err := s.Pull(context.Background(), ref, o)
			return s, err
		}
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(sandbox.HintOf(err), "msb registry login "+reg.Host) {
				t.Errorf("%+v: %s: %v, hint %q", o, what, err, sandbox.HintOf(err))
			}
			if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), "-word") {
				t.Errorf("the password is in the error: %v", err)
			}
		}
		accepted := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%+v: %s: %v", o, what, err)
			}
		}
		_, err := pull(Options{}, PullOptions{})
		refused("anonymous", err)
		_, err = pull(Options{}, PullOptions{Auth: wrong})
		refused("wrong", err)
		_, err = pull(Options{}, PullOptions{Auth: right})
		accepted("explicit", err)
		config := func(a *Auth) Options { return Options{Registries: map[string]Registry{reg.Host: {Auth: a}}} }
		_, err = pull(config(right), PullOptions{})
		accepted("configured", err)
		_, err = pull(config(right), PullOptions{Auth: wrong})
		refused("explicit before configured", err)

		// Stored ones come before configured ones.
		s := Open(t.TempDir(), Options{CACerts: cas, Backoff: quick().Backoff, Registries: map[string]Registry{reg.Host: {Auth: wrong}}})
		if err := s.Login(context.Background(), reg.Host, *wrong, PullOptions{}); !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(sandbox.HintOf(err), "password") {
			t.Errorf("login with a wrong password: %v", err)
		}
		accepted("login", s.Login(context.Background(), "https://"+reg.Host+"/", *right, PullOptions{}))
		if info, err := os.Stat(filepath.Join(s.home, "registries.json")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("registries.json: %v, %v", info, err)
		}
		if list, err := s.Logins(); err != nil || !slices.Equal(list, []Login{{reg.Host, "me"}}) {
			t.Errorf("logins %v, %v", list, err)
		}
		_, err = s.Pull(context.Background(), ref, PullOptions{})
		accepted("stored", err)
		accepted("logout", s.Logout(reg.Host))
		if err := s.Logout(reg.Host); !errors.Is(err, sandbox.InvalidArgument) {
			t.Errorf("logout twice: %v", err)
		}

		// Docker's, and those of a helper of Docker's, come last.
		auth := base64.StdEncoding.EncodeToString([]byte("me:secret-word"))
		write(t, filepath.Join(docker, "config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, reg.Host, auth), 0o600)
		_, err = pull(Options{}, PullOptions{})
		accepted("Docker's", err)
		_, err = pull(config(wrong), PullOptions{})
		refused("configured before Docker's", err)
		bin := t.TempDir()
		write(t, filepath.Join(bin, "docker-credential-test"), "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"me\",\"Secret\":\"secret-word\"}'\n", 0o755)
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		write(t, filepath.Join(docker, "config.json"), fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, reg.Host), 0o600)
		_, err = pull(Options{}, PullOptions{})
		accepted("Docker's helper", err)
		write(t, filepath.Join(docker, "config.json"), `{"credsStore":"is-not-there"}`, 0o600)
		_, err = pull(Options{}, PullOptions{})
		refused("a helper that is not there", err)
	}
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenHelperDoesNotStopAnonymousPull(t *testing.T) {
	write(t, filepath.Join(noDocker(t), "config.json"), `{"credsStore":"is-not-there"}`, 0o600)
	reg := testimage.Serve(t, testimage.Options{})
	mustPull(t, Open(t.TempDir(), quick()), reg.Push(t, "open", layered(t, 1)), PullOptions{})
}

func TestTLS(t *testing.T) {
	noDocker(t)
	reg := testimage.Serve(t, testimage.Options{TLS: true})
	ref := reg.Push(t, "tls", layered(t, 1))
	s := Open(t.TempDir(), quick())
	_, err := s.Pull(context.Background(), ref, PullOptions{})
	if !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(sandbox.HintOf(err), "--ca-certs") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a certificate of nobody: %v, hint %q", err, sandbox.HintOf(err))
	}
	mustPull(t, s, ref, PullOptions{CACerts: []string{reg.CAFile}})
	mustPull(t, Open(t.TempDir(), quick()), ref, PullOptions{Insecure: true})
	mustPull(t, Open(t.TempDir(), Options{Registries: map[string]Registry{reg.Host: {CACerts: []string{reg.CAFile}}}}), ref, PullOptions{})
	for _, ca := range []string{"/no/such/file", "/dev/null"} {
		if _, err := s.Pull(context.Background(), ref, PullOptions{Policy: Always, CACerts: []string{ca}}); !errors.Is(err, sandbox.InvalidConfig) {
			t.Errorf("%s: %v", ca, err)
		}
	}
}

func TestMirrorsAndAliases(t *testing.T) {
	noDocker(t)
	var origin, mirror blobCount
	a, b := testimage.Serve(t, testimage.Options{Wrap: origin.wrap}), testimage.Serve(t, testimage.Options{Wrap: mirror.wrap})
	img := layered(t, 1)
	ref := a.Push(t, "library/python:3", img)
	b.Push(t, "library/python:3", img)
	a.Push(t, "library/only:3", img)
	cfg := quick()
	cfg.DefaultRegistry = a.Host
	cfg.Registries = map[string]Registry{a.Host: {Mirrors: []string{"127.0.0.1:1", b.Host}}}
	cfg.Aliases = map[string]string{"microsandbox/python": "python:3"}
	s := Open(t.TempDir(), cfg)
	mustPull(t, s, "microsandbox/python", PullOptions{})
	if origin.n.Load() != 0 || mirror.n.Load() == 0 {
		t.Errorf("the registry was asked %d times, the mirror %d", origin.n.Load(), mirror.n.Load())
	}
	for _, name := range []string{ref, "python:3", "microsandbox/python:3"} {
		if _, err := s.Resolve(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustPull(t, s, "only:3", PullOptions{}) // the mirrors do not have it
}

func TestPlatforms(t *testing.T) {
	noDocker(t)
	reg := testimage.Serve(t, testimage.Options{})
	index := v1.ImageIndex(empty.Index)
	for i, p := range []string{"linux/arm64/v8", "linux/amd64", "linux/arm/v7", "linux/arm/v6", "windows/amd64", "unknown/unknown"} {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		img := testimage.Image(t, v1.Config{Labels: map[string]string{"p": p}}, testimage.Layer(t, testimage.Tar(t, noise(fmt.Sprint(i), 2000)), testimage.Zstd))
		cf, _ := img.ConfigFile()
		cf = cf.DeepCopy()
		cf.OS, cf.Architecture, cf.Variant = platform.OS, platform.Architecture, platform.Variant
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
		reg.Push(t, fmt.Sprint("single-", i), img)
	}
	ref := reg.Push(t, "multi", index)
	s := Open(t.TempDir(), quick())
	for asked, want := range map[string]string{"": "linux/" + runtime.GOARCH, "linux/arm64": "linux/arm64/v8", "linux/arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6"} {
		root := mustPull(t, s, ref, PullOptions{Platform: asked})
		if got := root.Config.Labels["p"]; !strings.HasPrefix(got, want) {
			t.Errorf("%q gave %s, want %s", asked, got, want)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 4 {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := s.Pull(context.Background(), ref, PullOptions{Platform: "linux/riscv64"}); !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(err.Error(), "linux/arm64/v8") {
		t.Errorf("a platform that is not there: %v", err)
	}
	if _, err := s.Pull(context.Background(), ref, PullOptions{Platform: "x"}); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("no platform: %v", err)
	}
	other := "single-0"
	if runtime.GOARCH == "arm64" {
		other = "single-1"
	}
	if _, err := s.Pull(context.Background(), reg.Host+"/"+other, PullOptions{}); !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(err.Error(), "is made for") {
		t.Errorf("an image for another machine: %v", err)
	}
	// By digest: that of the index, and that of a manifest.
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	byIndex := mustPull(t, s, reg.Host+"/multi@"+d.String(), PullOptions{})
	byManifest := mustPull(t, s, reg.Host+"/multi:tag@"+byIndex.Digest, PullOptions{})
	if byIndex.Path != byManifest.Path {
		t.Error("they are not the same")
	}
	if _, err := s.Pull(context.Background(), reg.Host+"/multi@"+aDigest, PullOptions{}); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("a digest that is not there: %v", err)
	}
}

func TestDebianRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	noDocker(t)
	reg := testimage.ServeDebian(t)
	for name, img := range map[string]v1.Image{"busybox": testimage.Busybox(t), "changed": changed(t)} {
		s := Open(t.TempDir(), Options{})
		root := mustPull(t, s, reg.Push(t, "some/where/"+name+":1", img), PullOptions{})
		same(t, name, ofImage(t, root.Path), modelOf(t, img).shown())
	}
	s := Open(t.TempDir(), Options{})
	if _, err := s.Pull(context.Background(), reg.Host+"/no/such", PullOptions{}); !errors.Is(err, sandbox.ImageNotFound) {
		t.Errorf("an unknown image: %v", err)
	}
}
