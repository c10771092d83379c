package image

import (
	"encoding/binary"
	"fmt"
)

// symbols decodes a block until it ends or the output is full.
func (z *gunzip) symbols() error {
	for z.o < outSize {
		if z.end-z.pos < inSlack && !z.eof {
			if _, err := z.more(); err != nil {
				return err
			}
		}
		end, err := z.fast()
		if err == nil && !end {
			end, err = z.slow()
		}
		if err != nil {
			return err
		}
		if end {
			z.stage = (*gunzip).block
			return nil
		}
	}
	return nil
}

// slow decodes one symbol, with all checks. It reports whether the block ended.
func (z *gunzip) slow() (bool, error) {
	if z.o >= outSize {
		return false, nil
	}
	e, err := z.decode(&z.literals)
	if err != nil {
		return false, err
	}
	switch {
	case e&entryEnd != 0:
		return true, nil
	case e&entryLiteral != 0:
		z.out[z.o] = byte(e >> 16)
		z.o++
		return false, nil
	}
	extra, err := z.take(uint(e&0xff) - uint(e>>8&15))
	if err != nil {
		return false, err
	}
	length := int(e>>16 + extra)
	if e, err = z.decode(&z.distances); err != nil {
		return false, err
	}
	if extra, err = z.take(uint(e&0xff) - uint(e>>8&15)); err != nil {
		return false, err
	}
	distance := int(e>>16 + extra)
	if distance > z.o {
		return false, fmt.Errorf("a match %d bytes back, behind the start", distance)
	}
	for ; length > 0; length-- {
		z.out[z.o] = z.out[z.o-distance]
		z.o++
	}
	return false, nil
}

// fast decodes symbols for as long as there is room in the output and there are bytes in the input for a whole round.
// It reports whether the block ended.
func (z *gunzip) fast() (bool, error) {
	var (
		in, out   = z.in[:z.end], z.out
		pos, o    = z.pos, z.o
		hold      = z.hold & (1<<z.have - 1)
		have      = z.have
		literals  = (*[literalEntries]uint32)(z.literals.entries)
		distances = (*[distanceEntries]uint32)(z.distances.entries)
		last      = len(in) - inSlack
		ended     = false
		err       error
	)
	for pos <= last && o < outSize {
		hold |= binary.LittleEndian.Uint64(in[pos:]) << have
		pos += int(63-have) >> 3
		have |= 56

		e := literals[hold&(1<<literalBits-1)]
		if e&entryLiteral != 0 { // 11 bits each: three of them leave enough for a length
			hold >>= e & 63
			have -= uint(e & 63)
			out[o] = byte(e >> 16)
			o++
			e = literals[hold&(1<<literalBits-1)]
			if e&entryLiteral != 0 {
				hold >>= e & 63
				have -= uint(e & 63)
				out[o] = byte(e >> 16)
				o++
				e = literals[hold&(1<<literalBits-1)]
				if e&entryLiteral != 0 {
					hold >>= e & 63
					have -= uint(e & 63)
					out[o] = byte(e >> 16)
					o++
					continue
				}
			}
		}
		if e&entrySpecial != 0 {
			if e&entryMore != 0 {
				hold >>= literalBits
				have -= literalBits
				e = literals[e>>16+uint32(hold)&(1<<(e>>8&15)-1)]
				if e&entryLiteral != 0 {
					hold >>= e & 63
					have -= uint(e & 63)
					out[o] = byte(e >> 16)
					o++
					continue
				}
			}
			if e&entryEnd != 0 {
				hold >>= e & 63
				have -= uint(e & 63)
				ended = true
				break
			}
			if e&entryBad != 0 {
				err = errHuffman
				break
			}
		}
		length := int(e>>16) + int(hold&(1<<(e&63)-1)>>(e>>8&15))
		hold >>= e & 63
		have -= uint(e & 63)
		// A distance takes 28 bits at most; two literals and a length have taken 42 at most.
		hold |= binary.LittleEndian.Uint64(in[pos:]) << have
		pos += int(63-have) >> 3
		have |= 56
		e = distances[hold&(1<<distanceBits-1)]
		if e&entrySpecial != 0 {
			if e&entryMore != 0 {
				hold >>= distanceBits
				have -= distanceBits
				e = distances[e>>16+uint32(hold)&(1<<(e>>8&15)-1)]
			}
			if e&entryBad != 0 {
				err = errHuffman
				break
			}
		}
		distance := int(e>>16) + int(hold&(1<<(e&63)-1)>>(e>>8&15))
		hold >>= e & 63
		have -= uint(e & 63)
		if distance > o {
			err = fmt.Errorf("a match %d bytes back, behind the start", distance)
			break
		}
		from, to := o-distance, o
		o += length
		switch {
		case distance >= 8:
			// The room behind the output takes what is copied too much.
			for {
				binary.LittleEndian.PutUint64(out[to:], binary.LittleEndian.Uint64(out[from:]))
				if to, from = to+8, from+8; to >= o {
					break
				}
			}
		case distance == 1:
			word := uint64(out[from]) * 0x0101010101010101
			for ; to < o; to += 8 {
				binary.LittleEndian.PutUint64(out[to:], word)
			}
		default:
			for ; to < o; to, from = to+1, from+1 {
				out[to] = out[from]
			}
		}
	}
	z.pos, z.o, z.hold, z.have = pos, o, hold, have
	return ended, err
}
