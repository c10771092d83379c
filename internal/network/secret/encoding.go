package secret

import (
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Bounds of looking into a compressed body: what it decodes to may be as large as maxDecoded, or decodedRatio times what
// was sent if that is more. What is larger is not sent.
const (
	maxDecoded   = 64 << 20
	decodedRatio = 100
	zstdWindow   = 8 << 20 // RFC 9659
	maxCodings   = 2
)

var errBomb = errors.New("the body decodes to too much")

// zstds are those who decode zstd, whose window is memory for as long as the guest takes over its body. Others wait.
var zstds = make(chan struct{}, 8)

// codings splits the values of Content-Encoding. ok is false if there is one that cannot be undone.
func codings(values []string) (list []string, ok bool) {
	for _, v := range values {
		for c := range strings.SplitSeq(v, ",") {
			switch c = strings.ToLower(strings.TrimSpace(c)); c {
			case "", "identity":
			case "gzip", "x-gzip", "deflate", "zstd":
				list = append(list, c)
			default:
				return list, false
			}
		}
	}
	zstd := func(c string) bool { return c == "zstd" }
	i := slices.IndexFunc(list, zstd)
	return list, len(list) <= maxCodings && (i < 0 || !slices.ContainsFunc(list[i+1:], zstd))
}

// decoder undoes codings, the last one first.
func decoder(in io.Reader, list []string) (out io.Reader, stop func(), err error) {
	stop = func() {}
	out = in
	for i := len(list) - 1; i >= 0; i-- {
		switch list[i] {
		case "zstd":
			z, err := zstd.NewReader(out, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
			if err != nil {
				return nil, stop, err
			}
			before := stop
			out, stop = z, func() { z.Close(); before() }
		case "deflate":
			if out, err = inflate(out); err != nil {
				return nil, stop, err
			}
		default:
			if out, err = gzip.NewReader(out); err != nil {
				return nil, stop, err
			}
		}
	}
	return out, stop, nil
}

// inflate reads deflate as RFC 9110 means it (zlib), and as some send it (bare).
func inflate(in io.Reader) (io.Reader, error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	in = io.MultiReader(strings.NewReader(string(head[:])), in)
	if head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(in)
	}
	return flate.NewReader(in), nil
}

// decodeReader passes a compressed stream on while it is decoded and searched beside. The end of the stream is passed on
// after all of it was.
type decodeReader struct {
	in   io.Reader
	plan *Plan
	pipe *io.PipeWriter
	done chan error
	over chan struct{} // closed by Close
	once sync.Once

	last, next *piece // next was decoded, and last may go out
	ready      []byte // the rest of what goes out
	err        error
}

type piece struct {
	buf [pieceSize]byte
	n   int
}

func newDecodeReader(in io.Reader, p *Plan, list []string) *decodeReader {
	pr, pw := io.Pipe()
	r := &decodeReader{in: in, plan: p, pipe: pw, done: make(chan error, 1), over: make(chan struct{}), last: new(piece), next: new(piece)}
	counted := &counter{in: pr}
	go func() {
		err := r.search(counted, list)
		_ = pr.CloseWithError(err) // what is still to come is refused with err, or dropped if that is nil
		r.done <- err
	}()
	return r
}

var errOver = errors.New("no more wanted")

func (r *decodeReader) search(in *counter, list []string) error {
	if slices.Contains(list, "zstd") {
		select {
		case zstds <- struct{}{}:
			defer func() { <-zstds }()
		case <-r.over:
			return errOver
		}
	}
	return search(in, r.plan, list)
}

type counter struct {
	in io.Reader
	n  int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

// search decodes all of in and looks for what must not be sent.
func search(in *counter, p *Plan, list []string) error {
	out, stop, err := decoder(in, list)
	defer stop()
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	scan := newScanner(p)
	buf := make([]byte, pieceSize)
	for total := int64(0); ; {
		n, err := out.Read(buf)
		if x := scan.write(buf[:n]); x != nil {
			return p.violation(x, "the compressed body")
		}
		total += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			// What follows the compressed stream is not part of it, but sent all the same: it was searched as it is.
			_, err = io.Copy(io.Discard, in)
			return err
		case err != nil:
			return fmt.Errorf("decode: %w", err)
		case total > maxDecoded && total > in.n*decodedRatio:
			return errBomb
		}
	}
}

func (r *decodeReader) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// fill has the next piece decoded, and makes the one before ready: the last one waits until all is decoded.
func (r *decodeReader) fill() {
	r.last, r.next = r.next, r.last
	n, err := r.in.Read(r.next.buf[:])
	r.next.n = n
	if n > 0 {
		if _, werr := r.pipe.Write(r.next.buf[:n]); werr != nil {
			r.fail(<-r.done)
			return
		}
	}
	r.ready = r.last.buf[:r.last.n]
	switch {
	case errors.Is(err, io.EOF):
		_ = r.pipe.Close()
		if derr := <-r.done; derr != nil {
			r.fail(derr)
			return
		}
		r.ready, r.err = append(r.ready[:len(r.ready):len(r.ready)], r.next.buf[:n]...), io.EOF
	case err != nil:
		_ = r.pipe.CloseWithError(err)
		r.err = err
	}
}

// fail says why the stream may not go on: a violation, or that it could not be searched.
func (r *decodeReader) fail(err error) {
	var v *Violation
	if !errors.As(err, &v) {
		v = r.plan.opaque("a compressed body that is broken or too large")
	}
	r.ready, r.err = nil, v
}

// Close lets go of what decodes beside. It is for a stream that was not read to its end.
func (r *decodeReader) Close() {
	r.once.Do(func() { close(r.over) })
	_ = r.pipe.CloseWithError(errOver)
}
