package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

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
  "home": "~/msb", "log_level": "debug", "deployment_profile": "multi-tenant", "active_profile": "prod",
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
  "more": {"a": 1},
  "database": {"url": "sqlite://x", "max_connections": 2, "connect_timeout_secs": 3, "busy_timeout_secs": 4},
  "paths": {"msb": "a", "libkrunfw": "b", "cache": "c", "sandboxes": "d", "volumes": "e", "snapshots": "f", "logs": "g", "secrets": "h"},
  "sandbox_defaults": {"cpus": 2, "memory_mib": 1024, "cpu_placement": "spread", "placement_profile": "p", "thp": "never", "shell": "/bin/zsh", "workdir": "/w",
    "metrics_sample_interval_ms": 500, "disable_metrics_sample": true, "oci": {"root_disk": "8G"}},
  "runtime": {"block_writeback": {"mode": "fixed", "per_disk_mib": 1, "pool_mib": 2}, "placement_profiles": {"p": {"numa": {"mode": "strict_single"}, "memory": {"mode": "inherit"}}}},
  "ssh": {"inactivity_timeout_secs": 0}, "metrics": {"capacity": 10},
  "profiles": {"dev": {"backend": "local"}, "prod": {"backend": "cloud", "url": "https://x/", "api_key_ref": "env:KEY"}, "ring": {"backend": "cloud", "api_key_ref": "keyring:a"}}
}`)
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(home, "config.json")
	want := File{
		Home: "/h/msb", LogLevel: "debug", DeploymentProfile: "multi_tenant", ActiveProfile: "prod",
		Defaults: Defaults{CPUs: 2, MemoryMiB: 1024, CPUPlacement: "spread", PlacementProfile: "p", THP: "never", Shell: "/bin/zsh", Workdir: "/w",
			MetricsIntervalMS: 500, DisableMetrics: true, RootDisk: &sandbox.RootDisk{Kind: "managed", SizeMiB: 8192}},
		Profiles: map[string]Profile{"dev": {Backend: "local"}, "prod": {Backend: "cloud", URL: "https://x/", KeyEnv: "KEY"}, "ring": {Backend: "cloud", keyring: true}},
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
		Warnings: []string{
			at + ":13:3: more is not a setting, and is ignored",
			at + ":14:23: database.url changes nothing: the records are in the state root: set home",
			at + ":14:56: database.max_connections changes nothing: there is one connection",
			at + ":14:83: database.connect_timeout_secs changes nothing: the records are a file",
			at + ":14:107: database.busy_timeout_secs changes nothing: another msb that writes is waited for 30 seconds",
			at + ":15:20: paths.msb changes nothing: msb finds its own parts beside itself",
			at + ":15:38: paths.libkrunfw changes nothing: there is no libkrunfw",
			at + ":15:52: paths.cache changes nothing: all that msb keeps is below the state root: set home",
			at + ":15:70: paths.sandboxes changes nothing: all that msb keeps is below the state root: set home",
			at + ":15:86: paths.volumes changes nothing: all that msb keeps is below the state root: set home",
			at + ":15:104: paths.snapshots changes nothing: all that msb keeps is below the state root: set home",
			at + ":15:117: paths.logs changes nothing: all that msb keeps is below the state root: set home",
			at + ":15:133: paths.secrets changes nothing: all that msb keeps is below the state root: set home",
			at + ":18:34: runtime.block_writeback changes nothing: guests have no block devices",
			at + ":18:109: runtime.placement_profiles changes nothing: guests have no memory nodes of their own",
			at + ":19:66: metrics.capacity changes nothing: metrics are kept by sandbox, as many as there are",
		},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("Load gives\n%+v\nwant\n%+v", f, want)
	}
}

func TestLoadNothing(t *testing.T) {
	t.Setenv(FileVar, "")
	t.Setenv(RegistryVar, "reg.example")
	f, err := Load(t.TempDir())
	if err != nil || len(f.Warnings) > 0 || f.SSHInactivity != 10*time.Minute || !f.Images.KeepBlobs || f.Images.Aliases["microsandbox/python"] != "python" || f.Registries.Default != "reg.example" {
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
		{`{"home": ""}`, `1:10: home is the string "" and should be`},
		{`{"log_level": "loud"}`, `log_level is the string "loud" and should be one of error, warn, info, debug, trace`},
		{`{"deployment_profile": true}`, "deployment_profile is true and should be one of single-tenant"},
		{`{"database": {"busy_timeout_secs": -1}}`, "should be a whole number from 0 on"},
		{`{"database": {"busy_timeout_secs": 9007199254740992}}`, "should be at most 3162240000 seconds"},
		{`{"database": {"max_connections": "5"}}`, `database.max_connections is the string "5"`},
		{`{"paths": {"cache": 1}}`, "paths.cache is the number 1"},
		{`{"sandbox_defaults": {"cpus": 0}}`, "sandbox_defaults.cpus is the number 0"},
		{`{"sandbox_defaults": {"thp": "maybe"}}`, "should be one of always, madvise, never"},
		{`{"sandbox_defaults": {"cpu_placement": 1}}`, "should be one of inherit, auto, spread, compact"},
		{`{"sandbox_defaults": {"disable_metrics_sample": 0}}`, "should be true or false"},
		{`{"sandbox_defaults": {"oci": {"root_disk": "8 apples"}}}`, `should be a root disk like "8G"`},
		{`{"sandbox_defaults": {"oci": {"root_disk": "tmpfs:"}}}`, `should be a root disk like "8G"`},
		{`{"sandbox_defaults": {"oci": {"root_disk": {"kind": "big"}}}}`, "root_disk.kind"},
		{`{"sandbox_defaults": {"oci": {"root_disk": "8G", "upper_size_mib": 5}}}`, "upper_size_mib and root_disk exclude each other"},
		{`{"runtime": {"block_writeback": {"mode": 1}}}`, "runtime.block_writeback.mode is the number 1"},
		{`{"runtime": {"placement_profiles": {"a": {"numa": {"mode": "x"}}}}}`, "runtime.placement_profiles.a.numa.mode"},
		{`{"ssh": {"inactivity_timeout_secs": "1"}}`, "ssh.inactivity_timeout_secs is the string"},
		{`{"metrics": {"capacity": true}}`, "metrics.capacity is true"},
		{`{"profiles": {"x": []}}`, "1:20: profiles.x is an array and should be an object"},
		{`{"profiles": {"x": {}}}`, "profiles.x has no backend"},
		{`{"profiles": {"x": {"backend": "moon"}}}`, "should be one of local, cloud"},
		{`{"profiles": {"x": {"backend": "cloud", "api_key_ref": "env:"}}}`, "profiles.x.api_key_ref should be env:VARIABLE, inline:KEY or keyring:NAME"},
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
	f.Add([]byte(`{"home": "~/x", "sandbox_defaults": {"cpus": 2, "oci": {"root_disk": {"kind": "tmpfs"}}}, "profiles": {"a": {"backend": "cloud", "api_key_ref": "inline:x"}}}`))
	f.Add([]byte(`{"runtime": {"block_writeback": {"mode": "auto"}}, "ssh": {"inactivity_timeout_secs": 1}, "paths": {"msb": "x"}}`))
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
