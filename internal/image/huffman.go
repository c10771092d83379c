package image

import (
	"errors"
	"math/bits"
)

// A table decodes one Huffman code of DEFLATE (RFC 1951): indexed by the next bits of the stream, lowest first, it says what
// they begin with. Codes longer than the index go on in a second table behind it.
//
// An entry has, from its lowest bit: how many bits to take, with the extra bits of a length or a distance (8); how many of
// these are the code itself (4), or, with more, how many index the second table; the flags (4); the literal, the base to
// which the extra bits are added, or where the second table begins (16).
type table struct {
	bits    uint
	entries []uint32
}

const (
	literalBits  = 11
	distanceBits = 9
	maxCodeBits  = 15
	// What a table can need at most, for 288 and 32 symbols: zlib's enough.c computes it.
	literalEntries  = 2342
	distanceEntries = 594

	entryLiteral = 1 << 15
	entryMore    = 1 << 14 // the code is longer
	entryEnd     = 1 << 13 // of the block
	entryBad     = 1 << 12 // no code begins so
	entrySpecial = entryMore | entryEnd | entryBad
)

var errHuffman = errors.New("a Huffman code is impossible")

// symbols says, for each symbol, its part of an entry: flags and value, and the number of extra bits.
type symbol struct {
	entry uint32
	extra uint8
}

var literalSymbols, distanceSymbols = func() (l [288]symbol, d [32]symbol) {
	for i := range 256 {
		l[i] = symbol{entryLiteral | uint32(i)<<16, 0}
	}
	l[256].entry = entryEnd
	base := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint8(max(0, (i-261)/4))
		l[i] = symbol{base << 16, extra}
		base += 1 << extra
	}
	l[285].entry = 258 << 16
	l[286].entry, l[287].entry = entryBad, entryBad
	base = 1
	for i := range 30 {
		extra := uint8(max(0, (i-2)/2))
		d[i] = symbol{base << 16, extra}
		base += 1 << extra
	}
	d[30].entry, d[31].entry = entryBad, entryBad
	return l, d
}()

// build fills the table for codes with these lengths. Only a code of a single symbol may leave some bits without meaning.
func (t *table) build(lengths []uint8, symbols []symbol) error {
	var count [maxCodeBits + 1]int
	for _, n := range lengths {
		count[n]++
	}
	used := len(lengths) - count[0]
	count[0] = 0
	var next [maxCodeBits + 2]uint32
	left := 1 // codes of the current length that are free
	code := uint32(0)
	longest := uint(0)
	for n := 1; n <= maxCodeBits; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return errHuffman
		}
		code = (code + uint32(count[n-1])) << 1
		next[n] = code
		if count[n] > 0 {
			longest = uint(n)
		}
	}
	if left > 0 && (used > 1 || used == 1 && longest != 1) {
		return errHuffman
	}
	if left > 0 {
		for i := range t.entries[:1<<t.bits] {
			t.entries[i] = entryBad | 1
		}
	}
	free := uint32(1) << t.bits
	var second [1 << literalBits]uint8 // how many bits index the second table of a prefix
	if longest > t.bits {
		prefixes := next
		for _, n := range lengths {
			if uint(n) > t.bits {
				p := reversed(prefixes[n], n) & (1<<t.bits - 1)
				second[p] = max(second[p], n-uint8(t.bits))
			}
			prefixes[n]++
		}
	}
	for s, n := range lengths {
		if n == 0 {
			continue
		}
		c := reversed(next[n], n)
		next[n]++
		y := symbols[s]
		if uint(n) <= t.bits {
			e := y.entry | uint32(n)<<8 | uint32(n+y.extra)
			for i := c; i < 1<<t.bits; i += 1 << n {
				t.entries[i] = e
			}
			continue
		}
		p := c & (1<<t.bits - 1)
		more := second[p]
		if more&0x80 == 0 {
			t.entries[p] = entryMore | free<<16 | uint32(more)<<8 | uint32(t.bits)
			free += 1 << more
			second[p] |= 0x80
		}
		more &= 0x7f
		rest := n - uint8(t.bits)
		e := y.entry | uint32(rest)<<8 | uint32(rest+y.extra)
		start := t.entries[p] >> 16
		for i := c >> t.bits; i < 1<<more; i += 1 << rest {
			t.entries[start+i] = e
		}
	}
	return nil
}

func reversed(code uint32, n uint8) uint32 { return bits.Reverse32(code) >> (32 - n) }
