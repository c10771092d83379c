package console

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
)

// typing reads typed in pieces of at most n bytes through a detachReader.
func typing(t *testing.T, keys, typed string, n int) (got string, detached bool) {
	t.Helper()
	r := &DetachReader{In: &pieces{[]byte(typed), n}, Keys: []byte(keys), Detached: func() { detached = true }}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), detached
}

type pieces struct {
	rest []byte
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.n, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func TestDetachReader(t *testing.T) {
	for _, c := range []struct {
		keys, typed, want string
		detached          bool
	}{
		{"\x1d", "abc", "abc", false},
		{"\x1d", "ab\x1dc", "", true}, // what came with the keys goes with the session
		{"\x10\x11", "a\x10b\x11c", "a\x10b\x11c", false},
		{"\x10\x11", "\x10\x10\x10b", "\x10\x10\x10b", false},
		{"\x10\x11", "\x10\x10\x11", "", true},
		{"\x01\x01\x02", "\x01\x01\x01\x02", "", true},
		{"\x01\x02\x01\x03", "\x01\x02\x01\x02\x01\x03", "", true},
		{"\x01\x02\x01\x03", "\x01\x02\x01\x02\x01\x04", "\x01\x02\x01\x02\x01\x04", false},
		{"", "a", "a", false},
	} {
		for n := 1; n <= len(c.typed); n++ {
			got, detached := typing(t, c.keys, c.typed, n)
			if detached != c.detached || !detached && got != c.want {
				t.Errorf("keys %q, typed %q in pieces of %d: %q, detached %v; want %q, %v", c.keys, c.typed, n, got, detached, c.want, c.detached)
			}
		}
	}
}

// The reader detaches exactly where the keys are in the text, and else passes on all but a beginning of them at the end.
func TestDetachReaderFindsKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(1 + r.IntN(2))
		}
		return string(b)
	}
	for range 20000 {
		keys, typed := word(1+r.IntN(4)), word(r.IntN(12))
		got, detached := typing(t, keys, typed, 1+r.IntN(4))
		if want := bytes.Contains([]byte(typed), []byte(keys)); detached != want {
			t.Fatalf("keys %q, typed %q: detached %v", keys, typed, detached)
		}
		if !detached && !bytes.HasPrefix([]byte(typed), []byte(got)) {
			t.Fatalf("keys %q, typed %q: passed on %q", keys, typed, got)
		}
		if !detached && len(typed)-len(got) >= len(keys) {
			t.Fatalf("keys %q, typed %q: passed on only %q", keys, typed, got)
		}
	}
}
