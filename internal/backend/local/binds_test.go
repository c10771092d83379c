package local

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestCheckSources looks at paths with links: those of users are followed once, and what was resolved before has none.
func TestCheckSources(t *testing.T) {
	b := New(Config{Home: filepath.Join(t.TempDir(), "home")})
	defer b.Close()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(real, "in"), 0o755), os.WriteFile(filepath.Join(real, "file"), nil, 0o600), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	spec := func(at string) sandbox.Spec {
		return sandbox.Spec{Mounts: []sandbox.Mount{{Type: sandbox.MountBind, Host: at + "/in", Guest: "/m", FollowRootSymlinks: true}},
			Patches: []sandbox.Patch{{Type: sandbox.PatchCopyFile, Src: at + "/file", Dst: "/f"}}}
	}
	for _, resolved := range []bool{false, true} {
		s := spec(real)
		if err := b.checkSources(&s, resolved); err != nil || s.Mounts[0].Host != real+"/in" || s.Patches[0].Src != real+"/file" {
			t.Errorf("without links, resolved %t: %+v, %v", resolved, s, err)
		}
	}
	asked := spec(link)
	s := asked
	if err := b.checkSources(&s, false); err != nil || s.Mounts[0].Host != real+"/in" || s.Patches[0].Src != real+"/file" {
		t.Errorf("a user's link: %+v, %v", s, err)
	}
	if asked.Mounts[0].Host != link+"/in" {
		t.Error("the caller's spec has changed")
	}
	s = asked
	if err := b.checkSources(&s, true); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("a link above a mount that was resolved: %+v, %v", s, err)
	}
	s.Mounts[0].Host = link // itself a link, which the option would follow
	if err := b.checkSources(&s, true); !errors.Is(err, sandbox.InvalidConfig) {
		t.Errorf("a link in the place of a mount that was resolved: %+v, %v", s, err)
	}
}
