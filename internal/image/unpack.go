package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// source is where the bytes of a layer come from.
type source struct {
	descriptor        // a Digest of "" is not checked
	diffID     Digest // likewise
	open       func(context.Context) (io.ReadCloser, error)
	keep       string // where to store the compressed bytes; "" does not
	saved      func() // called when they are there
	stored     bool   // the bytes come from the store
	bad        func() // called when the bytes were not those that the digest is of
}

// unpack reads a layer: the bytes come in, are stored and hashed on one goroutine, unpacked on a second, and hashed again
// and taken apart on this one. It returns how many bytes the tar has.
func (l *layer) unpack(ctx context.Context, src source, progress func(done int64)) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := src.open(ctx)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	packed := &hashed{r: in, h: sha256.New(), limit: src.Size, progress: progress}
	if src.keep != "" {
		f, err := os.Create(src.keep)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		packed.w = f
	}
	compressed := readAhead(packed)
	defer compressed.Close()
	defer cancel() // before Close, which waits for the network

	plain, err := decompress(compressed)
	if err != nil {
		return 0, verified(compressed, packed, src, err)
	}
	defer plain.Close()
	unpacked := readAhead(plain)
	defer func() {
		cancel()
		compressed.Close() // unpacked may be waiting for it
		unpacked.Close()
	}()

	tarball := &counted{r: unpacked, h: sha256.New(), packed: src.Size, used: l.used}
	err = l.read(tarball)
	if err == nil {
		_, err = io.Copy(io.Discard, tarball)
	}
	if err != nil {
		if errors.Is(err, ErrTooLarge) || ofDisk(err) || ctx.Err() != nil {
			return 0, err
		}
		unpacked.Close()
		return 0, verified(compressed, packed, src, err)
	}
	if err := verified(compressed, packed, src, nil); err != nil {
		return 0, err
	}
	if got := digestOf(tarball.h); src.diffID != "" && got != src.diffID {
		return 0, fmt.Errorf("%w: it is %s, not %s", ErrDiffID, got, src.diffID)
	}
	return tarball.n, nil
}

// verified reads what is left and compares the digest. What is wrong with the bytes says more than what came of it, err.
func verified(rest io.Reader, packed *hashed, src source, err error) error {
	if _, e := io.Copy(io.Discard, rest); e != nil {
		return e
	}
	wrong := func(err error) error {
		if src.bad != nil {
			src.bad()
			err = fmt.Errorf("%w: %w", errDamaged, err)
		}
		return err
	}
	if packed.n < src.Size {
		return wrong(fmt.Errorf("%w: after %d of %d bytes", ErrTruncated, packed.n, src.Size))
	}
	if got := digestOf(packed.h); src.Digest != "" && got != src.Digest {
		return wrong(fmt.Errorf("%w: it is %s", ErrDigest, got))
	}
	if err == nil && src.saved != nil {
		src.saved()
	}
	return err
}

// sum returns the digest of all of r.
func sum(r io.Reader) Digest {
	h := sha256.New()
	_, _ = io.Copy(h, r)
	return digestOf(h)
}

func digestOf(h hash.Hash) Digest { return Digest("sha256:" + hex.EncodeToString(h.Sum(nil))) }

// hashed hashes and stores what is read through it.
type hashed struct {
	r        io.Reader
	h        hash.Hash
	w        io.Writer // or nil
	n        int64
	limit    int64
	progress func(int64)
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	if h.w != nil {
		if _, err := h.w.Write(p[:n]); err != nil {
			return n, err
		}
	}
	if h.n += int64(n); h.n > h.limit {
		return 0, fmt.Errorf("%w: it has more than %d bytes", ErrDigest, h.limit)
	}
	if h.progress != nil && n > 0 {
		h.progress(h.n)
	}
	return n, err
}

// counted hashes what is read through it and stops what becomes too much.
type counted struct {
	r      io.Reader
	h      hash.Hash
	n      int64
	packed int64
	used   *usage
}

const ratioFrom = 1 << 30

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.h.Write(p[:n])
	c.n += int64(n)
	if total := c.used.bytes.Add(int64(n)); total > c.used.limits.Bytes {
		return 0, fmt.Errorf("%w of %d bytes unpacked", ErrTooLarge, c.used.limits.Bytes)
	}
	if c.n > ratioFrom && c.n/c.used.limits.Ratio > c.packed {
		return 0, fmt.Errorf("%w: it unpacks to more than %d times its size", ErrTooLarge, c.used.limits.Ratio)
	}
	return n, err
}

const maxWindow = 64 << 20 // of zstd: memory that the layer makes us take

// decompress finds out by its first bytes how r is compressed: registries and archives often say it wrongly.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return unpacker{z, func() {}}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return unpacker{z, z.Close}, nil
	}
	return io.NopCloser(b), nil
}

// unpacker gives the errors of a decompressor a name. Those of the disk and the network it cannot have: they come from below.
type unpacker struct {
	io.Reader
	close func()
}

func (u unpacker) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: unpack: %w", ErrFormat, err)
	}
	return n, err
}

func (u unpacker) Close() error {
	u.close()
	return nil
}
