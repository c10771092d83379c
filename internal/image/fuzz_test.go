package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+aDigest+`","size":2},"layers":[{"digest":"`+aDigest+`","size":1}]}`), []byte(`{"rootfs":{"diff_ids":["`+aDigest+`"]}}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+aDigest+`","platform":{"os":"linux","architecture":"amd64"}}]}`), []byte(`{}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+aDigest+`"}]}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, raw, config []byte) {
		m, err := parseManifest(raw)
		if err != nil {
			return
		}
		if m.isIndex() {
			if d, err := m.choose(platform{"linux", "amd64", ""}); err == nil && !isSHA256(d.Digest) {
				t.Errorf("chose %q", d.Digest)
			}
			return
		}
		c, err := parseConfig(config, m)
		if err != nil {
			return
		}
		if len(c.RootFS.DiffIDs) != len(m.Layers) {
			t.Error("the numbers of layers differ")
		}
		for _, d := range m.Layers {
			if !isSHA256(d.Digest) || d.Size < 0 {
				t.Errorf("layer %+v", d)
			}
		}
		c.root()
		if _, err := json.Marshal(m); err != nil {
			t.Error(err)
		}
	})
}

// small are limits that keep a fuzzer quick.
var small = Limits{Bytes: 1 << 20, Entries: 500, Metadata: 1 << 18, Ratio: 200}

// FuzzLayers converts two layers of any bytes: it must not fail in an unknown way, and what comes out must be readable.
func FuzzLayers(f *testing.F) {
	for _, img := range []v1.Image{changed(f), withXattrs(f)} {
		layers, err := img.Layers()
		if err != nil {
			f.Fatal(err)
		}
		var tars [][]byte
		for _, l := range layers {
			r, err := l.Uncompressed()
			if err != nil {
				f.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				f.Fatal(err)
			}
			tars = append(tars, b[:min(len(b), 20_000)])
		}
		f.Add(tars[0], tars[1])
		f.Add(tars[1], tars[0])
		f.Add(gzipped(f, tars[0], 6), tars[len(tars)-1])
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, a, b []byte) {
		o := quick()
		o.Limits = small
		s := Open(dir, o)
		var sources []source
		for _, b := range [][]byte{a, b} {
			sources = append(sources, source{descriptor: descriptor{Size: int64(len(b))}, open: func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(b)), nil
			}})
		}
		out, facts, err := s.convert(context.Background(), filepath.Join(t.TempDir(), "image"), sources, false, func(Phase, int, int64) {})
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrUnsafe) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrTruncated) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		defer out.Close()
		there := map[string]bool{}
		if err := erofs.Walk(out, func(e *erofs.Entry) error {
			there[e.Path] = true
			if !e.Mode.IsRegular() {
				return nil
			}
			_, err := io.Copy(io.Discard, e.Open())
			return err
		}); err != nil {
			t.Errorf("the image cannot be read: %v", err)
		}
		for p := range facts.Xattrs {
			if !there[p] {
				t.Errorf("attributes of %q, which is not there", p)
			}
		}
		// Saved, it is a layer again, and the same.
		var b2 bytes.Buffer
		if err := writeLayer(context.Background(), &b2, out, facts.Xattrs); err != nil {
			t.Errorf("save: %v", err)
		}
		for tr := tar.NewReader(&b2); ; {
			if _, err := tr.Next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("the saved layer cannot be read: %v", err)
				break
			}
		}
	})
}

func FuzzLoad(f *testing.F) {
	s := Open(f.TempDir(), quick())
	reg := testimage.Serve(f, testimage.Options{})
	ref := reg.Push(f, "x", withXattrs(f))
	mustPull(f, s, ref, PullOptions{})
	f.Add(saved(f, s, Docker, ref))
	f.Add(saved(f, s, OCI, ref))
	f.Add(gzipped(f, saved(f, s, OCI, ref), 6))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, archive []byte) {
		o := quick()
		o.Limits = small
		s := Open(t.TempDir(), o)
		list, err := s.Load(context.Background(), bytes.NewReader(archive), LoadOptions{Tag: "x"})
		if err == nil {
			if _, err := s.Resolve("x"); err != nil || len(list) == 0 {
				t.Errorf("loaded %v, but: %v", list, err)
			}
			return
		}
		if k := sandbox.KindOf(err); k != sandbox.ImagePullFailed && k != sandbox.InvalidArgument {
			t.Errorf("kind %s: %v", k, err)
		}
		if left, _ := os.ReadDir(filepath.Join(s.dir, "tmp")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}

func gzipped(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
