package testimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Entry is one entry of a layer's tar. Zero fields get the obvious value: a regular file, 0644 or 0755, of root.
type Entry struct {
	tar.Header
	Body string
}

// Compression is how the bytes of a layer are packed.
type Compression string

// The compressions.
const (
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Plain Compression = "plain"
)

// date is the time of entries that say none, so that an image has the same digest whenever it is built.
var date = time.Unix(1_700_000_000, 0)

// Tar returns the entries as a tar.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := writeEntry(w, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeEntry(w *tar.Writer, e Entry) error {
	h := e.Header
	if h.Typeflag == 0 {
		if h.Typeflag = tar.TypeReg; strings.HasSuffix(h.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
	}
	if h.Mode == 0 {
		if h.Mode = 0o644; h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if h.ModTime.IsZero() {
		h.ModTime = date
	}
	if h.Typeflag == tar.TypeReg {
		h.Size = int64(len(e.Body))
	}
	if err := w.WriteHeader(&h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	_, err := io.WriteString(w, e.Body)
	if h.Typeflag != tar.TypeReg {
		err = nil
	}
	return err
}

// Layer packs a tar.
func Layer(t testing.TB, tarball []byte, c Compression) v1.Layer {
	t.Helper()
	l, err := layer(tarball, c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func layer(tarball []byte, c Compression) (v1.Layer, error) {
	var b bytes.Buffer
	switch c {
	case Gzip:
		z := gzip.NewWriter(&b)
		_, err := z.Write(tarball)
		if err := errors.Join(err, z.Close()); err != nil {
			return nil, err
		}
	case Zstd:
		z, err := zstd.NewWriter(&b)
		if err == nil {
			_, err = z.Write(tarball)
			err = errors.Join(err, z.Close())
		}
		if err != nil {
			return nil, err
		}
	default:
		b.Write(tarball)
	}
	return &packed{static.NewLayer(b.Bytes(), mediaTypes[c]), tarball}, nil
}

var mediaTypes = map[Compression]types.MediaType{Gzip: types.OCILayer, Zstd: types.OCILayerZStd, Plain: types.OCIUncompressedLayer}

// packed is a layer whose diff id is that of the tar: a static one takes what it is given for the tar.
type packed struct {
	v1.Layer
	tarball []byte
}

func (p *packed) DiffID() (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(p.tarball))
	return h, err
}

func (p *packed) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(p.tarball)), nil
}

// Image puts layers, lowest first, and a configuration together.
func Image(t testing.TB, c v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := image(c, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func image(c v1.Config, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux", Created: v1.Time{Time: date}, Config: c,
		RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layers...)
}

// built returns the image that is kept under a name, and builds it when it is missing.
func built(t testing.TB, name string, build func() (v1.Image, error)) v1.Image {
	t.Helper()
	dir := cached(t, name, func(dir string) error {
		img, err := build()
		if err != nil {
			return err
		}
		p, err := layout.Write(dir, empty.Index)
		if err != nil {
			return err
		}
		return p.AppendImage(img)
	})
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("the cached image %s is damaged (%v): remove %s", name, err, dir)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// mergedDirs are links into usr on every Debian of today, while packages still put files at the old places.
var mergedDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// mergedUsr returns where the entry name of a package is on a Debian with a merged /usr.
func mergedUsr(name string) string {
	name = path.Clean("/" + name)[1:]
	for _, d := range mergedDirs {
		if name == d || strings.HasPrefix(name, d+"/") {
			return "usr/" + name
		}
	}
	return name
}

// unpack writes the files of packages to a tar, each path once, those of documentation left out.
func unpack(w *tar.Writer, debs []string, seen map[string]bool) error {
	for _, deb := range debs {
		cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		err = copyEntries(w, tar.NewReader(out), seen)
		_, _ = io.Copy(io.Discard, out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	return nil
}

func copyEntries(w *tar.Writer, r *tar.Reader, seen map[string]bool) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := mergedUsr(h.Name)
		doc := strings.HasPrefix(name, "usr/share/doc/") || strings.HasPrefix(name, "usr/share/man/") || strings.HasPrefix(name, "usr/share/locale/")
		if name == "" || seen[name] || doc && h.Typeflag != tar.TypeDir {
			continue
		}
		seen[name] = true
		if h.Name = name; h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = mergedUsr(h.Linkname)
		}
		h.Format = tar.FormatUnknown
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}
