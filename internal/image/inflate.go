package image

import (
	"errors"
	"hash/crc32"
	"io"
)

// gunzip reads gzip (RFC 1952), any number of members. Unpacking is what a pull spends its time with, on one processor for
// each layer, and this does it in about half the time of the libraries: it takes 56 bits at once from the input, decodes
// with one look into a table each, copies by words, and does without checks as long as there is room on both sides.
type gunzip struct {
	r    io.Reader
	in   []byte // read and not decoded yet: in[pos:end]
	pos  int
	end  int
	eof  bool
	hold uint64 // the next bits, lowest first; bits above have are those of in[pos:], or zero
	have uint

	out  []byte // history, then what was decoded
	o    int    // end of what was decoded
	rd   int    // end of what was returned
	size uint32 // of the member so far
	crc  uint32

	members int // whose header was read

	stage  func(*gunzip) error // what comes next; nil after the last member
	final  bool                // the block is the member's last
	stored int                 // bytes left of a stored block
	err    error

	literals, distances table
	lengths             [288 + 32]uint8
}

const (
	history  = 32 << 10
	outSize  = history + 256<<10
	outSlack = 258 + 16 // a longest match, copied by words
	inSize   = 64 << 10
	inSlack  = 16 // bytes that one round of the fast loop may take
)

func newGunzip(r io.Reader) *gunzip {
	return &gunzip{r: r, in: make([]byte, inSize), out: make([]byte, outSize+outSlack), stage: (*gunzip).header,
		literals:  table{literalBits, make([]uint32, literalEntries)},
		distances: table{distanceBits, make([]uint32, distanceEntries)}}
}

func (z *gunzip) Read(p []byte) (int, error) {
	for z.rd == z.o && z.err == nil {
		if z.stage == nil {
			z.err = io.EOF
			break
		}
		if z.o >= outSize {
			z.o = copy(z.out, z.out[z.o-history:z.o])
			z.rd = z.o
		}
		from := z.o
		z.err = z.stage(z)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, z.out[from:z.o])
		z.size += uint32(z.o - from)
	}
	if z.rd == z.o {
		return 0, z.err
	}
	n := copy(p, z.out[z.rd:z.o])
	z.rd += n
	return n, nil
}

// more reads more input, and reports whether there was any. What is not decoded moves to the front.
func (z *gunzip) more() (bool, error) {
	if z.eof {
		return false, nil
	}
	z.end = copy(z.in, z.in[z.pos:z.end])
	z.pos = 0
	for range 100 {
		n, err := z.r.Read(z.in[z.end:])
		z.end += n
		if errors.Is(err, io.EOF) {
			z.eof, err = true, nil
		}
		if n > 0 || err != nil || z.eof {
			return n > 0, err
		}
	}
	return false, io.ErrNoProgress
}

// need makes n bits be there, or fails.
func (z *gunzip) need(n uint) error {
	for z.have < n {
		if z.pos == z.end {
			if ok, err := z.more(); err != nil {
				return err
			} else if !ok {
				return io.ErrUnexpectedEOF
			}
		}
		z.hold = z.hold&(1<<z.have-1) | uint64(z.in[z.pos])<<z.have
		z.pos++
		z.have += 8
	}
	return nil
}

// take returns the next n bits, at most 32.
func (z *gunzip) take(n uint) (uint32, error) {
	if err := z.need(n); err != nil {
		return 0, err
	}
	v := uint32(z.hold & (1<<n - 1))
	z.hold >>= n
	z.have -= n
	return v, nil
}

// block reads the header of a block.
func (z *gunzip) block() error {
	if z.final {
		z.final = false
		z.stage = (*gunzip).trailer
		return nil
	}
	h, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = h&1 != 0
	switch h >> 1 {
	case 0:
		return z.beginStored()
	case 1:
		for i := range z.lengths {
			switch {
			case i < 144, i >= 280 && i < 288:
				z.lengths[i] = 8
			case i < 256:
				z.lengths[i] = 9
			case i < 280:
				z.lengths[i] = 7
			default:
				z.lengths[i] = 5
			}
		}
		err = z.build(288, 32)
	case 2:
		err = z.codes()
	default:
		err = errors.New("a block of an unknown kind")
	}
	z.stage = (*gunzip).symbols
	return err
}

