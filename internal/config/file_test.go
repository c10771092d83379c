package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// load writes text as config.json into a home and loads it.
func load(t *testing.T, text string) (File, string, error) {
	t.Helper()
	t.Setenv(FileVar, "")
	t.Setenv(RegistryVar, "")
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(home)
	return f, home, err
}

func TestLoad(t *testing.T) {
	t.Setenv("HOME", "/h")
	f, home, err := load(t, `{
  "home": 3, "profiles": {"x": []}, "log_level": null,
  "registries": {
    "ca_certs": "ca.pem",
    "hosts": {
      "Reg.example:5000": {"insecure": true, "auth": {"username": "u", "password_env": "PASS"}},
      "index.docker.io": {"ca_certs": ["/a.pem", "~/b.pem"], "auth": {"username": "u", "store": "keyring"}}
    },
    "mirrors": {"docker.io": ["m1:5000", "m2:5000"]}
  },
  "images": {"aliases": {"py": "python:3.12", "microsandbox/node": "microsandbox/node"}, "keep_blobs": false,
    "limits": {"unpacked": "2G", "entries": 5, "metadata": "10M", "ratio": 7}},
  "more": {"a": 1}
}`)
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Registries: Registries{
			CACerts: []string{filepath.Join(home, "ca.pem")},
			Hosts: map[string]Host{
				"reg.example:5000": {Insecure: true, Auth: &Auth{"u", "PASS"}},
				"docker.io":        {CACerts: []string{"/a.pem", "/h/b.pem"}},
			},
			Mirrors: map[string][]string{"docker.io": {"m1:5000", "m2:5000"}},
		},
		Images: Images{
			Aliases: map[string]string{"microsandbox/python": "python", "microsandbox/node": "microsandbox/node", "py": "python:3.12"},
			Limits:  Limits{Unpacked: 2 << 30, Entries: 5, Metadata: 10 << 20, Ratio: 7},
		},
		Warnings: []string{filepath.Join(home, "config.json") + ":13:3: more is not a setting, and is ignored"},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("Load gives\n%+v\nwant\n%+v", f, want)
	}
}

func TestLoadNothing(t *testing.T) {
	t.Setenv(FileVar, "")
	t.Setenv(RegistryVar, "reg.example")
	f, err := Load(t.TempDir())
	if err != nil || !f.Images.KeepBlobs || f.Images.Aliases["microsandbox/python"] != "python" || f.Registries.Default != "reg.example" {
		t.Errorf("Load of no file gives %+v, %v", f, err)
	}
}

func TestLoadNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "other.json")
	t.Setenv(FileVar, path)
	if _, err := Load(dir); !errors.Is(err, sandbox.InvalidConfig) || !strings.Contains(sandbox.HintOf(err), FileVar) {
		t.Errorf("a named file that is not there: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"images": {"keep_blobs": false}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Load("/nowhere"); err != nil || f.Images.KeepBlobs {
		t.Errorf("a named file: %+v, %v", f, err)
	}
	t.Setenv(FileVar, dir)
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "it is not a file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestLoadErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{``, "1:1: the file ends too early"},
		{`{`, "1:2: the file ends too early"},
		{"{\n  \"images\": {\n", "3:1: the file ends too early"},
		{`[]`, "1:1: the file is an array and should be an object"},
		{`{} {}`, "1:4: there is something after the end"},
		{"{\n // no\n}", "2:2: invalid character '/'"},
		{`{"images": {"keep_blobs": "yes"}}`, `1:27: images.keep_blobs is the string "yes" and should be true or false`},
		{`{"images": {"keep_blobs": null}}`, "1:27: images.keep_blobs is null and should be true or false"},
		{`{"images": {"limits": {"entries": 1.5}}}`, "1:35: images.limits.entries is the number 1.5 and should be a whole number from 1 on"},
		{`{"images": {"limits": {"entries": 0}}}`, "should be a whole number from 1 on"},
		{`{"images": {"limits": {"unpacked": 5}}}`, "should be a size"},
		{`{"images": {"limits": {"unpacked": "5 apples"}}}`, "should be a size"},
		{`{"images": {}, "images": {}}`, `1:16: "images" is there twice`},
		{"{\"ä\": 1,\n \"registries\": {\"mirrors\": {\"a\": \"b\"}}}", `2:34: registries.mirrors.a is the string "b" and should be an array`},
		{`{"registries": {"mirrors": {"a": ["b", 3]}}}`, "registries.mirrors.a[1] is the number 3"},
		{`{"registries": {"mirrors": {"a": ["b", "http://c"]}}}`, `1:40: "http://c" is not a registry: write host or host:port`},
		{`{"registries": {"mirrors": {"a/b": []}}}`, `1:29: "a/b" is not a registry`},
		{`{"registries": {"hosts": {"https://a": {}}}}`, `1:27: "https://a" is not a registry`},
		{`{"registries": {"hosts": {"a": {"auth": {}}}}}`, "registries.hosts.a.auth has no username"},
		{`{"registries": {"hosts": {"a": {"auth": {"username": "u"}}}}}`, "needs one of password_env and store"},
		{`{"registries": {"hosts": {"a": {"auth": {"username": "u", "secret_name": "s"}}}}}`, "secret_name is not supported yet"},
		{`{"registries": {"hosts": {"a": {"auth": {"username": "u", "store": "s"}}}}}`, `should be "keyring"`},
		{`{"x": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "nested more than 32 deep"},
		{`{"x": "` + strings.Repeat("x", maxFile) + `"}`, "it is larger than 1 MiB"},
	} {
		_, home, err := load(t, c.text)
		if !errors.Is(err, sandbox.InvalidConfig) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), home) {
			t.Errorf("%.100s: %v, want %s", c.text, err, c.want)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(`{"registries": {"ca_certs": ["a"], "hosts": {"a": {"insecure": true}}, "mirrors": {"a": ["b"]}}}`))
	f.Add([]byte(`{"images": {"aliases": {"a": "b"}, "keep_blobs": true, "limits": {"unpacked": "1G", "entries": 1}}, "é": [1, {"b": null}]}`))
	f.Add([]byte("{\"images\" \n: , }"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := defaults()
		if err := c.parse("f", data); err != nil && !strings.HasPrefix(err.Error(), "invalid config: f:") {
			t.Errorf("%q: %v", data, err)
		}
		if n := len(defaults().Images.Aliases); n != 2 {
			t.Fatalf("the defaults have changed: %d aliases", n)
		}
	})
}
