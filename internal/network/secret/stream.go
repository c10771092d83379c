package secret

import (
	"bytes"
	"io"
)

// replaceReader replaces placeholders in a stream. At each place the longest one counts.
type replaceReader struct {
	in    io.Reader
	from  [][]byte // longest first
	to    []string
	next  []int // where each is found next in raw: an index, none or unknown
	raw   []byte
	out   []byte // for the reader, of which ready is the rest
	ready []byte
	full  bool // raw has more that out had no room for
	err   error
}

const (
	none    = -1
	unknown = -2

	pieceSize = 32 << 10
	maxOut    = 256 << 10 // and one value: values may be much longer than placeholders
)

func newReplaceReader(in io.Reader, list []*secret) *replaceReader {
	r := &replaceReader{in: in}
	for _, x := range list {
		r.from, r.to = append(r.from, []byte(x.placeholder)), append(r.to, x.value)
	}
	r.next = make([]int, len(r.from))
	return r
}

func (r *replaceReader) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		if r.err != nil && !r.full {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// fill reads a piece and replaces what in it can no more become part of a longer placeholder.
func (r *replaceReader) fill() {
	if !r.full {
		have := len(r.raw)
		r.raw = append(r.raw, make([]byte, max(0, pieceSize-have))...)
		n, err := r.in.Read(r.raw[have:])
		r.raw, r.err = r.raw[:have+n], err
	}
	rest, err := r.raw, r.err
	r.full = false
	r.out = r.out[:0]
	for i := range r.next {
		r.next[i] = unknown
	}
	at := 0
	for {
		begin, which := r.first(rest, at)
		if which < 0 || err == nil && begin+len(r.from[0]) > len(rest) {
			break // what is there may be the beginning of a longer one
		}
		r.out = append(append(r.out, rest[at:begin]...), r.to[which]...)
		at = begin + len(r.from[which])
		if r.full = len(r.out) > maxOut; r.full {
			break
		}
	}
	keep := len(rest)
	switch {
	case r.full:
		keep = at
	case err == nil:
		keep = max(at, len(rest)-len(r.from[0])+1)
	}
	r.out = append(r.out, rest[at:keep]...)
	r.raw = append(r.raw[:0], rest[keep:]...)
	r.ready = r.out
}

// first returns where the first placeholder at or behind at begins, and which one it is, or -1.
func (r *replaceReader) first(b []byte, at int) (begin, which int) {
	which = -1
	for i, f := range r.from {
		if r.next[i] == unknown || r.next[i] != none && r.next[i] < at {
			if r.next[i] = bytes.Index(b[at:], f); r.next[i] >= 0 {
				r.next[i] += at
			}
		}
		if n := r.next[i]; n >= 0 && (which < 0 || n < begin) {
			begin, which = n, i
		}
	}
	return begin, which
}

// watchReader ends a stream with a Violation when a placeholder that must not be sent has gone into it.
type watchReader struct {
	in    io.Reader
	plan  *Plan
	scan  *scanner
	where string
}

func (r *watchReader) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if x := r.scan.write(p[:n]); x != nil {
		return 0, r.plan.violation(x, r.where)
	}
	return n, err
}

// Watch returns in with an error, a *Violation, in place of what completes a placeholder that must not be sent.
func (p *Plan) Watch(in io.Reader, where string) io.Reader {
	if len(p.watch) == 0 {
		return in
	}
	return &watchReader{in: in, plan: p, scan: newScanner(p), where: where}
}
