package secret

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

// clientFrame is a frame of a WebSocket as a client sends it, its length written in as many bytes as wide says: 0, 2 or 8.
func clientFrame(first byte, key [4]byte, wide int, text string) []byte {
	b := []byte{first, 0x80 | byte(len(text))}
	switch wide {
	case 2:
		b = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(text)))
	case 8:
		b = binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, uint64(len(text)))
	}
	b = append(b, key[:]...)
	for i, c := range []byte(text) {
		b = append(b, c^key[i%4])
	}
	return b
}

func TestWatchFrames(t *testing.T) {
	set := newSet(t, nil)
	evil := set.For(Target{Host: "evil.test"})
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	for name, x := range map[string]struct {
		stream string
		found  bool
	}{
		"short":              {string(clientFrame(0x81, key, 0, placeholder)), true},
		"16 bits":            {string(clientFrame(0x81, key, 2, strings.Repeat("x", 70)+placeholder)), true},
		"64 bits":            {string(clientFrame(0x82, key, 8, placeholder)), true},
		"without a mask":     {"\x81" + string([]byte{byte(len(placeholder))}) + placeholder, true},
		"no frames":          {placeholder, true},
		"in two parts":       {string(clientFrame(0x01, key, 0, placeholder[:4])) + string(clientFrame(0x80, [4]byte{1}, 0, placeholder[4:])), true},
		"a ping in between":  {string(clientFrame(0x01, key, 0, placeholder[:4])) + string(clientFrame(0x89, key, 0, "ping")) + string(clientFrame(0x80, key, 0, placeholder[4:])), true},
		"nothing in between": {string(clientFrame(0x01, key, 0, placeholder[:4])) + string(clientFrame(0x00, key, 0, "")) + string(clientFrame(0x80, key, 0, placeholder[4:])), true},
		"a ping":             {string(clientFrame(0x89, key, 0, placeholder)), true},
		"not for it":         {string(clientFrame(0x81, key, 0, "hello")) + string(clientFrame(0x82, key, 2, strings.Repeat("$MSB_API_", 100))), false},
		"a length too long":  {"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + string(key[:]) + "hello", false},
		"in a ping and then": {string(clientFrame(0x89, key, 0, placeholder[:4])) + string(clientFrame(0x82, key, 0, placeholder[4:])), false},
	} {
		for _, size := range []int{1, 2, 3, 7, 64, 1 << 16} {
			got, err := io.ReadAll(evil.WatchFrames(&pieces{strings.NewReader(x.stream), size}, "its stream"))
			var v *Violation
			if errors.As(err, &v) != x.found || x.found && v.Env != "API_KEY" || !x.found && (err != nil || string(got) != x.stream) {
				t.Errorf("%s in pieces of %d: %q, %v", name, size, got, err)
			}
		}
	}
	in := strings.NewReader(placeholder)
	if r := set.For(goodTarget).WatchFrames(in, "its stream"); r != io.Reader(in) {
		t.Error("what may go there is searched")
	}
}

// FuzzWatchFrames takes anything for what a guest sends: it comes through as it is or is refused, whatever the pieces, and a placeholder
// in a frame behind it is found if what is before consists of whole frames.
func FuzzWatchFrames(f *testing.F) {
	plan := newSet(f, nil).For(Target{Host: "evil.test"})
	f.Add([]byte("\x81\x05hello"), 1)
	f.Add(clientFrame(0x01, [4]byte{1, 2, 3, 4}, 2, "$MSB_"), 3)
	f.Add([]byte("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04x"), 2)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		size = max(1, size&0xffff)
		got, err := io.ReadAll(plan.WatchFrames(&pieces{bytes.NewReader(stream), size}, "its stream"))
		if !bytes.HasPrefix(stream, got) || err == nil && len(got) != len(stream) {
			t.Fatalf("%d bytes of %d came through: %v", len(got), len(stream), err)
		}
		again, err2 := io.ReadAll(plan.WatchFrames(bytes.NewReader(stream), "its stream"))
		if (err == nil) != (err2 == nil) {
			t.Fatalf("in pieces of %d: %v; as a whole (%d bytes): %v", size, err, len(again), err2)
		}
		whole := clientFrame(0x82, [4]byte{9, 8, 7, 6}, 8, string(stream))
		whole = append(whole, clientFrame(0x82, [4]byte{6, 7, 8, 9}, 0, placeholder)...)
		if _, err := io.ReadAll(plan.WatchFrames(&pieces{bytes.NewReader(whole), size}, "its stream")); err == nil {
			t.Fatal("a placeholder behind it was not found")
		}
	})
}
