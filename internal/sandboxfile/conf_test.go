package sandboxfile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

var testVars = map[string]string{"TAG": "3.12", "N": "2", "EMPTY": ""}

func testLookup(name string) (string, bool) { v, ok := testVars[name]; return v, ok }

// TestConfStrict has a line for each rule of contract msb-0.6 §1.6 about what is refused.
func TestConfStrict(t *testing.T) {
	for _, c := range []struct {
		name, text string
		section    Section
		err        string
	}{
		{"fine", "image: x\n", ConfWhole, ""},
		{"nothing", "", ConfWhole, "c.yaml: there is nothing in it"},
		{"anchor", "image: &a x\n", ConfWhole, "c.yaml:1:8: anchors are not allowed"},
		{"alias", "env: {a: &b x, c: *b}\n", ConfWhole, "anchors are not allowed"},
		{"tag", "image: !!str x\n", ConfWhole, "c.yaml:1:8: tags are not allowed"},
		{"own tag", "image: !x x\n", ConfWhole, "tags are not allowed"},
		{"merge key", "env:\n  <<: {a: b}\n", ConfWhole, "c.yaml:2:3: merge keys are not allowed"},
		{"duplicate", "image: x\ncpus: 1\nimage: y\n", ConfWhole, `c.yaml:3:1: the file: the key "image" is there twice`},
		{"duplicate deeper", "env: {a: x, a: y}\n", ConfWhole, `c.yaml:1:13: env: the key "a" is there twice`},
		{"unknown", "imag: x\n", ConfWhole, `c.yaml:1:1: the file has no key "imag" (did you mean "image"?)`},
		{"unknown deeper", "network: {alow: []}\n", ConfWhole, `c.yaml:1:11: network has no key "alow" (did you mean "allow"?)`},
		{"two documents", "image: x\n---\nimage: y\n", ConfWhole, "c.yaml:2:1: there is a second document"},
		{"large", strings.Repeat("#", maxConf+1), ConfWhole, "larger than 16 MiB"},
		{"null", "workdir: ~\n", ConfWhole, "workdir: want a text, not nothing"},
		{"empty", "workdir:\n", ConfWhole, "workdir: want a text, not nothing"},
		{"list empty", "mounts:\n", ConfWhole, "mounts: want a list, not nothing"},
		{"quoted number", "cpus: \"1\"\n", ConfWhole, `cpus: want a number from 0 to 255, not "1"`},
		{"project", "sandboxes: {a: {image: x}}\n", ConfWhole, `c.yaml:1:1: the key "sandboxes" is one of a project`},
		{"depends_on", "image: x\ndepends_on: [a]\n", ConfWhole, "c.yaml:2:1: the key \"depends_on\" is one of a project"},
		{"layers", "layers: []\n", ConfWhole, "is one of a project"},
		{"volumes", "volumes: []\n", ConfWhole, "is one of a project"},
		{"name", "name: a\n", ConfWhole, "is one of a project"},
		{"description", "description: a\n", ConfWhole, "is one of a project"},
		{"variable missing", "image: x:${NONE}\n", ConfWhole, "c.yaml:1:8: the environment has no variable NONE"},
		{"image of two kinds", "image: {bind: /a, snapshot: b}\n", ConfWhole, "exactly one of oci, snapshot, disk and bind"},
		{"mount of two kinds", "mounts: [{bind: /a, named: b, target: /c}]\n", ConfWhole, "exactly one of bind, named, tmpfs and disk"},
		{"mount without target", "mounts: [{named: b}]\n", ConfWhole, "it has no target"},
		{"mode as a number", "patches: [{mkdir: {path: /a, mode: 0755}}]\n", ConfWhole, `want a mode such as "0644", in quotes`},
		{"patch of two kinds", "patches: [{mkdir: {path: /a}, remove: {path: /b}}]\n", ConfWhole, "exactly one kind of patch"},
		{"policy", "network: {policy: closed}\n", ConfWhole, "network.policy: want none, public or open"},
		{"scope", "network: {scope: any}\n", ConfWhole, `network has no key "scope"`},
		{"rules", "network: {rules: [allow@any]}\n", ConfWhole, `network has no key "rules"`},
		{"authority", "network: {tls: {upstream_ca_cert: [a]}}\n", ConfWhole, `network has no key "tls.upstream_ca_cert"`},
		{"pull policy", "pull_policy: sometimes\n", ConfWhole, "want missing, always, never"},
		{"security", "security: lax\n", ConfWhole, "want default, restricted"},
		{"size", "memory: much\n", ConfWhole, "memory: want a size"},
		{"duration", "max_duration: 1d\n", ConfWhole, "max_duration: want a duration"},
		{"key of another section", "image: x\n", ConfResource, "c.yaml:1:1: a file of --resource-conf has no key \"image\""},
		{"runtime", "workdir: /\nshell: /bin/sh\n", ConfRuntime, ""},
		{"files", "mounts: [\"/a:/b:ro\"]\n", ConfFiles, ""},
		{"network", "public\n", ConfNetwork, ""},
		{"secret", "K: {allow: [a.b]}\n", ConfSecret, ""},
		{"secret, unknown", "K: {hosts: [a.b]}\n", ConfSecret, `has no key "hosts"`},
		{"script", "a: echo\n", ConfScript, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var conf Conf
			err := conf.parse("c.yaml", c.section, []byte(c.text), testLookup)
			if c.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Fatalf("the error is %v, want %s", err, c.err)
			}
		})
	}
}

