package transfer

import (
	"path"
	"strings"
	"testing"
)

// FuzzNameIn: whatever a guest says is in a directory is refused, or a file of that directory itself.
func FuzzNameIn(f *testing.F) {
	for _, p := range []string{"/a/b", "/a/..", "/a/../b", "/a/b/c", "/a/", "/a", "b", "", "/a/\x00", "/a/./b", "/a//b", "/a/.msb"} {
		f.Add("/a", p)
	}
	f.Add("/", "/a")
	f.Fuzz(func(t *testing.T, dir, p string) {
		name, err := nameIn(dir, p)
		if err != nil {
			return
		}
		root := "/destination"
		if at := path.Join(root, name); path.Dir(at) != root || strings.ContainsRune(at, 0) {
			t.Errorf("%q in %q becomes %q", p, dir, at)
		}
	})
}

// FuzzInside: a link that is taken stays below the destination, from whatever directory of it.
func FuzzInside(f *testing.F) {
	for _, target := range []string{"a", "..", "../a", "../../a", "a/../..", "/a", "", ".", "./..", "a/b"} {
		f.Add(target, 1)
	}
	f.Fuzz(func(t *testing.T, target string, depth int) {
		depth = min(max(depth, 0), MaxDepth)
		if !inside(target, depth) {
			return
		}
		at := "/destination" + strings.Repeat("/d", depth)
		if to := path.Join(at, target); to != "/destination" && !strings.HasPrefix(to, "/destination/") {
			t.Errorf("%q from %q leads to %q", target, at, to)
		}
	})
}
