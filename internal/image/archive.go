package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive is a tar whose entries can be read in any order, and more than once.
type archive struct {
	f     io.ReaderAt
	files map[string]extent
	links map[string]string // of the older docker-archives, to layers that are there already
}

type extent struct{ off, size int64 }

const maxArchiveEntries = 100_000

// openArchive reads the list of contents. A pipe, and what is compressed, is copied into the directory of w first.
func (s *Store) openArchive(ctx context.Context, r io.Reader, w *work) (*archive, func(), error) {
	f, ok := r.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode().IsRegular()
	}
	done := func() {}
	if ok {
		magic := make([]byte, 4)
		_, _ = f.ReadAt(magic, 0)
		ok = !compressed(magic)
	}
	if !ok {
		spool, err := s.spool(ctx, r, w.path("archive"))
		if err != nil {
			return nil, nil, err
		}
		f, done = spool, func() { spool.Close() }
	}
	a := &archive{f: f, files: map[string]extent{}, links: map[string]string{}}
	if err := a.scan(f); err != nil {
		done()
		return nil, nil, err
	}
	return a, done, nil
}

func compressed(magic []byte) bool {
	return bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) || bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// spool copies r, unpacked, to a file.
func (s *Store) spool(ctx context.Context, r io.Reader, path string) (*os.File, error) {
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(contextReader{ctx, plain}, s.cfg.Limits.Bytes+1))
	if err == nil && n > s.cfg.Limits.Bytes {
		err = fmt.Errorf("%w of %d bytes", ErrTooLarge, s.cfg.Limits.Bytes)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// contextReader gives up between two reads.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func (a *archive) scan(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tr := tar.NewReader(f)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		if n == maxArchiveEntries {
			return fmt.Errorf("%w of %d files in an archive", ErrTooLarge, maxArchiveEntries)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.files[name] = extent{off, h.Size}
		case tar.TypeSymlink:
			a.links[name] = path.Join(path.Dir("/"+name), h.Linkname)[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

// open returns a file of the archive.
func (a *archive) open(name string) (*io.SectionReader, error) {
	name = path.Clean("/" + name)[1:]
	for range maxSymlinks {
		if e, ok := a.files[name]; ok {
			return io.NewSectionReader(a.f, e.off, e.size), nil
		}
		next, ok := a.links[name]
		if !ok {
			break
		}
		name = next
	}
	return nil, fmt.Errorf("%w: there is no %.200q in it", ErrFormat, name)
}

func (a *archive) has(name string) bool { _, ok := a.files[name]; return ok }

// read returns a small file of the archive.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fmt.Errorf("%.200q: %w of %d bytes", name, ErrTooLarge, limit)
	}
	b := make([]byte, r.Size())
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%w: %.200q: %w", ErrTruncated, name, err)
	}
	return b, nil
}

func blobName(d Digest) string { return "blobs/" + strings.Replace(string(d), ":", "/", 1) }

// blob returns small contents that are named by their digest, verified.
func (a *archive) blob(d descriptor, limit int64) ([]byte, error) {
	b, err := a.read(blobName(d.Digest), limit)
	if err != nil {
		return nil, err
	}
	if d.Size != 0 && int64(len(b)) != d.Size {
		return nil, fmt.Errorf("%s: %w: it has %d bytes, not %d", d.Digest, ErrDigest, len(b), d.Size)
	}
	d.Size = int64(len(b))
	return b, d.verify(b)
}

// isPacked reports whether a layer is compressed.
func isPacked(r *io.SectionReader) bool {
	magic, _ := bufio.NewReader(io.NewSectionReader(r, 0, min(4, r.Size()))).Peek(4)
	return compressed(magic)
}