// TestConfFields reads every field, and looks for it in the spec.
func TestConfFields(t *testing.T) {
	dir := t.TempDir()
	more := filepath.Join(dir, "more.yaml")
	if err := os.WriteFile(more, []byte("- append: {path: /etc/motd, content: hi}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const text = `
image: {oci: {reference: "python:${TAG}", upper_size: 8G}}
pull_policy: never
cpus: ${N}
memory: 1G
max_duration: 1h
idle_timeout: 300
rlimits: [{resource: nofile, soft: 10, hard: 20}, {resource: core, soft: 0}]
workdir: /w
shell: /bin/bash
user: "1000"
hostname: box
security: restricted
entrypoint: [a]
cmd: [b]
env: {A: "$HOME", B: "${EMPTY}x"}
labels: {team: ml}
init: {cmd: auto, args: [x], env: {C: d}}
mounts: ["./src:/src:ro", {named: data, target: /data, create: existing, noexec: true}, {tmpfs: {size: 64M}, target: /t}, {bind: b, target: /b, readonly: true, stat_virtualization: relaxed}]
patch_files: [more.yaml]
patches:
- text: {path: /a, content: hi, mode: "0600", replace: true}
- file: {path: /b, content_base64: AAE=}
- copy_file: {src: f, dst: /f}
- copy_dir: {src: d, dst: /d}
- symlink: {target: /a, link: /l}
- mkdir: {path: /m, mode: "0700"}
- remove: {path: /r}
network: {allow: ["example.com:tcp:443"], deny: [10.0.0.0/8], ports: ["8080:80"], dns: {rebind_protection: false, nameservers: [1.1.1.1], query_timeout: 2s}, tls: {bypass: ["*.a.example.com"], verify_upstream: true, block_quic: false}, trust_host_cas: true, max_connections: 7}
secrets: {KEY: {value: v, allow: [api.example.com], inject: [headers], require_tls_identity: true}}
scripts: {hello: "echo hi"}
ports: ["9090:90/udp"]
`
	var c Conf
	if err := c.parse(filepath.Join(dir, "c.yaml"), ConfWhole, []byte(text), testLookup); err != nil {
		t.Fatal(err)
	}
	var s sandbox.Spec
	if err := c.Fill(&s); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		what      string
		got, want any
	}{
		{"image", s.Image.OCI, &sandbox.OCIImage{Reference: "python:3.12", RootDisk: sandbox.RootDisk{Kind: "managed", SizeMiB: 8192}}},
		{"pull policy", s.PullPolicy, sandbox.PullNever},
		{"cpus, memory", []int{s.Resources.CPUs, s.Resources.MemoryMiB}, []int{2, 1024}},
		{"times", []int{*s.Lifecycle.MaxDurationSecs, *s.Lifecycle.IdleTimeoutSecs}, []int{3600, 300}},
		{"rlimits", s.Rlimits, []sandbox.Rlimit{{Resource: "nofile", Soft: 10, Hard: 20}, {Resource: "core"}}},
		{"runtime", []string{s.Runtime.Workdir, s.Runtime.Shell, s.Runtime.User, s.Runtime.Hostname, s.SecurityProfile}, []string{"/w", "/bin/bash", "1000", "box", "restricted"}},
		{"command", [][]string{s.Runtime.Entrypoint, s.Runtime.Cmd}, [][]string{{"a"}, {"b"}}},
		{"env", s.Env, []sandbox.EnvVar{{Key: "A", Value: "$HOME"}, {Key: "B", Value: "x"}}},
		{"labels", s.Labels, map[string]string{"team": "ml"}},
		{"init", s.Init, &sandbox.Init{Cmd: "auto", Args: []string{"x"}, Env: []sandbox.EnvVar{{Key: "C", Value: "d"}}}},
		{"mounts", s.Mounts, []sandbox.Mount{
			{Type: "Bind", Host: filepath.Join(dir, "src"), Guest: "/src", Options: sandbox.MountOptions{ReadOnly: true}},
			{Type: "Named", Host: "data", Guest: "/data", Create: "existing", Options: sandbox.MountOptions{NoExec: true}},
			{Type: "Tmpfs", Guest: "/t", SizeMiB: 64},
			{Type: "Bind", Host: filepath.Join(dir, "b"), Guest: "/b", Options: sandbox.MountOptions{ReadOnly: true}, StatVirtualization: "relaxed"}}},
		{"patches", len(s.Patches), 8},
		{"first patch", s.Patches[0], sandbox.Patch{Type: "append", Path: "/etc/motd", Content: []byte("hi")}},
		{"bytes", s.Patches[2].Content, []byte{0, 1}},
		{"copy", s.Patches[3].Src, filepath.Join(dir, "f")},
		{"mode", *s.Patches[6].Mode, uint32(0o700)},
		{"egress", s.Network.Policy.DefaultEgress, "deny"},
		{"rules", len(s.Network.Policy.Rules), 3},
		{"first rule", s.Network.Policy.Rules[0].Action, "deny"},
		{"dns", s.Network.DNS, &sandbox.DNS{NoRebindProtection: true, Nameservers: []string{"1.1.1.1"}, QueryTimeoutMS: 2000}},
		{"ports", s.Network.Ports, []sandbox.Port{{HostPort: 8080, GuestPort: 80, Protocol: "tcp"}, {HostPort: 9090, GuestPort: 90, Protocol: "udp"}}},
		{"tls", s.Network.TLS.Enabled && *s.Network.TLS.VerifyUpstream && !*s.Network.TLS.BlockQUIC, true},
		{"connections", *s.Network.MaxConnections, 7},
		{"secret", s.Network.Secrets.Secrets[0].Value.Reveal(), "v"},
		{"script", s.Runtime.Scripts["hello"], "#!/bin/bash\necho hi"},
	} {
		if !reflect.DeepEqual(f.got, f.want) {
			t.Errorf("%s: got %+v, want %+v", f.what, f.got, f.want)
		}
	}
}

// TestConfPrecedence: files from left to right, then what the spec has already.
func TestConfPrecedence(t *testing.T) {
	var c Conf
	for _, text := range []string{
		"image: a\ncpus: 1\nmemory: 1G\nenv: {A: 1, B: 1, C: 1}\nmounts: [\"/a:/x\", \"/a:/y\"]\nnetwork: {allow: [example.com], max_connections: 5}\n",
		"image: b\ncpus: 2\nenv: {B: 2, C: 2}\nnetwork: {policy: open}\n",
	} {
		if err := c.parse("c", ConfWhole, []byte(text), testLookup); err != nil {
			t.Fatal(err)
		}
	}
	s := sandbox.Spec{Resources: sandbox.Resources{CPUs: 3}, Env: []sandbox.EnvVar{{Key: "C", Value: "3"}},
		Mounts: []sandbox.Mount{{Type: "Bind", Host: "/b", Guest: "/x"}}}
	if err := c.Fill(&s); err != nil {
		t.Fatal(err)
	}
	if s.Image.String() != "b" || s.Resources.CPUs != 3 || s.Resources.MemoryMiB != 1024 {
		t.Errorf("image %s, %d CPUs, %d MiB", s.Image, s.Resources.CPUs, s.Resources.MemoryMiB)
	}
	if want := []sandbox.EnvVar{{Key: "A", Value: "1"}, {Key: "B", Value: "2"}, {Key: "C", Value: "3"}}; !reflect.DeepEqual(s.Env, want) {
		t.Errorf("env %v, want %v", s.Env, want)
	}
	if len(s.Mounts) != 2 || s.Mounts[0].Guest != "/y" || s.Mounts[1].Host != "/b" {
		t.Errorf("mounts %+v", s.Mounts)
	}
	if p := s.Network.Policy; p.DefaultEgress != "allow" || len(p.Rules) != 0 || *s.Network.MaxConnections != 5 {
		t.Errorf("the network is %+v", s.Network)
	}
}

func FuzzConf(f *testing.F) {
	for _, s := range []string{"image: x\ncpus: 1\n", "network: {allow: [a.b], tls: {enabled: true}}\n", "mounts: [\"/a:/b\"]\npatches: [{text: {path: /a}}]\n", "a: &b [*b]\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Conf
		if err := c.parse("f", ConfWhole, data, testLookup); err != nil {
			if sandbox.KindOf(err) != sandbox.InvalidConfig {
				t.Fatalf("the kind of %v is %v", err, sandbox.KindOf(err))
			}
			return
		}
		c.PatchFiles = nil
		var s sandbox.Spec
		_ = c.Fill(&s)
	})
}

// TestSchemas: they are JSON, and have every key.
func TestSchemas(t *testing.T) {
	for _, c := range []struct {
		make func() ([]byte, error)
		keys []string
	}{{Schema, []string{"sandboxes", "builds", "meta", "modules"}}, {ConfSchema, []string{"image", "patches", "mounts", "secrets"}}} {
		data, err := c.make()
		if err != nil {
			t.Fatal(err)
		}
		var s struct{ Properties map[string]any }
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		for _, k := range c.keys {
			if s.Properties[k] == nil {
				t.Errorf("the schema has no %s", k)
			}
		}
	}
}
