package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
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

// TestDeviceFlood is about devices outside of /dev, each of which costs a start.
func TestDeviceFlood(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	flood := func(dir string) v1.Image {
		var entries []testimage.Entry
		for i := range int64(5000) {
			entries = append(entries, testimage.Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: fmt.Sprint(dir, i), Devmajor: 1, Devminor: i}})
		}
		return testimage.Image(t, v1.Config{}, testimage.Layer(t, testimage.Tar(t, entries...), testimage.Gzip))
	}
	s := Open(t.TempDir(), Options{})
	_, err := s.Pull(context.Background(), reg.Push(t, "flood", flood("d/")), PullOptions{})
	if !errors.Is(err, sandbox.ImagePullFailed) || !errors.Is(err, erofs.ErrDevices) || sandbox.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, sandbox.HintOf(err))
	}
	unpublished(t, "flood", s)
	mustPull(t, s, reg.Push(t, "dev", flood("dev/")), PullOptions{})
}
