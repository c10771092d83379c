package secret

import (
	"bytes"
	"slices"
)

// matcher looks for many literals at once (Wu and Manber, 1994): it looks at two bytes at a time, and where no literal has
// these two, skips as many as the shortest literal allows. It does not change.
type matcher struct {
	least int // the length of the shortest literal
	shift [1 << 16]uint8
	at    map[uint16][]literal // those of which the first least bytes end in these two
	all   []literal
}

type literal struct {
	text []byte
	of   *secret
}

// leastSkip is the length of literals from which on skipping is worth its table.
const leastSkip = 4

func newMatcher(list []*secret) *matcher {
	m := &matcher{least: 255, at: map[uint16][]literal{}}
	for _, x := range list {
		for _, l := range x.literals {
			m.all = append(m.all, literal{l, x})
			m.least = min(m.least, len(l))
		}
	}
	if m.least < leastSkip {
		return m
	}
	for i := range m.shift {
		m.shift[i] = uint8(m.least - 1)
	}
	for _, l := range m.all {
		for i := 1; i < m.least; i++ {
			p := pair(l.text, i)
			m.shift[p] = min(m.shift[p], uint8(m.least-1-i))
		}
		p := pair(l.text, m.least-1)
		m.at[p] = append(m.at[p], l)
	}
	return m
}

// pair is the two bytes of b that end at i.
func pair(b []byte, i int) uint16 { return uint16(b[i-1])<<8 | uint16(b[i]) }

// find returns one of list with a literal in b, or nil.
func (m *matcher) find(list []*secret, b []byte) *secret {
	if m.least < leastSkip {
		for _, l := range m.all {
			if bytes.Contains(b, l.text) && slices.Contains(list, l.of) {
				return l.of
			}
		}
		return nil
	}
	for i := m.least - 1; i < len(b); {
		p := pair(b, i)
		if s := m.shift[p]; s > 0 {
			i += int(s)
			continue
		}
		for _, l := range m.at[p] {
			if bytes.HasPrefix(b[i-m.least+1:], l.text) && slices.Contains(list, l.of) {
				return l.of
			}
		}
		i++
	}
	return nil
}
