package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
)

// literals are the forms of a text, which is not empty, that are the same wherever they are: itself, in base64 (which depends on where
// in a group of three bytes it begins), in hexadecimal and in UTF-16.
func literals(placeholder string) [][]byte {
	p := []byte(placeholder)
	all := [][]byte{p}
	add := func(l []byte) {
		if len(l) >= minLiteral {
			all = append(all, l)
		}
	}
	for shift := range 3 {
		in := append(make([]byte, shift, shift+len(p)), p...)
		for i, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			out := enc.AppendEncode(nil, in)
			out = out[(shift*8+5)/6 : len(in)*8/6] // without the digits that others' bits are in
			if i == 0 || !bytes.Equal(out, all[len(all)-1]) {
				add(out)
			}
		}
	}
	x := hex.AppendEncode(nil, p)
	add(x)
	add(bytes.ToUpper(x))
	var wide []byte
	for _, c := range p[:len(p)-1] {
		wide = append(wide, c, 0)
	}
	add(append(wide, p[len(p)-1]))
	return all
}

// minLiteral is the length, in bytes, below which a form is likely to be found where no placeholder is.
const minLiteral = 6

// scanner looks for placeholders in a stream, whatever pieces it comes in, as it is and with percent-encoding, JSON's
// escapes and line breaks undone. Its memory is bounded.
type scanner struct {
	list    []*secret
	matcher *matcher
	longest int // of all literals
	plain   window
	decoded [3]decoded
	found   *secret
}

// decoded is a form of the stream with one encoding undone. It is looked at around what was undone: the rest was looked at
// as it is.
type decoded struct {
	undo   undoer
	window window
	begun  bool     // there was some of the encoding
	out    []byte   // of the last piece, used again for the next
	marks  []int    // where in out something was undone
	next   *decoded // with another encoding undone on top
}

// undoer undoes an encoding.
type undoer interface {
	// trigger is a byte without which there is none of it.
	trigger() byte
	// undo appends src to dst, and to marks where in dst it undid something.
	undo(dst, src []byte, marks []int) ([]byte, []int)
}

// newScanner looks for what p must not let pass.
func newScanner(p *Plan) *scanner {
	list := p.watch
	s := &scanner{list: list, matcher: p.matcher}
	for _, x := range list {
		for _, l := range x.literals {
			s.longest = max(s.longest, len(l))
		}
	}
	s.decoded = [3]decoded{
		{undo: &percent{}, next: &decoded{undo: &percent{}, next: &decoded{undo: &percent{}, next: &decoded{undo: &escapes{}}}}},
		{undo: &escapes{}, next: &decoded{undo: &percent{}, next: &decoded{undo: &percent{}}}},
		{undo: &breaks{}},
	}
	return s
}

// write looks at the next piece and returns the secret whose placeholder ended in it, or nil.
func (s *scanner) write(p []byte) *secret {
	if s.found != nil || len(p) == 0 {
		return s.found
	}
	if s.found = s.plain.find(s, p); s.found != nil {
		return s.found
	}
	for i := range s.decoded {
		if s.found = s.decoded[i].write(s, p, s.plain.before); s.found != nil {
			return s.found
		}
	}
	return nil
}

// write undoes d's encoding in p. before is what came before p and may still be the beginning of something: from the first
// trigger on, this form is looked at, too.
func (d *decoded) write(s *scanner, p, before []byte) *secret {
	if !d.begun {
		if bytes.IndexByte(p, d.undo.trigger()) < 0 {
			return nil
		}
		d.begun = true
		p = append(append([]byte(nil), before...), p...)
	}
	d.out, d.marks = d.undo.undo(d.out[:0], p, d.marks[:0])
	if len(d.out) == 0 && len(d.marks) == 0 {
		return nil
	}
	if x := d.window.findNear(s, d.out, d.marks); x != nil {
		return x
	}
	if d.next != nil {
		return d.next.write(s, d.out, d.window.before)
	}
	return nil
}

// window is the end of what was seen of a stream.
type window struct {
	tail   []byte // of all that was seen
	before []byte // the tail as it was before the last piece
	seam   []byte
	hot    int // how many bytes of the next piece are near to a mark
}

// find looks for literals in p, and in what p's beginning makes of the end of what came before.
func (w *window) find(s *scanner, p []byte) *secret {
	keep := s.longest - 1
	w.seam = append(append(w.seam[:0], w.tail...), p[:min(len(p), keep)]...)
	x := s.matcher.find(s.list, w.seam)
	if x == nil && len(p) > keep {
		x = s.matcher.find(s.list, p)
	}
	w.advance(p, keep)
	return x
}

