package sandboxfile

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// entry reads one sandbox of a file.
func entry(t *testing.T, body string) (Sandbox, *File, error) {
	t.Helper()
	var b strings.Builder
	b.WriteString("sandboxes:\n  web:\n")
	for line := range strings.Lines(body) {
		b.WriteString("    " + line)
	}
	f, err := Parse("Sandboxfile", []byte(b.String()))
	if err != nil {
		return Sandbox{}, nil, err
	}
	return f.Sandboxes["web"], f, nil
}

// TestRules has a line for each rule of contract server-v0.2 §3.1 and §3.3: what a sandbox's entry says, and what comes of it, or
// the error with its place.
func TestRules(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env"), []byte("# c\nA=1\nexport B='two words'\nC=\"x\\ny\"\nD=4 # note\nA=5\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.env"), []byte("A=1\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(s sandbox.Spec) (all []string) {
		for _, e := range s.Env {
			all = append(all, e.Key+"="+e.Value)
		}
		return all
	}
	ports := func(s sandbox.Spec) (all []string) {
		for _, p := range s.Network.Ports {
			all = append(all, p.String())
		}
		return all
	}
	mounts := func(s sandbox.Spec) (all []string) {
		for _, m := range s.Mounts {
			all = append(all, m.Type+" "+strings.TrimPrefix(m.Host, dir)+" "+m.Guest)
		}
		return all
	}
	policy := func(s sandbox.Spec) any {
		if s.Network.Policy == nil {
			return "public"
		}
		return s.Network.Policy.DefaultEgress + " " + s.Network.Policy.DefaultIngress
	}
	field := func(get func(sandbox.Spec) any) func(sandbox.Spec) any { return get }
	for _, c := range []struct {
		name, body string
		get        func(sandbox.Spec) any
		want       any
		err        string // of reading or of the spec
	}{
		{"image", "image: python\n", field(func(s sandbox.Spec) any { return s.Image.OCI.Reference }), "python", ""},
		{"image, a directory", "image: ./root\n", field(func(s sandbox.Spec) any { return s.Image.Bind.Path }), filepath.Join(dir, "root"), ""},
		{"image, absolute", "image: /root\n", field(func(s sandbox.Spec) any { return s.Image.Bind.Path }), "/root", ""},
		{"image, a number", "image: 3.12\n", field(func(s sandbox.Spec) any { return s.Image.OCI.Reference }), "3.12", ""},
		{"no image", "shell: /bin/sh\n", nil, nil, "Sandboxfile:3:5: sandbox 'web' has no image"},
		{"image null", "image: ~\n", nil, nil, "Sandboxfile:3:12: sandbox 'web' has no image"},
		{"image a list", "image: [a]\n", nil, nil, "Sandboxfile:3:12: sandboxes.web.image: want a text, not a list"},

		{"memory default", "image: x\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 1024, ""},
		{"memory", "image: x\nmemory: 256\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 256, ""},
		{"memory in hex", "image: x\nmemory: 0x100\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 256, ""},
		{"memory null", "image: x\nmemory: null\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 1024, ""},
		{"memory empty", "image: x\nmemory:\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 1024, ""},
		{"memory quoted", "image: x\nmemory: \"256\"\n", nil, nil, `Sandboxfile:4:13: sandboxes.web.memory: want a number from 0 to 4294967295, not "256"`},
		{"memory with a unit", "image: x\nmemory: 1G\n", nil, nil, "Sandboxfile:4:13: sandboxes.web.memory: want a number"},
		{"memory with underscores", "image: x\nmemory: 1_024\n", nil, nil, "want a number"},
		{"memory octal of old", "image: x\nmemory: 0512\n", nil, nil, "want a number"},
		{"memory negative", "image: x\nmemory: -1\n", nil, nil, "want a number"},
		{"memory a fraction", "image: x\nmemory: 1.5\n", nil, nil, "want a number"},
		{"memory too large", "image: x\nmemory: 4294967296\n", nil, nil, "want a number"},
		{"memory 0", "image: x\nmemory: 0\n", nil, nil, "Sandboxfile:4:13: memory is 0"},
		{"cpus default", "image: x\n", field(func(s sandbox.Spec) any { return s.Resources.CPUs }), 1, ""},
		{"cpus", "image: x\ncpus: 2\n", field(func(s sandbox.Spec) any { return s.Resources.CPUs }), 2, ""},
		{"cpus too many", "image: x\ncpus: 256\n", nil, nil, "want a number from 0 to 255"},
		{"cpus 0", "image: x\ncpus: 0\n", nil, nil, "cpus is 0"},

		{"port for both", "image: x\nports: [8080]\n", field(func(s sandbox.Spec) any { return ports(s) }), []string{"127.0.0.1:8080->8080/tcp"}, ""},
		{"ports unquoted", "image: x\nports:\n- 8080:80\n- \"1:2\"\n", field(func(s sandbox.Spec) any { return ports(s) }), []string{"127.0.0.1:8080->80/tcp", "127.0.0.1:1->2/tcp"}, ""},
		{"port that YAML 1.1 takes for a time", "image: x\nports:\n- 22:22\n", field(func(s sandbox.Spec) any { return ports(s) }), []string{"127.0.0.1:22->22/tcp"}, ""},
		{"port without guest", "image: x\nports: [\"80:\"]\n", nil, nil, "Sandboxfile:4:13: invalid port pair: 80:"},
		{"port without host", "image: x\nports: [\":80\"]\n", nil, nil, "invalid port pair: :80"},
		{"port too large", "image: x\nports: [65536]\n", nil, nil, "invalid port pair: 65536"},
		{"port with a protocol", "image: x\nports: [53:53/udp]\n", nil, nil, "invalid port pair: 53:53/udp"},
		{"port with an address", "image: x\nports: [\"0.0.0.0:1:2\"]\n", nil, nil, "invalid port pair"},
		{"port of the portal", "image: x\nports: [\"9000:4444\"]\n", field(func(s sandbox.Spec) any { return len(ports(s)) }), 0, ""},
		{"ports empty", "image: x\nports:\n", field(func(s sandbox.Spec) any { return len(ports(s)) }), 0, ""},
		{"ports null", "image: x\nports: null\n", nil, nil, "Sandboxfile:4:12: sandboxes.web.ports: want a list, not null"},
		{"ports ~", "image: x\nports: ~\n", nil, nil, "sandboxes.web.ports: want a list, not ~"},
		{"ports one", "image: x\nports: 80\n", nil, nil, "want a list, not 80"},

		{"volume relative", "image: x\nvolumes: [./data:/data]\n", field(func(s sandbox.Spec) any { return mounts(s) }), []string{"Bind /data /data"}, ""},
		{"volume above", "image: x\nvolumes: [../d:/d]\n", field(func(s sandbox.Spec) any { return s.Mounts[0].Host }), filepath.Join(filepath.Dir(dir), "d"), ""},
		{"volume for both", "image: x\nvolumes: [/data]\n", field(func(s sandbox.Spec) any { return mounts(s) }), []string{"Bind /data /data"}, ""},
		{"volume by name", "image: x\nvolumes: [data:/data]\n", field(func(s sandbox.Spec) any { return mounts(s) }), []string{"Named data /data"}, ""},
		{"volume without guest", "image: x\nvolumes: [\"/a:\"]\n", nil, nil, "Sandboxfile:4:15: invalid path pair: /a:"},
		{"volume without host", "image: x\nvolumes: [\":/a\"]\n", nil, nil, "invalid path pair: :/a"},
		{"volume empty", "image: x\nvolumes: [\"\"]\n", nil, nil, "invalid path pair: "},
		{"volumes a map", "image: x\nvolumes: {a: /b}\n", nil, nil, "want a list, not keys and values"},

		{"envs", "image: x\nenvs: [A=1, B=, C=a=b]\n", field(func(s sandbox.Spec) any { return env(s) }), []string{"A=1", "B=", "C=a=b"}, ""},
		{"env without =", "image: x\nenvs: [A]\n", nil, nil, "Sandboxfile:4:12: invalid environment variable pair: A"},
		{"env without name", "image: x\nenvs: [\"=1\"]\n", nil, nil, "invalid environment variable pair: =1"},
		{"env_file", "image: x\nenv_file: .env\nenvs: [B=over]\n", field(func(s sandbox.Spec) any { return env(s) }), []string{"C=x\ny", "D=4", "A=5", "B=over"}, ""},
		{"env_file missing", "image: x\nenv_file: none\n", nil, nil, "Sandboxfile:4:15: there is no file none"},
		{"env_file bad", "image: x\nenv_file: bad.env\n", nil, nil, "bad.env:2: invalid environment variable pair: nonsense"},

		{"scope default", "image: x\n", policy, "public", ""},
		{"scope public", "image: x\nscope: public\n", policy, "public", ""},
		{"scope none", "image: x\nscope: none\nports: [80]\n", policy, "deny deny", ""},
		{"scope none has no ports", "image: x\nscope: none\nports: [80]\n", field(func(s sandbox.Spec) any { return len(s.Network.Ports) }), 0, ""},
		{"scope any", "image: x\nscope: any\n", policy, "allow allow", ""},
		{"scope group", "image: x\nscope: group\n", policy, "deny allow", ""},
		{"scope group has ports", "image: x\nscope: group\nports: [8080]\n", field(func(s sandbox.Spec) any { return s.WithDefaults().Validate() == nil }), true, ""},
		{"scope in capitals", "image: x\nscope: Any\n", nil, nil, "Sandboxfile:4:12: invalid network scope: Any"},
		{"scope local", "image: x\nscope: local\n", nil, nil, "invalid network scope: local"},
		{"network.scope", "image: x\nnetwork: {scope: none}\n", policy, "deny deny", ""},
		{"network, a word", "image: x\nnetwork: open\n", policy, "allow allow", ""},
		{"network none", "image: x\nnetwork: none\n", policy, "deny deny", ""},
		{"network allow", "image: x\nnetwork: {allow: [\"example.com:tcp:443\"]}\n", policy, "deny allow", ""},
		{"network and scope", "image: x\nscope: any\nnetwork: none\n", nil, nil, "exclude each other"},
		{"network of another word", "image: x\nnetwork: closed\n", nil, nil, "Sandboxfile:4:14: sandboxes.web.network: want none, public, open"},
		{"network ports", "image: x\nports: [1]\nnetwork: {ports: [\"53:53/udp\"]}\n", field(func(s sandbox.Spec) any { return ports(s) }), []string{"127.0.0.1:1->1/tcp", "127.0.0.1:53->53/udp"}, ""},

		{"image's own command", "image: x\n", field(func(s sandbox.Spec) any { return len(s.Runtime.Entrypoint) }), 0, ""},
		{"command", "image: x\ncommand: [a, b]\n", field(func(s sandbox.Spec) any { return s.Runtime.Entrypoint }), []string{"a", "b"}, ""},
		{"start before command", "image: x\ncommand: [a]\nscripts: {start: run}\n", field(func(s sandbox.Spec) any { return s.Runtime.Entrypoint }), []string{"/.msb/scripts/start"}, ""},
		{"exec before start", "image: x\nexec: do it\nscripts: {start: run}\n", field(func(s sandbox.Spec) any { return s.Runtime.Entrypoint }), []string{"/bin/sh", "-c", "do it"}, ""},
		{"script", "image: x\nshell: /bin/bash\nscripts: {a: echo}\n", field(func(s sandbox.Spec) any { return s.Runtime.Scripts["a"] }), "#!/bin/bash\necho\n", ""},
		{"script with its own shebang", "image: x\nscripts:\n  a: |\n    #!/usr/bin/python3\n    1\n", field(func(s sandbox.Spec) any { return s.Runtime.Scripts["a"] }), "#!/usr/bin/python3\n1\n", ""},
		{"script name", "image: x\nscripts: {../a: echo}\n", nil, nil, "is not a file name"},
		{"scripts are where they were", "image: x\n", field(func(s sandbox.Spec) any { return s.Patches[1].Link + " " + s.Patches[1].Target }), "/.sandbox/scripts /.msb/scripts", ""},
		{"restart", "image: x\ncommand: [a]\nrestart: on-failure\n", field(func(s sandbox.Spec) any { return s.Runtime.Entrypoint }), []string{"/.msb/scripts/restart-on-failure", "a"}, ""},
		{"restart no", "image: x\ncommand: [a]\nrestart: no\n", field(func(s sandbox.Spec) any { return s.Runtime.Entrypoint }), []string{"a"}, ""},
		{"restart always", "image: x\nrestart: always\n", nil, nil, "want no or on-failure"},

		{"labels", "image: x\nlabels: {a: 1}\n", field(func(s sandbox.Spec) any { return s.Labels }), map[string]string{"a": "1"}, ""},
		{"labels of ours", "image: x\nlabels: {dev.microsandbox.project: x}\n", nil, nil, "is reserved"},
		{"user", "image: x\nuser: 1000\n", field(func(s sandbox.Spec) any { return s.Runtime.User }), "1000", ""},
		{"idle_timeout", "image: x\nidle_timeout: 5m\n", field(func(s sandbox.Spec) any { return *s.Lifecycle.IdleTimeoutSecs }), 300, ""},
		{"idle_timeout bad", "image: x\nidle_timeout: soon\n", nil, nil, "Sandboxfile:4:19: sandboxes.web.idle_timeout: want a duration"},
		{"secret", "image: x\nsecrets: {K: {allow: [a.example.com]}}\n", field(func(s sandbox.Spec) any { return s.Network.Secrets.Secrets[0].Source.Var }), "K", ""},
		{"secret with its value", "image: x\nsecrets: {K: {value: v, allow: [a.example.com]}}\n", nil, nil, "does not belong in this file"},
		{"healthcheck without test", "image: x\nhealthcheck: {interval: 1s}\n", nil, nil, "no test"},

		{"merge key", "image: x\n<<: {memory: 5}\n", field(func(s sandbox.Spec) any { return s.Resources.MemoryMiB }), 1024, ""},
		{"twice", "image: x\nimage: y\n", nil, nil, `Sandboxfile:4:5: sandboxes.web: the key "image" is there twice: first in line 3`},
		{"text of a word", "image: yes\nworkdir: no\n", field(func(s sandbox.Spec) any { return s.Image.OCI.Reference + s.Runtime.Workdir }), "yesno", ""},
		{"tag", "image: !!str 1\n", field(func(s sandbox.Spec) any { return s.Image.OCI.Reference }), "1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, err := entry(t, c.body)
			var spec sandbox.Spec
			if err == nil {
				spec, err = s.Spec("web", Rules{Dir: dir})
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("the error is %v, want %s", err, c.err)
				}
				if sandbox.KindOf(err) != sandbox.InvalidConfig {
					t.Errorf("its kind is %v", sandbox.KindOf(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.get(spec); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestFile is about the rules for a whole file.
func TestFile(t *testing.T) {
	for _, c := range []struct{ name, text, warning, err string }{
		{"empty", "", "", ""},
		{"a comment", "# nothing\n", "", ""},
		{"sandboxes empty", Empty, "", ""},
		{"sandboxes null", "sandboxes: null\n", "", "Sandboxfile:1:12: sandboxes: want keys and values, not null"},
		{"sandboxes ~", "sandboxes: ~\n", "", "want keys and values, not ~"},
		{"sandboxes a list", "sandboxes: [a]\n", "", "want keys and values, not a list"},
		{"not a map", "hello\n", "", "want keys and values, not hello"},
		{"unknown key", "sandboxs:\n  a: 1\n", `Sandboxfile:1:1: the file has no key "sandboxs" (did you mean "sandboxes"?): it is ignored`, ""},
		{"unknown key of a sandbox", "sandboxes:\n  a:\n    image: x\n    memroy: 5\n", `Sandboxfile:4:5: sandboxes.a has no key "memroy" (did you mean "memory"?): it is ignored`, ""},
		{"nothing near", "sandboxes:\n  a:\n    zzzzzzz: 5\n", `Sandboxfile:3:5: sandboxes.a has no key "zzzzzzz": it is ignored`, ""},
		{"keys for notes", "x-base: &b {image: x}\nsandboxes:\n  a: *b\n", "", ""},
		{"meta", "meta:\n  authors: [a, b]\n  tags:\n  description: x\n", "", ""},
		{"meta null", "meta: null\n", "", ""},
		{"modules", "modules:\n  ./a:\n    web: {as: w}\n    db:\n", "", ""},
		{"groups", "groups:\n  g: {version: 1.0.0, network: {subnet: 10.0.0.0/24}, volumes: {a: /b}}\n", "", ""},
		{"builds with a list", "builds:\n  a: {image: x, steps: [echo]}\n", "", ""},
		{"builds with a map", "builds:\n  a:\n    image: x\n    steps: {one: echo}\n", "", ""},
		{"two documents", "sandboxes:\n---\nsandboxes:\n", "", "Sandboxfile:2:1: there is a second document"},
		{"no YAML", "sandboxes: [\n", "", "Sandboxfile:"},
		{"tabs", "sandboxes:\n\ta: 1\n", "", "Sandboxfile:2:1: "},
		{"large", strings.Repeat("#", maxFile+1), "", "larger than 1 MiB"},
		{"a bomb", "x-a: &a [1,1,1,1,1,1,1,1,1]\nx-b: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nsandboxes:\n  a: {image: x, ports: *b}\n", "", "want a text, not a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("Sandboxfile", []byte(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("the error is %v, want %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(f.Warnings, "\n"); got != c.warning {
				t.Errorf("warned %q, want %q", got, c.warning)
			}
		})
	}
}

// TestSteps: a map's steps are run in the order in which they are written.
func TestSteps(t *testing.T) {
	f, err := Parse("f", []byte("builds:\n  a:\n    image: x\n    steps: {z: one, a: two, m: three}\n  b:\n    image: x\n    steps: [p, q]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Builds["a"].Steps, (Steps{{"z", "one"}, {"a", "two"}, {"m", "three"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := f.Builds["b"].Steps, (Steps{{"", "p"}, {"", "q"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestEditing: everything else in the file stays as it was.
func TestEditing(t *testing.T) {
	const before = `# A project
meta: {tags: [a]}   # one line

sandboxes:
  # the web
  web:
    image: python   # of today
    ports: [80]

  # the database
  db:
    image: postgres

builds: # none yet
`
	path := filepath.Join(t.TempDir(), Name)
	if err := os.WriteFile(path, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, []string{"web"}, Sandbox{Image: "x"}); sandbox.KindOf(err) != sandbox.AlreadyExists ||
		!strings.Contains(err.Error(), "configuration validation error: Sandbox with name 'web' already exists") {
		t.Errorf("adding what is there: %v", err)
	}
	if err := Add(path, []string{"job"}, Sandbox{Image: "node", Shell: "/bin/sh"}); err != nil {
		t.Fatal(err)
	}
	dropped, err := Drop(path, []string{"web", "none"})
	if err != nil || !reflect.DeepEqual(dropped, []string{"web"}) {
		t.Fatalf("dropped %v, %v", dropped, err)
	}
	const after = `# A project
meta: {tags: [a]}   # one line

sandboxes:

  # the database
  db:
    image: postgres
  job:
    image: node
    shell: /bin/sh

builds: # none yet
`
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != after {
		t.Errorf("the file is\n%s\nwant\n%s", got, after)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestConfined: what a server's client writes reaches neither its secrets nor its files.
func TestConfined(t *testing.T) {
	dir := t.TempDir()
	for body, want := range map[string]string{
		"image: x\nsecrets: {HOME: {allow: [evil.example.com]}}\n": "no secrets",
		"image: x\nenv_file: /etc/passwd\n":                        "does not let",
		"image: x\nnetwork: {ports: [\"0.0.0.0:8080:80\"]}\n":      "not for sandboxes",
		"image: x\nnetwork: {ports: [\"80:80\"]}\n":                "not for sandboxes",
		"image: x\nports: [80]\n":                                  "from 1024",
		"image: x\nvolumes: [/etc:/x]\n":                           "does not let",
	} {
		s, _, err := entry(t, body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Spec("web", Rules{Dir: dir, Confined: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", body, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{Empty, "sandboxes:\n  a: {image: x, ports: [8080:80], envs: [A=1], scripts: {start: echo}, network: none}\n",
		"x: &a [*a]\n", "builds:\n  a: {image: x, steps: {b: c}}\n", "sandboxes: {a: &b {image: c, healthcheck: {test: [a]}}, d: *b}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if err != nil {
			if sandbox.KindOf(err) != sandbox.InvalidConfig {
				t.Fatalf("the kind of %v is %v", err, sandbox.KindOf(err))
			}
			return
		}
		for name, s := range file.Sandboxes {
			_, _ = s.Spec(name, Rules{Dir: "/nowhere", Confined: true})
		}
	})
}
