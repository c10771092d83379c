package sandboxfile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func number[T uint8 | uint32](n T) *T { return &n }

func TestUpdate(t *testing.T) {
	entry := Sandbox{Image: "python", Memory: number[uint32](512), Envs: []string{"A=1"}}
	const written = "    image: python\n    memory: 512\n    envs:\n      - A=1\n"
	for _, c := range []struct{ name, before, after string }{
		{"nothing", "", Empty + "  a:\n" + written},
		{"the text of init", Empty, Empty + "  a:\n" + written},
		{"an empty mapping", "sandboxes: {} # none\nmeta:\n  tags: [x]\n", "sandboxes: # none\n  a:\n" + written + "meta:\n  tags: [x]\n"},
		{"no such key", "meta: # about\n  tags: [x]\n", "meta: # about\n  tags: [x]\nsandboxes:\n  a:\n" + written},
		{"another entry", "sandboxes:\n  b: # of b\n    image:   \"x\"   # odd\n\n# end\n", "sandboxes:\n  b: # of b\n    image:   \"x\"   # odd\n  a:\n" + written + "\n# end\n"},
		{"the entry", "sandboxes:\n  # about a\n  a: # its line\n    # the image\n    image: old # why\n    cpus: 2\n    envs:\n      - A=1 # one\n      - B=2\n\n  # about b\n  b:\n    image: x\n",
			"sandboxes:\n  # about a\n  a: # its line\n    # the image\n    image: python # why\n    memory: 512\n    envs:\n      - A=1 # one\n\n  # about b\n  b:\n    image: x\n"},
		{"the entry, four to the right", "sandboxes:\n    a:\n        image: old\n    b:\n        image: x\n", "sandboxes:\n    a:\n      image: python\n      memory: 512\n      envs:\n        - A=1\n    b:\n        image: x\n"},
		{"no newline at the end", "sandboxes:\n  b:\n    image: x", "sandboxes:\n  b:\n    image: x\n  a:\n" + written},
		{"keys of nobody's", "x: [1,  2]\nsandboxes:\n  a:\n    image: old\n    colour: red\ny: {z: 1}\n", "x: [1,  2]\nsandboxes:\n  a:\n" + written + "y: {z: 1}\n"},
		{"in one line", "sandboxes: {b: {image: x}}\n", "sandboxes:\n  b: {image: x}\n  a:\n" + written},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.before != "" {
				if err := os.WriteFile(Path(dir), []byte(c.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time nothing changes
				if err := Update(dir, "a", entry); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(Path(dir))
				if err != nil || string(got) != c.after {
					t.Errorf("it is now\n%s\nwant\n%s", got, c.after)
				}
			}
			f, err := Load(Path(dir))
			if err != nil || !f.Sandboxes["a"].Equal(entry) {
				t.Errorf("it says %+v, %v", f, err)
			}
			if st, err := os.Stat(Path(dir)); c.before != "" && (err != nil || st.Mode().Perm() != 0o600) {
				t.Errorf("its mode is %v, %v", st.Mode(), err)
			}
		})
	}
}

func TestUpdateAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			if err := Update(dir, fmt.Sprintf("s%d", i), Sandbox{Image: fmt.Sprintf("i%d", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	f, err := Load(Path(dir))
	if err != nil || len(f.Sandboxes) != 50 {
		t.Fatalf("%d sandboxes, %v", len(f.Sandboxes), err)
	}
}

func TestParse(t *testing.T) {
	f, err := Parse("Sandboxfile", []byte("meta:\n  authors: [a]\nbuilds:\n  b:\n    image: x\n    steps: {one: ls}\nunknown: 1\nsandboxes:\n  a:\n    image: python:3\n    memory: 512\n    ports:\n      - 8080\n      - 8081:80\n    scripts:\n      start: |\n        echo hi\n    odd: key\n    scope: none\n  b:\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := f.Sandboxes["a"]
	if a.Image != "python:3" || *a.Memory != 512 || a.CPUs != nil || !slices.Equal(a.Ports, []string{"8080", "8081:80"}) || a.Scripts["start"] != "echo hi\n" || a.Scope != "none" {
		t.Errorf("a is %+v", a)
	}
	for text, want := range map[string]string{
		"sandboxes:\n  a:\n    memory: \"512\"\n":             "Sandboxfile:3:",
		"sandboxes:\n  a:\n    cpus: 300\n":                   "Sandboxfile:3:",
		"sandboxes: [a]\n":                                    "Sandboxfile:1:",
		"sandboxes:\n\t- a\n":                                 "Sandboxfile:2:",
		"a: &a [*a]\nsandboxes:\n  x:\n    image: [" + "b]\n": "Sandboxfile:4:",
	} {
		if _, err := Parse("Sandboxfile", []byte(text)); sandbox.KindOf(err) != sandbox.InvalidConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if f, err := Parse("Sandboxfile", nil); err != nil || len(f.Sandboxes) != 0 {
		t.Errorf("nothing: %+v, %v", f, err)
	}
}

func TestSpec(t *testing.T) {
	root := t.TempDir()
	inside := filepath.Join(root, "data")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	confined := Rules{Dir: root, Confined: true, Roots: []string{root}}
	s := Sandbox{Image: "python", Volumes: []string{inside + ":/d", "cache:/cache", inside + ":/r:ro"}, Ports: []string{"8080:80", "9000", "5000:4444"}, Envs: []string{"A=b=c"},
		Scripts: map[string]string{"start": "echo hi", "own": "#!/bin/x\n"}, Shell: "/bin/bash"}
	spec, err := s.Spec("a", confined)
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Mounts) != 3 || spec.Mounts[0].Type != sandbox.MountBind || spec.Mounts[0].Host != inside || spec.Mounts[1].Type != sandbox.MountNamed || !spec.Mounts[2].Options.ReadOnly {
		t.Errorf("mounts %+v", spec.Mounts)
	}
	if len(spec.Network.Ports) != 2 || spec.Network.Ports[1].GuestPort != 9000 || spec.Resources.MemoryMiB != 1024 || spec.Env[0].Value != "b=c" {
		t.Errorf("spec %+v", spec)
	}
	if spec.Runtime.Scripts["start"] != "#!/bin/bash\necho hi\n" || spec.Runtime.Scripts["own"] != "#!/bin/x\n" || !slices.Equal(spec.Runtime.Entrypoint, []string{"/.msb/scripts/start"}) {
		t.Errorf("scripts %+v, command %v", spec.Runtime.Scripts, spec.Runtime.Entrypoint)
	}
	if err := spec.WithDefaults().Validate(); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]Sandbox{
		"no image":             {},
		"a directory outside":  {Image: "/etc"},
		"a volume outside":     {Image: "x", Volumes: []string{"/etc:/e"}},
		"a volume by a link":   {Image: "x", Volumes: []string{"./link:/e"}},
		"a volume through it":  {Image: "x", Volumes: []string{"./link/ssl:/e"}},
		"a volume above":       {Image: "x", Volumes: []string{"../:/e"}},
		"a volume not there":   {Image: "x", Volumes: []string{"/no/such:/e"}},
		"half a volume":        {Image: "x", Volumes: []string{":/e"}},
		"a port of the system": {Image: "x", Ports: []string{"80:80"}},
		"half a port":          {Image: "x", Ports: []string{"8080:"}},
		"no port":              {Image: "x", Ports: []string{"web"}},
		"no variable":          {Image: "x", Envs: []string{"A"}},
		"a script elsewhere":   {Image: "x", Scripts: map[string]string{"../x": ""}},
		"a script of dots":     {Image: "x", Scripts: map[string]string{"..": ""}},
		"no memory":            {Image: "x", Memory: number[uint32](0)},
		"an odd scope":         {Image: "x", Scope: "local"},
	} {
		if _, err := bad.Spec("a", confined); sandbox.KindOf(err) != sandbox.InvalidConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
	if spec, err := (Sandbox{Image: "./data", Ports: []string{"80"}}).Spec("a", Rules{Dir: root}); err != nil || spec.Image.Bind.Path != inside {
		t.Errorf("not confined: %+v, %v", spec.Image, err)
	}
}

// FuzzUpdate edits all sorts of files: what comes out can be read, and edited again without a change.
func FuzzUpdate(f *testing.F) {
	for _, seed := range []string{"", Empty, "sandboxes: {}\n", "sandboxes: {b: {image: x}}\n", "# c\nsandboxes:\n  # d\n  a: # e\n    image: x\n  b:\n    image: y\nx: 1\n",
		"sandboxes: &s\n  a: &a {image: x}\n  b: *a\n", "---\nsandboxes:\n  \"a\":\n    image: x\n...\n", "{sandboxes: {a: {image: x}}, y: 1}", "sandboxes: # none\nb: 1\n", "sandboxes:\r\n  a:\r\n    image: x\r\n"} {
		f.Add(seed)
	}
	entry := Sandbox{Image: "new", Envs: []string{"A=1"}}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := edit("f", []byte(text), "a", entry)
		if err != nil {
			if sandbox.KindOf(err) != sandbox.InvalidConfig {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if _, err := edit("f", once, "a", entry); err != nil {
			t.Fatalf("%v\nbefore:\n%s\nafter:\n%s", err, text, once)
		}
		_, _ = Sandbox{Image: text, Volumes: []string{text}, Ports: []string{text}}.Spec("a", Rules{Dir: "/", Confined: true})
	})
}