func (z *gunzip) build(literals, distances int) error {
	if err := z.literals.build(z.lengths[:literals], literalSymbols[:]); err != nil {
		return err
	}
	return z.distances.build(z.lengths[literals:literals+distances], distanceSymbols[:])
}

var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codes reads the Huffman codes of a block.
func (z *gunzip) codes() error {
	h, err := z.take(14)
	if err != nil {
		return err
	}
	literals, distances, n := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if literals > 286 || distances > 30 {
		return errHuffman
	}
	var lengths [19]uint8
	for _, i := range codeOrder[:n] {
		v, err := z.take(3)
		if err != nil {
			return err
		}
		lengths[i] = uint8(v)
	}
	var symbols [19]symbol
	for i := range symbols {
		symbols[i].entry = uint32(i) << 16
	}
	// The table of the distances is free until the codes are known.
	t := table{7, z.distances.entries}
	if err := t.build(lengths[:], symbols[:]); err != nil {
		return err
	}
	for i := 0; i < literals+distances; {
		e, err := z.decode(&t)
		if err != nil {
			return err
		}
		value, times := uint8(e>>16), uint32(1)
		switch value {
		case 16:
			if i == 0 {
				return errHuffman
			}
			value = z.lengths[i-1]
			times, err = z.take(2)
			times += 3
		case 17:
			value = 0
			times, err = z.take(3)
			times += 3
		case 18:
			value = 0
			times, err = z.take(7)
			times += 11
		}
		if err != nil {
			return err
		}
		if i+int(times) > literals+distances {
			return errHuffman
		}
		for range times {
			z.lengths[i] = value
			i++
		}
	}
	if z.lengths[256] == 0 {
		return errHuffman // the block could not end
	}
	return z.build(literals, distances)
}

// decode returns the entry of the next symbol and takes its code, but not its extra bits.
func (z *gunzip) decode(t *table) (uint32, error) {
	for n := uint(1); ; {
		if err := z.need(n); err != nil {
			return 0, err
		}
		// Bits that are not there yet read as zero, or as what they will be: an entry that takes more than there are is not meant.
		hold := z.hold & (1<<z.have - 1)
		e := t.entries[hold&(1<<t.bits-1)]
		size := uint(e >> 8 & 15)
		if e&entryMore != 0 {
			if z.have <= t.bits {
				n = t.bits + 1
				continue
			}
			e = t.entries[e>>16+uint32(hold>>t.bits)&(1<<size-1)]
			size = t.bits + uint(e>>8&15)
		}
		if size > z.have {
			n = size
			continue
		}
		if e&entryBad != 0 {
			return 0, errHuffman
		}
		z.hold >>= size
		z.have -= size
		return e, nil
	}
}

// beginStored reads the header of a block that is not compressed.
func (z *gunzip) beginStored() error {
	if _, err := z.take(z.have & 7); err != nil {
		return err
	}
	n, err := z.take(16)
	if err != nil {
		return err
	}
	inverse, err := z.take(16)
	if err != nil {
		return err
	}
	if n != ^inverse&0xffff {
		return errors.New("the length of a stored block is wrong")
	}
	z.stored = int(n)
	z.stage = (*gunzip).copyStored
	return nil
}

func (z *gunzip) copyStored() error {
	for z.stored > 0 && z.o < outSize {
		if z.have > 0 {
			b, err := z.take(8)
			if err != nil {
				return err
			}
			z.out[z.o] = byte(b)
			z.o++
			z.stored--
			continue
		}
		z.hold = 0
		if z.pos == z.end {
			if ok, err := z.more(); err != nil {
				return err
			} else if !ok {
				return io.ErrUnexpectedEOF
			}
		}
		n := copy(z.out[z.o:min(outSize, z.o+z.stored)], z.in[z.pos:z.end])
		z.o += n
		z.pos += n
		z.stored -= n
	}
	if z.stored == 0 {
		z.stage = (*gunzip).block
	}
	return nil
}
