package project

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func open(t *testing.T, text string) *Project {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "My Shop")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Sandboxfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Open(dir, "default")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNames(t *testing.T) {
	if p := open(t, ""); p.Name != "my-shop" || p.Ref("web").Name != "my-shop-web" || p.BuildRef("a_B") != "localhost/my-shop/a-b:latest" {
		t.Errorf("%s, %s, %s", p.Name, p.Ref("web").Name, p.BuildRef("a_B"))
	}
	if p := open(t, "name: X\n"); p.Name != "x" {
		t.Errorf("named %s", p.Name)
	}
	if _, err := Open(t.TempDir(), "default"); sandbox.KindOf(err) != sandbox.InvalidArgument || !strings.Contains(sandbox.HintOf(err), "msb init") {
		t.Errorf("no file: %v", err)
	}
}

func TestOrder(t *testing.T) {
	p := open(t, "sandboxes:\n  a: {image: x, depends_on: [b, c]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x}\n  d: {image: x, depends_on: [e]}\n  e: {image: x, depends_on: [d]}\n  f: {image: x, depends_on: [g]}\n")
	if got, err := p.Order([]string{"a"}); err != nil || !reflect.DeepEqual(got, []string{"c", "b", "a"}) {
		t.Errorf("%v, %v", got, err)
	}
	for name, want := range map[string]string{"d": "Sandboxfile:6:29: depends_on goes in a circle: d → e → d", "f": `Sandboxfile:7:29: f depends on "g", which is not there`, "x": `has no sandbox "x"`} {
		if _, err := p.Order([]string{name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// TestBuildHost: the image of this machine is not copied into another.
func TestBuildHost(t *testing.T) {
	p := open(t, "builds:\n  b: {image: host, steps: [one]}\n")
	if _, err := p.buildSpec("b", p.File.Builds["b"]); sandbox.KindOf(err) != sandbox.InvalidConfig || !strings.Contains(err.Error(), "nothing is built upon the image host") {
		t.Errorf("the error is %v", err)
	}
}

// TestHash: what changes a sandbox changes its hash, and nothing else does.
func TestHash(t *testing.T) {
	const file = "builds:\n  b: {image: y, steps: [one]}\nsandboxes:\n  a: {image: x, envs: [A=1], depends_on: [c]}\n  c: {image: b, ports: [5432]}\n"
	dir := t.TempDir()
	hashes := func(text string) map[string]string {
		if err := os.WriteFile(filepath.Join(dir, "Sandboxfile"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Open(dir, "default")
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, name := range []string{"a", "c"} {
			spec, err := p.Spec(name)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = spec.Labels[HashLabel]
		}
		return all
	}
	before := hashes(file)
	for _, c := range []struct {
		old, new string
		a, c     bool // changed
	}{
		{"A=1", "A=2", true, false},
		{"builds:", "# a comment\nbuilds:", false, false},
		{"steps: [one]", "steps: [two]", false, true},
		{"5432", "5433", true, true}, // a may reach it
		{"image: x", "meta: {description: z}, image: x", false, false},
	} {
		after := hashes(strings.Replace(file, c.old, c.new, 1))
		if (after["a"] != before["a"]) != c.a || (after["c"] != before["c"]) != c.c {
			t.Errorf("%q for %q: before %v, after %v", c.new, c.old, before, after)
		}
	}
}

// TestEach: each after what comes before it, and nothing after what failed.
func TestEach(t *testing.T) {
	var mu sync.Mutex
	var done []string
	steps := []Step{{Name: "z", After: []string{"y"}}, {Name: "y", After: []string{"x"}}, {Name: "x"}, {Name: "after", After: []string{"bad"}}, {Name: "bad"}}
	err := (&Project{}).each(steps, func(s Step) []string { return s.After }, func(s Step) error {
		mu.Lock()
		defer mu.Unlock()
		done = append(done, s.Name)
		if s.Name == "bad" {
			return errors.New("no")
		}
		return nil
	})
	order := strings.Join(done, " ")
	if strings.Index(order, "x") > strings.Index(order, "y") || strings.Index(order, "y") > strings.Index(order, "z") || strings.Contains(order, "after") || len(done) != 4 {
		t.Errorf("done %s", order)
	}
	var failed *Failed
	if !errors.As(err, &failed) || len(failed.Errs) != 2 || !errors.Is(failed.Errs[0], ErrLeftOut) {
		t.Errorf("the error is %v", err)
	}
}
