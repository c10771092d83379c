package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// binaryFile writes a file that stands for an agent.
func binaryFile(t *testing.T, path, contents string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(contents), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustAgent(t *testing.T, home, bin string) string {
	t.Helper()
	path, err := AgentImage(home, bin)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAgentImage(t *testing.T) {
	home := filepath.Join(t.TempDir(), "new", "home")
	bin := binaryFile(t, filepath.Join(t.TempDir(), "msb-agent"), "#!/bin/true")
	path := mustAgent(t, home, bin)
	img := open(t, path)
	if got := content(img, "agent"); got != "#!/bin/true" {
		t.Errorf("/agent: %q", got)
	}
	for _, p := range []string{"agent", "scripts", "run", "tls"} {
		if info, err := fs.Stat(img, p); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("/%s: %v, %v", p, info, err)
		}
	}
	if info, err := os.Stat(home); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a new home: %v, %v; only its owner may look into it", info.Mode(), err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if again := mustAgent(t, home, bin); again != path {
		t.Errorf("second call: %s, first %s", again, path)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("the second call made the image again")
	}
}

func TestAgentImageFollowsTheBinary(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	bin := binaryFile(t, filepath.Join(dir, "msb-agent"), "one")
	first := mustAgent(t, home, bin)
	// The same size, and the same mtime: only ctime and inode tell.
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	next := binaryFile(t, filepath.Join(dir, "next"), "two")
	if err := os.Chtimes(next, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, bin); err != nil {
		t.Fatal(err)
	}
	second := mustAgent(t, home, bin)
	if first == second || content(open(t, second), "agent") != "two" {
		t.Error("a new binary was not noticed")
	}
}

func TestAgentImageSweep(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	var paths []string
	for i := range 7 {
		bin := binaryFile(t, filepath.Join(dir, "msb-agent"), string(rune('a'+i))+"gent")
		if err := os.Rename(bin, bin+string(rune('0'+i))); err != nil {
			t.Fatal(err)
		}
		p := mustAgent(t, home, bin+string(rune('0'+i)))
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
		if i == 4 {
			// The first is used again, and so is younger than the others.
			mustAgent(t, home, filepath.Join(dir, "msb-agent1"))
		}
	}
	var want []string
	for _, i := range []int{1, 4, 5, 6} {
		want = append(want, paths[i])
	}
	slices.Sort(want)
	got, _ := filepath.Glob(filepath.Join(home, "bin", "*"))
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want the last used %v", got, want)
	}
}

func TestAgentImageMissing(t *testing.T) {
	home := t.TempDir()
	for _, bin := range []string{filepath.Join(home, "none"), home} {
		_, err := AgentImage(home, bin)
		if !errors.Is(err, sandbox.LibraryNotLoaded) || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %v, want a missing library and a hint", bin, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(home, "bin", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
