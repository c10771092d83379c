package agentproto

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// The major types of CBOR (RFC 8949 §3.1).
const (
	majorUint byte = iota << 5
	majorNegative
	majorBytes
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

const (
	cborFalse = majorSimple | 20
	cborTrue  = majorSimple | 21
	cborNull  = majorSimple | 22
	cborBreak = majorSimple | 31

	indefinite = 31
)

// Bounds on what a peer may make us walk and allocate.
const (
	maxDepth    = 16
	maxElements = 1 << 17 // of one array
	maxPairs    = 64      // of one map
)

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= 0xff:
		return append(b, major|24, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majorNegative, uint64(-1-n))
	}
	return appendHead(b, majorUint, uint64(n))
}

// reader walks CBOR in b. What it returns aliases b.
type reader struct{ b []byte }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// head reads the head of the next value: its major type and its number. For an indefinite length, indef is true.
func (r *reader) head() (major byte, n uint64, indef bool, err error) {
	if len(r.b) == 0 {
		return 0, 0, false, malformed("ends too early")
	}
	major, low := r.b[0]&0xe0, r.b[0]&0x1f
	r.b = r.b[1:]
	size := 0
	switch {
	case low < 24:
		return major, uint64(low), false, nil
	case low <= 27:
		size = 1 << (low - 24)
	case low == indefinite && major >= majorBytes && major <= majorMap:
		return major, 0, true, nil
	default:
		return 0, 0, false, malformed("unknown head %#02x", major|low)
	}
	if len(r.b) < size {
		return 0, 0, false, malformed("ends too early")
	}
	for _, c := range r.b[:size] {
		n = n<<8 | uint64(c)
	}
	r.b = r.b[size:]
	return major, n, false, nil
}

// value is head without the tags before it, which say nothing that a message needs.
func (r *reader) value() (major byte, n uint64, indef bool, err error) {
	for range maxDepth {
		major, n, indef, err = r.head()
		if err != nil || major != majorTag {
			return major, n, indef, err
		}
	}
	return 0, 0, false, malformed("too many tags")
}

func (r *reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.b)) {
		return nil, malformed("ends too early")
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s, nil
}

// stop reports whether the break of an indefinite length is next, and passes it.
func (r *reader) stop() bool {
	if len(r.b) > 0 && r.b[0] == cborBreak {
		r.b = r.b[1:]
		return true
	}
	return false
}

// null reports whether the next value is null or undefined.
func (r *reader) null() bool { return len(r.b) > 0 && (r.b[0] == cborNull || r.b[0] == cborNull+1) }

// str reads a string of one of the two kinds.
func (r *reader) str(want byte) ([]byte, error) {
	major, n, indef, err := r.value()
	if err != nil {
		return nil, err
	}
	if major != want {
		return nil, malformed("want a string of major type %d, have %d", want>>5, major>>5)
	}
	if !indef {
		return r.take(n)
	}
	var all []byte
	for !r.stop() {
		major, n, indef, err := r.head()
		if err != nil {
			return nil, err
		}
		if major != want || indef {
			return nil, malformed("bad chunk of a string")
		}
		chunk, err := r.take(n)
		if err != nil {
			return nil, err
		}
		all = append(all, chunk...)
	}
	return all, nil
}

func (r *reader) text() ([]byte, error) {
	s, err := r.str(majorText)
	if err == nil && !utf8.Valid(s) {
		err = malformed("text is not UTF-8")
	}
	return s, err
}

// integer reads a whole number; neg means -1-n.
func (r *reader) integer() (n uint64, neg bool, err error) {
	major, n, _, err := r.value()
	if err != nil {
		return 0, false, err
	}
	if major != majorUint && major != majorNegative {
		return 0, false, malformed("want a number, have major type %d", major>>5)
	}
	return n, major == majorNegative, nil
}

func (r *reader) boolean() (bool, error) {
	major, n, _, err := r.value()
	if err != nil {
		return false, err
	}
	if major != majorSimple || n != 20 && n != 21 {
		return false, malformed("want true or false")
	}
	return n == 21, nil
}

// elements calls f for each element of an array, or for each pair of a map. f must consume it.
func (r *reader) elements(want byte, limit int, f func() error) error {
	major, n, indef, err := r.value()
	if err != nil {
		return err
	}
	if major != want {
		return malformed("want major type %d, have %d", want>>5, major>>5)
	}
	for i := uint64(0); ; i++ {
		if indef && r.stop() || !indef && i == n {
			return nil
		}
		if i == uint64(limit) {
			return malformed("more than %d elements", limit)
		}
		if err := f(); err != nil {
			return err
		}
	}
}

// skip passes the next value, whatever it is, and returns its bytes.
func (r *reader) skip(depth int) ([]byte, error) {
	start := r.b
	if err := r.pass(depth); err != nil {
		return nil, err
	}
	return start[:len(start)-len(r.b)], nil
}

func (r *reader) pass(depth int) error {
	if depth > maxDepth {
		return malformed("nested deeper than %d", maxDepth)
	}
	major, n, indef, err := r.head()
	if err != nil {
		return err
	}
	switch major {
	case majorBytes, majorText:
		if !indef {
			_, err = r.take(n)
			return err
		}
		for !r.stop() {
			m, n, in, err := r.head()
			if err != nil {
				return err
			}
			if m != major || in {
				return malformed("bad chunk of a string")
			}
			if _, err := r.take(n); err != nil {
				return err
			}
		}
		return nil
	case majorTag:
		return r.pass(depth + 1)
	case majorArray, majorMap:
		per := uint64(1)
		if major == majorMap {
			per = 2
		}
		if n > uint64(len(r.b)) { // each element has a byte at least
			return malformed("ends too early")
		}
		for i := uint64(0); indef || i < n; i++ {
			if indef && r.stop() {
				return nil
			}
			for range per {
				if err := r.pass(depth + 1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
