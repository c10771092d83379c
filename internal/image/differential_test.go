package image

import (
	"archive/tar"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// changed is an image over another: what layers can do to layers below them.
func changed(t testing.TB) v1.Image {
	t.Helper()
	h := func(typ byte, name, link string, mode int64, uid int) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: link, Mode: mode, Uid: uid, Gid: uid + 1,
			ModTime: time.Unix(1_600_000_000, 123_456_789), Format: tar.FormatPAX}}
	}
	file := func(name, body string) testimage.Entry {
		e := h(tar.TypeReg, name, "", 0o640, 7)
		e.Body = body
		return e
	}
	dev := func(typ byte, name string, major, minor int64) testimage.Entry {
		e := h(typ, name, "", 0o660, 0)
		e.Devmajor, e.Devminor = major, minor
		return e
	}
	long := strings.Repeat("long-", 40)
	lower := testimage.Tar(t,
		h(tar.TypeDir, "./", "", 0o755, 0), h(tar.TypeDir, "a/", "", 0o711, 3), file("a/one", "1"), file("a/two", "22"),
		h(tar.TypeLink, "a/two-too", "a/two", 0, 0), h(tar.TypeDir, "gone/", "", 0o755, 0), file("gone/x", "x"), file("gone/y", "y"),
		h(tar.TypeDir, "opaque/", "", 0o700, 0), file("opaque/old", "old"), file("opaque/both", "old"), h(tar.TypeDir, "opaque/sub/", "", 0o755, 0),
		file("opaque/sub/z", "z"), file("file-to-dir", "f"), h(tar.TypeDir, "dir-to-file/", "", 0o755, 0), file("dir-to-file/in", "in"),
		h(tar.TypeSymlink, "link-to-dir", "a", 0o777, 0), h(tar.TypeDir, "sticky/", "", 0o1777, 0), h(tar.TypeReg, "setuid", "", 0o4755, 0),
		h(tar.TypeReg, "setgid", "", 0o2755, 0), dev(tar.TypeChar, "char", 1, 3), dev(tar.TypeBlock, "block", 259, 70_000),
		h(tar.TypeFifo, "pipe", "", 0o600, 9), file(long+"/"+long+"/name", "long"), h(tar.TypeSymlink, "long-link", strings.Repeat("t/", 300)+"end", 0o777, 0),
		file("implied/by/path", "p"), file("linked-later", "to be linked by the layer above"), h(tar.TypeLink, "replaced-link", "a/one", 0, 0),
		file("big", strings.Repeat("0123456789abcdef", 300_000)), file("hole", strings.Repeat("\x00", 1<<20)+"end"), file("empty", ""))
	upper := testimage.Tar(t,
		file(".wh.gone", ""), file("a/.wh.one", ""), file("opaque/.wh..wh..opq", ""), file("opaque/new", "new"), file("opaque/both", "new"),
		h(tar.TypeDir, "file-to-dir/", "", 0o750, 1), file("file-to-dir/now", "n"), file("dir-to-file", "was a directory"),
		file("link-to-dir/in", "the link is a directory now"), h(tar.TypeDir, "a/", "", 0o700, 5), file("a/three", "3"),
		h(tar.TypeLink, "linked-now", "linked-later", 0, 0), file("implied/by/other", "o"), file("replaced-link", "of its own"),
		// A whiteout is about the layers below, wherever it stands.
		file("again", "1"), file(".wh.again", ""), file(".wh.nothing-there", ""), file("x/y/.wh.z", ""), file(".wh..wh.plnk", ""))
	third := testimage.Tar(t, file("gone/back", "b"), h(tar.TypeLink, "a/linked", "./a/three", 0, 0), file("a/.wh.two", ""))
	return testimage.Image(t, v1.Config{}, testimage.Layer(t, lower, testimage.Gzip), testimage.Layer(t, upper, testimage.Zstd),
		testimage.Layer(t, third, testimage.Plain))
}

// TestDifferential converts images and compares every file with what applying their tars in order gives.
func TestDifferential(t *testing.T) {
	images := map[string]func(testing.TB) v1.Image{"changed": changed, "busybox": testimage.Busybox}
	if !testing.Short() {
		images["python"], images["node"] = testimage.Python, testimage.Node
		images["debian"] = func(t testing.TB) v1.Image { return testimage.Debian(t, "debian", v1.Config{}) }
	}
	for name, make := range images {
		t.Run(name, func(t *testing.T) {
			img := make(t)
			reg := testimage.Serve(t, testimage.Options{})
			root := mustPull(t, Open(t.TempDir(), Options{}), reg.Push(t, name, img), PullOptions{})
			same(t, name, ofImage(t, root.Path), modelOf(t, img).shown())
		})
	}
}
