package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/image/erofs"
)

// TestStreams writes the data of many files on several goroutines at once.
func TestStreams(t *testing.T) {
	m := newModel()
	path := image(t, func(w *erofs.Writer) {
		const streams, each = 5, 60
		files := make([][each]*file, streams)
		data := make([][each]erofs.Data, streams)
		var wait sync.WaitGroup
		for i := range streams {
			wait.Go(func() {
				s := w.Stream()
				for j := range each {
					size := j * 997 * (j%7 + 1)
					if j%20 == 19 {
						size = 1<<20 + j*40_000 // an extent of its own
					}
					b := make([]byte, size)
					_, _ = (&repeat{off: int64(i*each + j)}).Read(b)
					if j%10 == 5 {
						clear(b[:size-size/3]) // holes
					}
					// What fails leaves nothing, and the stream goes on.
					if _, err := s.Data(int64(size)+1, bytes.NewReader(b)); err == nil {
						t.Error("a file that ends early was taken")
					}
					d, err := s.Data(int64(size), iotest.HalfReader(bytes.NewReader(b)))
					if err != nil || d.Size() != int64(size) {
						t.Error(d, err)
					}
					files[i][j], data[i][j] = &file{data: b, attr: erofs.Attr{Mode: fs.FileMode(j)}}, d
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		type extent struct{ from, to int64 }
		var taken []extent
		for i := range streams {
			for j := range each {
				p := fmt.Sprintf("%d/%d", i, j)
				if err := w.FileAt(p, files[i][j].attr, data[i][j]); err != nil {
					t.Error(err)
				}
				m.add(p, files[i][j])
				from, to := data[i][j].Extent()
				for _, o := range taken {
					if from < o.to && o.from < to {
						t.Fatalf("%s overlaps another file", p)
					}
				}
				taken = append(taken, extent{from, to})
			}
		}
		both(t, m, w, "add", &file{data: []byte("behind them")}, "ab", "")
		if err := w.FileAt("twice", files[0][50].attr, data[0][50]); err != nil {
			t.Error(err)
		}
		m.add("twice", &file{data: files[0][50].data, attr: files[0][50].attr})
	})
	checkAll(t, m, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if took := info.Sys().(*syscall.Stat_t).Blocks * 512; took > info.Size()*9/10 {
		t.Errorf("the image takes %d of %d bytes of the disk: there should be holes", took, info.Size())
	}
}

type broken struct{ f *os.File }

func (b broken) WriteAt(p []byte, off int64) (int, error) {
	if off > 5<<20 {
		return 0, syscall.ENOSPC
	}
	return b.f.WriteAt(p, off)
}

func TestStreamOnFullDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(broken{f})
	s := w.Stream()
	for range 20 {
		_, err = s.Data(1<<20, &repeat{})
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(s.Close(), syscall.ENOSPC) {
		t.Errorf("%v, want no space", err)
	}
}

func FuzzWalk(f *testing.F) {
	path := image(f, func(w *erofs.Writer) { corners(f, newModel(), w) })
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	small := image(f, func(w *erofs.Writer) {
		_ = w.File("a/b", erofs.Attr{}, 3, bytes.NewReader([]byte("abc")))
		_ = w.Symlink("l", "a", erofs.Attr{})
		_ = w.Device("d", erofs.Attr{}, true, 1, 3)
	})
	b, err := os.ReadFile(small)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(whole[:8192])
	f.Add(append(b[:len(b)-4096:len(b)-4096], bytes.Repeat([]byte{1, 0, 2}, 1365)...))
	listed, err := os.ReadFile(image(f, func(w *erofs.Writer) {
		for i := range uint32(3) {
			_ = w.Device(fmt.Sprint("a/b/", i), erofs.Attr{}, i == 1, i, 7)
		}
		_ = w.Link("c", "a/b/1")
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(listed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		_ = erofs.Walk(bytes.NewReader(b), func(e *erofs.Entry) error {
			if e.Path != "." && !fs.ValidPath(e.Path) && bytes.Contains([]byte(e.Path), []byte("..")) {
				t.Errorf("a path %q", e.Path)
			}
			return nil
		})
		for _, p := range []string{"a/b", ".", "d/x", "l"} {
			if e, err := erofs.Lookup(bytes.NewReader(b), p); err == nil && e.Path != p {
				t.Errorf("%q is found at %q", p, e.Path)
			}
		}
		devices, _ := erofs.Devices(bytes.NewReader(b))
		for _, e := range devices {
			if !fs.ValidPath(e.Path) && utf8.ValidString(e.Path) || e.Path == "." || e.Mode&fs.ModeDevice == 0 {
				t.Errorf("a device %q of mode %v", e.Path, e.Mode)
			}
		}
	})
}
