package local

import (
	"reflect"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/image"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// ofImage is an image that says everything, some of which no sandbox may have.
var ofImage = image.Config{
	Env: []string{"PATH=/bin", "A=image", "MSB_X=1", "none", "=", "Z=image"}, Cmd: []string{"cmd", "1"}, Entrypoint: []string{"entry"},
	WorkingDir: "app/", User: "web", Labels: map[string]string{"team": "image", "own": "image", "service.name": "x", "long": strings.Repeat("x", 5000), "": "y"},
}

func TestMerge(t *testing.T) {
	labels := map[string]string{"own": "user"}
	spec := sandbox.Spec{Env: []sandbox.EnvVar{{Key: "A", Value: "user"}}, Labels: labels}
	merge(&spec, ofImage)
	want := sandbox.Spec{
		Env:     []sandbox.EnvVar{{Key: "PATH", Value: "/bin"}, {Key: "Z", Value: "image"}, {Key: "A", Value: "user"}},
		Labels:  map[string]string{"own": "user", "team": "image"},
		Runtime: sandbox.RuntimeOptions{Cmd: []string{"cmd", "1"}, Entrypoint: []string{"entry"}, Workdir: "/app", User: "web"},
	}
	if !reflect.DeepEqual(spec, want) {
		t.Errorf("merged\n%+v\nwant\n%+v", spec, want)
	}
	if len(labels) != 1 {
		t.Errorf("the caller's labels have changed: %v", labels)
	}
}

func TestMergeCommand(t *testing.T) {
	type words []string
	for what, c := range map[string]struct{ entrypoint, cmd, wantEntrypoint, wantCmd words }{
		"nothing asked":            {nil, nil, words{"entry"}, words{"cmd", "1"}},
		"a command":                {nil, words{"mine"}, words{"entry"}, words{"mine"}},
		"an entrypoint":            {words{"mine"}, nil, words{"mine"}, nil},
		"entrypoint and a command": {words{"mine"}, words{"c"}, words{"mine"}, words{"c"}},
	} {
		spec := sandbox.Spec{Runtime: sandbox.RuntimeOptions{Entrypoint: c.entrypoint, Cmd: c.cmd, Workdir: "/w", User: "u"}}
		merge(&spec, ofImage)
		if r := spec.Runtime; !reflect.DeepEqual(words(r.Entrypoint), c.wantEntrypoint) || !reflect.DeepEqual(words(r.Cmd), c.wantCmd) || r.Workdir != "/w" || r.User != "u" {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

func TestStartup(t *testing.T) {
	of := func(ref string, cmd ...string) sandbox.Spec {
		return sandbox.Spec{Image: sandbox.Image{OCI: &sandbox.OCIImage{Reference: ref}}, Runtime: sandbox.RuntimeOptions{Cmd: cmd}}
	}
	shell := sandbox.Spec{Runtime: sandbox.RuntimeOptions{Entrypoint: []string{"e"}, Cmd: []string{"sh"}}}
	directory := sandbox.Spec{Image: sandbox.Image{Bind: &sandbox.BindImage{Path: "/r"}}}
	for _, c := range []struct {
		asked sandbox.Spec
		want  []string
	}{
		{of("host"), nil},
		{directory, nil},
		{of("host", "x"), []string{"e", "sh"}},
		{of("python"), []string{"e", "sh"}},
	} {
		if got := startup(c.asked, shell); !reflect.DeepEqual(got, c.want) {
			t.Errorf("startup of %s %v = %q, want %q", c.asked.Image, c.asked.Runtime.Cmd, got, c.want)
		}
	}
}

func TestImageOptions(t *testing.T) {
	t.Setenv("REG_PASSWORD", "secret")
	t.Setenv("NO_PASSWORD", "")
	var f config.File
	f.Registries.Default = "d.example"
	f.Registries.Hosts = map[string]config.Host{
		"a.example": {Insecure: true, CACerts: []string{"/ca"}, Auth: &config.Auth{Username: "u", PasswordEnv: "REG_PASSWORD"}},
		"b.example": {Auth: &config.Auth{Username: "u", PasswordEnv: "NO_PASSWORD"}},
	}
	f.Registries.Mirrors = map[string][]string{"a.example": {"m1"}, "docker.io": {"m2"}}
	f.Images.Limits = config.Limits{Unpacked: 1, Entries: 2, Metadata: 3, Ratio: 4}
	got := imageOptions(f)
	want := image.Options{
		DefaultRegistry: "d.example", DropBlobs: true, Limits: image.Limits{Bytes: 1, Entries: 2, Metadata: 3, Ratio: 4},
		Registries: map[string]image.Registry{
			"a.example": {Insecure: true, CACerts: []string{"/ca"}, Mirrors: []string{"m1"}, Auth: &image.Auth{Username: "u", Password: "secret"}},
			"b.example": {},
			"docker.io": {Mirrors: []string{"m2"}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("options\n%#v\nwant\n%#v", got, want)
	}

	var warned []string
	f.Images.Aliases = map[string]string{"ours/python": "b.example/python", "b.example/moved": "a.example/moved"}
	s := &images{Store: image.Open(t.TempDir(), imageOptions(f)), settings: f, warn: func(m string, _ ...string) { warned = append(warned, m) }}
	for ref, want := range map[string]int{"a.example/x": 0, "b.example/x": 1, "x": 0, "NOT:A:REF": 0, "ours/python:3": 1, "b.example/moved": 0} {
		warned = nil
		s.warnOfAuth(ref, image.Always)
		s.warnOfAuth(ref, image.Never)
		if len(warned) != want || want > 0 && (!strings.Contains(warned[0], "b.example") || !strings.Contains(warned[0], "NO_PASSWORD")) {
			t.Errorf("%s: warned %q", ref, warned)
		}
	}
}

// What the settings say of the deployment profile goes before what a spec says, and is never weakened by it.
func TestFloor(t *testing.T) {
	for _, c := range []struct{ set, asked, want string }{
		{"", "", ""}, {"", sandbox.MultiTenant, sandbox.MultiTenant}, {sandbox.SingleTenant, sandbox.MultiTenant, sandbox.MultiTenant},
		{sandbox.MultiTenant, "", sandbox.MultiTenant}, {sandbox.MultiTenant, sandbox.SingleTenant, sandbox.MultiTenant},
	} {
		b := New(Config{Settings: config.File{DeploymentProfile: c.set}})
		if got := b.floor(sandbox.Spec{DeploymentProfile: c.asked}).DeploymentProfile; got != c.want {
			t.Errorf("settings %q, spec %q: %q, want %q", c.set, c.asked, got, c.want)
		}
	}
}
