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
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// convertBytes converts one layer that no digest is known of.
func convertBytes(t *testing.T, s *Store, packed []byte) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	src := source{descriptor: descriptor{Size: int64(len(packed))}, open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed)), nil
	}}
	f, _, err := s.convert(context.Background(), path, []source{src}, false, func(Phase, int, int64) {})
	if err == nil {
		f.Close()
	}
	return path, err
}

func TestRatio(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks a gigabyte")
	}
	const size = 1200 << 20
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size})
	if err == nil {
		_, err = io.CopyN(w, zeroReader{}, size)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	path, err := convertBytes(t, Open(t.TempDir(), Options{Limits: Limits{Ratio: 100}}), b.Bytes())
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d bytes for %d: %v", size, b.Len(), err)
	}
	if info, err := os.Stat(path); err == nil && allocated(info) > 1<<20 {
		t.Errorf("the zeros took %d bytes of the disk", allocated(info))
	}
	if _, err := convertBytes(t, Open(t.TempDir(), Options{Limits: Limits{Ratio: 2000}}), b.Bytes()); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
}

func TestWindow(t *testing.T) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(2*maxWindow))
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(testimage.Tar(t, noise("x", 5000)))
	if err := errors.Join(err, z.Flush(), z.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := convertBytes(t, Open(t.TempDir(), Options{}), b.Bytes()); !errors.Is(err, ErrFormat) {
		t.Errorf("a window of %d bytes: %v", 2*maxWindow, err)
	}
}
