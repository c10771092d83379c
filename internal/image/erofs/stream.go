package erofs

import (
	"bytes"
	"errors"
	"io"
)

// Data is the bytes of one regular file that are in the image already.
type Data struct {
	addr uint32
	size int64
}

// Size returns how many bytes there are.
func (d Data) Size() int64 { return d.size }

// Extent returns where the bytes are in the image, in whole blocks. It is empty for an empty file.
func (d Data) Extent() (from, to int64) {
	if d.size == 0 {
		return 0, 0
	}
	from = int64(d.addr) * blockSize
	return from, from + (d.size+blockSize-1)&^(blockSize-1)
}

// A Stream adds the data of regular files to the image before it is known which names they will have, if any. Several
// Streams of one Writer may run at once, each on a goroutine of its own; while they do, the Writer itself must not be used.
// Blocks of zeros are not written: they are holes in the image.
type Stream struct {
	w   *Writer
	buf []byte // what is not written yet
	off int64  // where buf goes
	end int64  // of what is reserved for this Stream
	err error  // the first, which sticks
}

const (
	streamBuf    = 256 << 10
	streamExtent = 4 << 20
	ownExtent    = 1 << 20 // a file of this size gets an extent of its own
)

// Stream returns a new Stream. It must be closed before the Writer is used again.
func (w *Writer) Stream() *Stream { return &Stream{w: w, buf: make([]byte, 0, streamBuf)} }

// Data adds size bytes of r. When r fails or ends early nothing is added.
func (s *Stream) Data(size int64, r io.Reader) (Data, error) {
	if s.err != nil || size == 0 {
		return Data{}, s.err
	}
	if size < 0 {
		return Data{}, errors.New("negative size")
	}
	s.align()
	at := s.off + int64(len(s.buf))
	if size > s.end-at {
		if s.err = s.flush(); s.err != nil {
			return Data{}, s.err
		}
		s.giveBack()
		extent := int64(streamExtent)
		if size >= ownExtent {
			extent = (size + blockSize - 1) &^ (blockSize - 1)
		}
		if at, s.err = s.w.reserve(extent); s.err != nil {
			return Data{}, s.err
		}
		s.off, s.end = at, at+extent
	}
	if err := s.copy(size, r); err != nil {
		return Data{}, err
	}
	return Data{uint32(at / blockSize), size}, nil
}

// Close writes what is buffered.
func (s *Stream) Close() error {
	s.align()
	if s.err == nil {
		s.err = s.flush()
	}
	s.giveBack()
	err := s.err
	s.err = errors.Join(err, errors.New("stream is closed"))
	return err
}

func (s *Stream) copy(size int64, r io.Reader) error {
	for size > 0 {
		if len(s.buf) == cap(s.buf) {
			if s.err = s.flush(); s.err != nil {
				return s.err
			}
		}
		n := len(s.buf)
		got, err := io.ReadFull(r, s.buf[n:min(int64(cap(s.buf)), int64(n)+size)])
		s.buf = s.buf[:n+got]
		size -= int64(got)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// align pads to the next block.
func (s *Stream) align() {
	pad := int(-int64(len(s.buf)) & (blockSize - 1)) // off is on a block, and the buffer is whole blocks
	s.buf = append(s.buf, zeros[:pad]...)
}

// flush writes the buffer but for its holes, and leaves off on a block when the buffer was full or padded.
func (s *Stream) flush() error {
	b, off := s.buf, s.off
	s.off += int64(len(b))
	s.buf = s.buf[:0]
	for len(b) > 0 {
		n := min(zeroRun(b), len(b))
		b, off = b[n:], off+int64(n)
		if n = min(dataRun(b), len(b)); n == 0 {
			continue
		}
		if _, err := s.w.out.w.WriteAt(b[:n], off); err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// zeroRun returns how many bytes at the start of b are in blocks of zeros.
func zeroRun(b []byte) int {
	n := 0
	for n < len(b) && isZero(b[n:min(n+blockSize, len(b))]) {
		n += blockSize
	}
	return n
}

// dataRun returns how many bytes at the start of b come before 16 blocks of zeros: a shorter hole is not worth a write of its own.
func dataRun(b []byte) int {
	n, zero := 0, 0
	for n < len(b) {
		if isZero(b[n:min(n+blockSize, len(b))]) {
			zero++
		} else {
			zero = 0
		}
		n += blockSize
		if zero == 16 {
			return n - 16*blockSize
		}
	}
	return n - zero*blockSize
}

func isZero(block []byte) bool { return bytes.Equal(block, zeros[:len(block)]) }

// reserve takes n bytes, whole blocks, of the image for a Stream.
func (w *Writer) reserve(n int64) (int64, error) {
	w.reserving.Lock()
	defer w.reserving.Unlock()
	if _, err := w.out.block(); err != nil {
		return 0, err
	}
	if err := w.out.flush(); err != nil {
		return 0, err
	}
	at := w.out.off
	if at+n > maxImage {
		return 0, errTooLarge
	}
	w.out.off += n
	return at, nil
}

// giveBack returns what is left of the extent, if nobody reserved anything behind it.
func (s *Stream) giveBack() {
	at := s.off + int64(len(s.buf))
	if at < s.end {
		s.w.reserving.Lock()
		if s.w.out.off == s.end && len(s.w.out.buf) == 0 {
			s.w.out.off = at
		}
		s.w.reserving.Unlock()
	}
	s.end = at
}

// FileAt adds a regular file whose bytes came through a Stream of this Writer. Two files may have the same Data.
func (w *Writer) FileAt(path string, a Attr, d Data) error {
	parent, name, err := w.parent(path)
	if err != nil {
		return pathErr("file", path, err)
	}
	n := newInode(modeReg, a)
	n.size, n.addr = uint64(d.size), d.addr
	parent.put(name, n)
	return nil
}

// DataStart is where the data of files begins in every image.
const DataStart = blockSize

// DataEnd returns where the data of files ends, before Close. What the Writer adds then comes behind it.
func (w *Writer) DataEnd() int64 { return (w.out.pos() + blockSize - 1) &^ (blockSize - 1) }
