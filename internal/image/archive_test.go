package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// withXattrs is an image with file capabilities.
func withXattrs(t testing.TB) v1.Image {
	t.Helper()
	e := testimage.Entry{Header: tar.Header{Name: "bin/ping", Mode: 0o755, PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, Body: "ping"}
	link := testimage.Entry{Header: tar.Header{Name: "bin/ping6", Typeflag: tar.TypeLink, Linkname: "bin/ping"}}
	raw := testimage.Entry{Header: tar.Header{Name: "bin/\xff\xfe-not-utf8", Format: tar.FormatGNU}, Body: "x"}
	c := v1.Config{Env: []string{"A=b"}, Entrypoint: []string{"/bin/ping"}, Cmd: []string{"-c1"}, User: "1000:7", WorkingDir: "/srv",
		Labels: map[string]string{"l": "v"}, StopSignal: "SIGINT"}
	return testimage.Image(t, c, testimage.Layer(t, testimage.Tar(t, e, link, raw), testimage.Gzip),
		testimage.Layer(t, testimage.Tar(t, testimage.Entry{Header: tar.Header{Name: "srv/"}}), testimage.Zstd))
}

// saved returns an archive with the images.
func saved(t testing.TB, s *Store, format Format, refs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(context.Background(), &b, refs, format); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSaveAndLoad(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	one := reg.Push(t, "a/xattrs:1", withXattrs(t))
	two := reg.Push(t, "changed", changed(t))
	for _, drop := range []bool{false, true} {
		s := Open(t.TempDir(), Options{DropBlobs: drop})
		rootOne, rootTwo := mustPull(t, s, one, PullOptions{}), mustPull(t, s, two, PullOptions{})
		if d, err := s.Inspect(one); err != nil || d.BlobsKept == drop || len(d.Xattrs["bin/ping"]["security.capability"]) != 20 {
			t.Errorf("inspect: %+v, %v", d, err)
		}
		for _, format := range []Format{Docker, OCI} {
			archive := saved(t, s, format, one, two)
			if again := saved(t, s, format, one, two); !bytes.Equal(archive, again) {
				t.Errorf("%s: saved twice, it is not the same", format)
			}
			file := filepath.Join(t.TempDir(), "archive.tar")
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			_, _ = z.Write(archive)
			_ = z.Close()
			if err := os.WriteFile(file, archive, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for how, r := range map[string]io.Reader{"file": f, "pipe": bytes.NewBuffer(archive), "gzip": &packed} {
				to := Open(t.TempDir(), Options{})
				list, err := to.Load(context.Background(), r, LoadOptions{Tag: "named:x"})
				if err != nil || len(list) != 3 {
					t.Fatalf("%s from a %s: %v, %v", format, how, list, err)
				}
				for ref, want := range map[string]*Root{one: rootOne, two: rootTwo, "named:x": rootOne} {
					got, err := to.Resolve(ref)
					if err != nil {
						t.Fatal(err)
					}
					same(t, string(format)+" "+ref, ofImage(t, got.Path), ofImage(t, want.Path))
					if !slices.Equal(got.Config.Entrypoint, want.Config.Entrypoint) || got.Config.User != want.Config.User || !slices.Equal(got.Config.Env, want.Config.Env) {
						t.Errorf("config %+v, want %+v", got.Config, want.Config)
					}
					if format == OCI && !drop && got.Digest != want.Digest {
						t.Errorf("%s: digest %s, want %s", ref, got.Digest, want.Digest)
					}
				}
				if d, err := to.Inspect(one); err != nil || len(d.Xattrs["bin/ping"]["security.capability"]) != 20 || d.StopSignal != "SIGINT" {
					t.Errorf("%s loaded: %+v, %v", format, d, err)
				}
				if left, _ := os.ReadDir(filepath.Join(to.dir, "tmp")); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
			if format == Docker {
				tag, _ := name.NewTag(two)
				img, err := tarball.ImageFromPath(file, &tag)
				if err != nil {
					t.Fatalf("another reader of docker-archives: %v", err)
				}
				same(t, "docker-archive", modelOf(t, img).shown(), ofImage(t, rootTwo.Path))
			}
		}
		if err := s.Save(context.Background(), io.Discard, []string{one, "no-such"}, Docker); !errors.Is(err, sandbox.ImageNotFound) {
			t.Errorf("saving what is not there: %v", err)
		}
	}
}

func TestLoadForeign(t *testing.T) {
	img := testimage.Busybox(t)
	file := filepath.Join(t.TempDir(), "docker.tar")
	tag, _ := name.NewTag("tools/busybox:9")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := Open(t.TempDir(), Options{})
	if _, err := s.Load(context.Background(), f, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	root, err := s.Resolve("tools/busybox:9")
	if err != nil {
		t.Fatal(err)
	}
	want := modelOf(t, img).shown()
	same(t, "docker-archive with compressed layers", ofImage(t, root.Path), want)

	// Loaded again, it is known.
	began := time.Now()
	if _, err := s.Load(context.Background(), f, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("known image loaded in", time.Since(began))

	dir := t.TempDir()
	p, err := layout.Write(dir, indexOf(t, img))
	if err != nil {
		t.Fatal(err, p)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := s.Load(context.Background(), bytes.NewReader(b.Bytes()), LoadOptions{}); !errors.Is(err, sandbox.InvalidArgument) || sandbox.HintOf(err) == "" {
		t.Errorf("a layout without a name: %v", err)
	}
	list, err := s.Load(context.Background(), &b, LoadOptions{Tag: "layout"})
	if err != nil || len(list) != 1 || list[0].Reference != "docker.io/library/layout:latest" {
		t.Fatal(list, err)
	}
	if root, err = s.Resolve("layout"); err != nil {
		t.Fatal(err)
	}
	same(t, "layout", ofImage(t, root.Path), want)
}

func TestLoadRefuses(t *testing.T) {
	good := func() []byte {
		s := Open(t.TempDir(), Options{})
		reg := testimage.Serve(t, testimage.Options{})
		ref := reg.Push(t, "x", withXattrs(t))
		mustPull(t, s, ref, PullOptions{})
		return saved(t, s, OCI, ref)
	}()
	entry := func(name, body string) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Name: name}, Body: body}
	}
	digest := "sha256:" + aDigest[7:]
	for what, archive := range map[string][]byte{
		"empty":             {},
		"no tar":            bytes.Repeat([]byte("no tar "), 1000),
		"cut":               good[:len(good)/2],
		"other tar":         testimage.Tar(t, entry("hello", "x")),
		"no JSON":           testimage.Tar(t, entry("manifest.json", "{")),
		"no image":          testimage.Tar(t, entry("manifest.json", "[]")),
		"config missing":    testimage.Tar(t, entry("manifest.json", `[{"Config":"../../etc/passwd","Layers":[]}]`)),
		"layers do not fit": testimage.Tar(t, entry("manifest.json", `[{"Config":"c","Layers":["a","b"]}]`), entry("c", `{}`)),
		"blob missing":      testimage.Tar(t, entry("index.json", `{"schemaVersion":2,"manifests":[{"digest":"`+digest+`","size":3}]}`)),
		"bad digest":        testimage.Tar(t, entry("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":3}]}`)),
		"wrong blob":        testimage.Tar(t, entry("index.json", `{"schemaVersion":2,"manifests":[{"digest":"`+digest+`","size":3}]}`), entry("blobs/sha256/"+digest[7:], "abc")),
		"circle":            testimage.Tar(t, entry("manifest.json", `[{"Config":"c","Layers":[]}]`), testimage.Entry{Header: tar.Header{Name: "c", Typeflag: tar.TypeSymlink, Linkname: "c"}}),
		"damaged gzip":      {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7},
	} {
		s := Open(t.TempDir(), Options{})
		list, err := s.Load(context.Background(), bytes.NewReader(archive), LoadOptions{Tag: "x"})
		if !errors.Is(err, sandbox.ImagePullFailed) {
			t.Errorf("%s: %v, %v", what, list, err)
		}
		if left := files(t, s); len(left) > 0 {
			t.Errorf("%s left %v", what, left)
		}
	}
	s := Open(t.TempDir(), Options{})
	if _, err := s.Load(context.Background(), bytes.NewReader(good), LoadOptions{Tag: "Bad Name"}); !errors.Is(err, sandbox.InvalidArgument) {
		t.Errorf("a bad name: %v", err)
	}
}
