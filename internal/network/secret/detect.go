package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
)

// literals are the forms of a placeholder that are the same wherever they are: itself, in base64 (which depends on where
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
	longest int // of all literals
	plain   window
	decoded [3]decoded
	found   *secret
}

// decoded is a form of the stream with one encoding undone, and whether there was any of it so far.
type decoded struct {
	undo   undoer
	window window
	begun  bool
	out    []byte   // of the last piece, used again for the next
	next   *decoded // with another encoding undone on top
}

// undoer undoes an encoding. trigger is a byte without which there is none of it.
type undoer interface {
	trigger() byte
	undo(dst, src []byte) []byte
}

func newScanner(list []*secret) *scanner {
	s := &scanner{list: list}
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
	d.out = d.undo.undo(d.out[:0], p)
	if len(d.out) == 0 {
		return nil
	}
	if x := d.window.find(s, d.out); x != nil {
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
}

// find looks for literals in p, and in what p's beginning makes of the end of what came before.
func (w *window) find(s *scanner, p []byte) *secret {
	keep := s.longest - 1
	w.before = append(w.before[:0], w.tail...)
	w.seam = append(append(w.seam[:0], w.tail...), p[:min(len(p), keep)]...)
	x := find(s.list, w.seam)
	if x == nil && len(p) > keep {
		x = find(s.list, p)
	}
	if len(p) >= keep {
		w.tail = append(w.tail[:0], p[len(p)-keep:]...)
	} else {
		w.tail = append(w.tail, p...)
		w.tail = append(w.tail[:0], w.tail[max(0, len(w.tail)-keep):]...)
	}
	return x
}

// percent undoes %XX.
type percent struct{ held []byte }

func (*percent) trigger() byte { return '%' }

func (u *percent) undo(dst, src []byte) []byte {
	for _, c := range src {
		switch {
		case len(u.held) == 0 && c != '%':
			dst = append(dst, c)
			continue
		case len(u.held) > 0 && c == '%': // the one that was held is no encoding
			dst = append(dst, u.held...)
			u.held = u.held[:0]
		}
		u.held = append(u.held, c)
		if len(u.held) == 3 {
			dst = appendHex(dst, u.held, 1)
			u.held = u.held[:0]
		}
	}
	return dst
}

// appendHex appends the character that the hexadecimal digits of held behind its first n bytes stand for, or held itself.
func appendHex(dst, held []byte, n int) []byte {
	v := 0
	for _, c := range held[n:] {
		d := unhex(c)
		if d < 0 {
			return append(dst, held...)
		}
		v = v<<4 | d
	}
	if v < 0x80 {
		return append(dst, byte(v))
	}
	if n == 1 {
		return append(dst, byte(v))
	}
	return append(dst, string(rune(v))...)
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

func (u *escapes) undo(dst, src []byte) []byte {
	for _, c := range src {
		if len(u.held) == 0 && c != '\\' {
			dst = append(dst, c)
			continue
		}
		u.held = append(u.held, c)
		want := 2
		if len(u.held) > 1 {
			switch u.held[1] {
			case 'u':
				want = 6
			case 'x':
				want = 4
			}
		}
		switch {
		case len(u.held) < want || want == 2 && len(u.held) < 2:
		case want == 2:
			dst = append(dst, c)
			u.held = u.held[:0]
		default:
			dst = appendHex(dst, u.held, 2)
			u.held = u.held[:0]
		}
	}
	return dst
}

// breaks undoes the breaking of lines.
type breaks struct{}

func (breaks) trigger() byte { return '\n' }

func (breaks) undo(dst, src []byte) []byte {
	for _, c := range src {
		if c != '\n' && c != '\r' {
			dst = append(dst, c)
		}
	}
	return dst
}
