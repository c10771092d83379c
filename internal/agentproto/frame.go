package agentproto

import (
	"bufio"
	"encoding/binary"
	"io"
	"slices"
	"sync"
)

// Frame is one frame as it was on the wire. Its bytes come from a pool: who holds the frame last calls Release, after
// which neither Raw nor Body may be touched.
type Frame struct {
	ID    uint32
	Flags Flags
	raw   []byte
}

// Raw is the whole frame, length field included, ready to be written to another connection.
func (f *Frame) Raw() []byte { return f.raw }

// Body is the CBOR of the frame.
func (f *Frame) Body() []byte { return f.raw[HeaderLen:] }

// Buffers of these sizes are pooled, in bytes: most frames are small, those with data are as large as the reads that made them. A
// frame takes at most about twice its length.
var frameSizes = [...]int{2 << 10, 66 << 10, 132 << 10, 264 << 10}

var framePools [len(frameSizes)]sync.Pool

func newFrame(size int) *Frame {
	for i, most := range frameSizes {
		if size > most {
			continue
		}
		f, ok := framePools[i].Get().(*Frame)
		if !ok {
			f = &Frame{raw: make([]byte, most)}
		}
		f.raw = f.raw[:size]
		return f
	}
	return &Frame{raw: make([]byte, size)}
}

// Release gives the frame's buffer back. It is to be called once. A nil frame has none.
func (f *Frame) Release() {
	if f == nil {
		return
	}
	if i := slices.Index(frameSizes[:], cap(f.raw)); i >= 0 {
		framePools[i].Put(f)
	}
}

// NewFrame returns the frame that b is, as [Append] makes one. It owns b.
func NewFrame(b []byte) *Frame {
	return &Frame{ID: binary.BigEndian.Uint32(b[4:]), Flags: Flags(b[8]), raw: b}
}

// Clone returns a copy that never has to be released.
func (f *Frame) Clone() *Frame {
	return &Frame{ID: f.ID, Flags: f.Flags, raw: append([]byte(nil), f.raw...)}
}

// Reader reads frames. It is for one goroutine.
type Reader struct{ r *bufio.Reader }

// readBuffer is how much a Reader asks its connection for at once.
const readBuffer = 64 << 10

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{bufio.NewReaderSize(r, readBuffer)} }

// Next reads one frame and nothing of its meaning. It returns io.EOF between frames, io.ErrUnexpectedEOF within one,
// and ErrLength for a length that no frame may have, after which the connection is of no more use.
func (r *Reader) Next() (*Frame, error) {
	head, err := r.r.Peek(HeaderLen)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if n < MinLength || n > MaxLength {
		return nil, ErrLength
	}
	f := newFrame(4 + int(n))
	f.ID, f.Flags = binary.BigEndian.Uint32(head[4:]), Flags(head[8])
	if _, err := io.ReadFull(r.r, f.raw); err != nil {
		f.Release()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f, nil
}

// Buffered reports whether another read of the connection is not needed to get at least part of the next frame.
func (r *Reader) Buffered() bool { return r.r.Buffered() > 0 }

// Words reads the two numbers that a relay greets its client with: the first id of its range and the first beyond it.
func (r *Reader) Words() (start, end uint32, err error) {
	var b [8]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint32(b[4:]), nil
}

// AppendWords appends what Words reads.
func AppendWords(b []byte, start, end uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, start), end)
}

// AppendFrame appends a frame around a body of at most MaxBody.
func AppendFrame(b []byte, id uint32, flags Flags, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(MinLength+len(body)))
	b = binary.BigEndian.AppendUint32(b, id)
	return append(append(b, byte(flags)), body...)
}