// findNear is find around marks in p.
func (w *window) findNear(s *scanner, p []byte, marks []int) *secret {
	var found *secret
	near := w.hot // of p, from its beginning, what is still to be looked at
	if len(marks) > 0 || near > 0 {
		w.seam = append(append(w.seam[:0], w.tail...), p...)
		off := len(w.tail)
		from, to := 0, off+near
		if near <= 0 {
			to = 0
		}
		for _, m := range marks {
			begin, end := max(0, off+m-s.longest), off+m+s.longest
			if begin > to {
				if found == nil {
					found = s.matcher.find(s.list, w.seam[from:min(to, len(w.seam))])
				}
				from = begin
			}
			to = end
		}
		if found == nil {
			found = s.matcher.find(s.list, w.seam[from:min(to, len(w.seam))])
		}
		near = to - off
	}
	w.hot = max(0, near-len(p))
	w.advance(p, s.longest-1)
	return found
}

func (w *window) advance(p []byte, keep int) {
	w.before = append(w.before[:0], w.tail...)
	if len(p) >= keep {
		w.tail = append(w.tail[:0], p[len(p)-keep:]...)
	} else {
		w.tail = append(w.tail, p...)
		w.tail = append(w.tail[:0], w.tail[max(0, len(w.tail)-keep):]...)
	}
}

// percent undoes %XX.
type percent struct{ held []byte }

func (*percent) trigger() byte { return '%' }

func (u *percent) undo(dst, src []byte, marks []int) ([]byte, []int) {
	for len(src) > 0 {
		if len(u.held) == 0 {
			i := bytes.IndexByte(src, '%')
			if i < 0 {
				return append(dst, src...), marks
			}
			dst = append(dst, src[:i]...)
			u.held = append(u.held, '%')
			src = src[i+1:]
			continue
		}
		c := src[0]
		if unhex(c) < 0 { // no encoding; and c may begin one
			dst = append(dst, u.held...)
			u.held = u.held[:0]
			continue
		}
		src = src[1:]
		if u.held = append(u.held, c); len(u.held) == 3 {
			marks = append(marks, len(dst))
			dst = append(dst, byte(unhex(u.held[1])<<4|unhex(u.held[2])))
			u.held = u.held[:0]
		}
	}
	return dst, marks
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// escapes undoes \uXXXX, \xXX and a backslash before any other character.
type escapes struct{ held []byte }

func (*escapes) trigger() byte { return '\\' }

func (u *escapes) undo(dst, src []byte, marks []int) ([]byte, []int) {
	for len(src) > 0 {
		if len(u.held) == 0 {
			i := bytes.IndexByte(src, '\\')
			if i < 0 {
				return append(dst, src...), marks
			}
			dst = append(dst, src[:i]...)
			u.held = append(u.held, '\\')
			src = src[i+1:]
			continue
		}
		c := src[0]
		want := 6
		if len(u.held) > 1 && u.held[1] == 'x' {
			want = 4
		}
		if len(u.held) > 1 && unhex(c) < 0 { // not so many digits: no escape; and c may begin one
			dst = append(dst, u.held...)
			u.held = u.held[:0]
			continue
		}
		src = src[1:]
		u.held = append(u.held, c)
		switch {
		case len(u.held) == 2 && c != 'u' && c != 'x':
			marks = append(marks, len(dst))
			dst = append(dst, c)
			u.held = u.held[:0]
		case len(u.held) > 2 && len(u.held) == want:
			v := 0
			for _, c := range u.held[2:] {
				v = v<<4 | unhex(c)
			}
			marks = append(marks, len(dst))
			dst = append(dst, string(rune(v))...)
			u.held = u.held[:0]
		}
	}
	return dst, marks
}

// breaks undoes the breaking of lines.
type breaks struct{}

func (breaks) trigger() byte { return '\n' }

func (breaks) undo(dst, src []byte, marks []int) ([]byte, []int) {
	for len(src) > 0 {
		i := bytes.IndexAny(src, "\r\n")
		if i < 0 {
			return append(dst, src...), marks
		}
		dst = append(dst, src[:i]...)
		marks = append(marks, len(dst))
		src = src[i+1:]
	}
	return dst, marks
}
