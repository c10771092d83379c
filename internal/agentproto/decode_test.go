package agentproto

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"
)

// marshal is the other implementation of CBOR; it writes maps in its own order.
func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Decoders take any order of keys, keys that they do not know, and do without those that have defaults.
func TestLenientDecode(t *testing.T) {
	var req ExecRequest
	err := Decode(marshal(t, map[string]any{"zzz": map[string]any{"deep": []any{1, 2.5, nil, "x"}}, "cmd": "ls", "user": "u", "args": []string{"-l"}}), &req)
	if want := (ExecRequest{Cmd: "ls", Args: []string{"-l"}, User: "u", Rows: 24, Cols: 80}); err != nil || !reflect.DeepEqual(req, want) {
		t.Errorf("have %+v, %v", req, err)
	}
	req = ExecRequest{}
	if err := Decode(marshal(t, map[string]any{"cmd": "ls", "rows": nil, "env": nil, "cwd": nil}), &req); err != nil || req.Rows != 24 {
		t.Errorf("null for a default: %+v, %v", req, err)
	}
	// As JavaScript encoders write: long heads, a tag before bytes, indefinite lengths.
	for name, b := range map[string][]byte{
		"long heads":   {0xb9, 0, 1, 0x79, 0, 4, 'd', 'a', 't', 'a', 0x5a, 0, 0, 0, 2, 'h', 'i'},
		"tag":          {0xa1, 0x64, 'd', 'a', 't', 'a', 0xd8, 64, 0x42, 'h', 'i'},
		"indefinite":   {0xbf, 0x64, 'd', 'a', 't', 'a', 0x5f, 0x41, 'h', 0x41, 'i', 0xff, 0xff},
		"extra before": {0xa2, 0x61, 'x', 0x9f, 1, 2, 0xff, 0x64, 'd', 'a', 't', 'a', 0x42, 'h', 'i'},
	} {
		if data, err := DecodeData(b); err != nil || string(data) != "hi" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestRefused(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x81}, 100), 0)
	for name, b := range map[string][]byte{
		"empty":            {},
		"no map":           {0x01},
		"cut off":          {0xa1, 0x63, 'c', 'm', 'd', 0x65, 'x'},
		"missing cmd":      {0xa0},
		"null cmd":         {0xa1, 0x63, 'c', 'm', 'd', 0xf6},
		"cmd is bytes":     {0xa1, 0x63, 'c', 'm', 'd', 0x41, 'x'},
		"cmd is not UTF-8": {0xa1, 0x63, 'c', 'm', 'd', 0x61, 0xff},
		"cmd twice":        {0xa2, 0x63, 'c', 'm', 'd', 0x61, 'x', 0x63, 'c', 'm', 'd', 0x61, 'x'},
		"after it":         {0xa1, 0x63, 'c', 'm', 'd', 0x61, 'x', 0},
		"deep":             append([]byte{0xa2, 0x63, 'c', 'm', 'd', 0x61, 'x', 0x61, 'y'}, deep...),
		"rows too big":     append(marshalMap("rows"), 0x1a, 0, 1, 0, 0),
		"rows negative":    append(marshalMap("rows"), 0x20),
		"endless args":     append(marshalMap("args"), 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"many keys":        append([]byte{0xb8, 65}, bytes.Repeat([]byte{0x61, 'a', 0}, 65)...),
		"reserved head":    {0xa1, 0x63, 'c', 'm', 'd', 0x7c},
	} {
		var req ExecRequest
		if err := Decode(b, &req); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %+v", name, err, req)
		}
	}
	for name, b := range map[string][]byte{
		"two operations": marshal(t, map[string]any{"op": map[string]any{"List": map[string]any{"path": "/"}, "Remove": map[string]any{"path": "/"}}}),
		"unknown":        marshal(t, map[string]any{"op": map[string]any{"Chroot": map[string]any{"path": "/"}}}),
		"none":           marshal(t, map[string]any{"op": map[string]any{}}),
		"a text":         marshal(t, map[string]any{"op": "List"}),
	} {
		if err := Decode(b, &FSRequest{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"no type": marshal(t, map[string]any{"v": 7, "p": []byte{}}),
		"p twice": {0xa4, 0x61, 'v', 7, 0x61, 't', 0x61, 'x', 0x61, 'p', 0x40, 0x61, 'p', 0x40},
		"p text":  marshal(t, map[string]any{"v": 7, "t": "x", "p": ""}),
		"v big":   marshal(t, map[string]any{"v": uint64(1) << 40, "t": "x", "p": []byte{}}),
	} {
		if _, err := Open(b); !errors.Is(err, ErrMalformed) || TypeOf(b) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// marshalMap begins {cmd: "x", key: …}.
func marshalMap(key string) []byte {
	return appendText([]byte{0xa2, 0x63, 'c', 'm', 'd', 0x61, 'x'}, key)
}

func TestReader(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 1 << 20, MaxBody - headroom}
	for _, n := range frameSizes {
		sizes = append(sizes, n-100, n-1, n, n+1)
	}
	for i, n := range sizes {
		stream = AppendData(stream, uint32(i), TypeFSData, bytes.Repeat([]byte{byte(i)}, n))
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "half": iotest.HalfReader, "with EOF": iotest.DataErrReader} {
		r := NewReader(wrap(bytes.NewReader(stream)))
		for i, n := range sizes {
			f, err := r.Next()
			if err != nil {
				t.Fatal(name, err)
			}
			m, err := Open(f.Body())
			if err != nil {
				t.Fatal(name, err)
			}
			data, err := DecodeData(m.Payload)
			if err != nil || f.ID != uint32(i) || len(data) != n || bytes.Count(data, []byte{byte(i)}) != n {
				t.Errorf("%s: frame %d: id %d, %d bytes, %v", name, i, f.ID, len(data), err)
			}
			f.Release()
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
	for length, want := range map[string]error{"\x00\x00\x00\x04": ErrLength, "\x00\x40\x00\x01": ErrLength, "\x00\x40\x00\x00": io.ErrUnexpectedEOF} {
		if _, err := NewReader(strings.NewReader(length + "\x00\x00\x00\x00\x00")).Next(); err != want {
			t.Errorf("length %x: %v, want %v", length, err, want)
		}
	}
	if _, err := NewReader(strings.NewReader("\x00\x00")).Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("half a length: %v", err)
	}
}

func TestSlots(t *testing.T) {
	if SlotStep != 33_554_431 {
		t.Errorf("step %d", SlotStep)
	}
	for slot := range SlotCount {
		start, end := IDRange(slot)
		if start != uint32(slot)*SlotStep+1 || end != uint32(slot)*SlotStep+SlotStep || SlotOf(start) != slot || SlotOf(end-1) != slot {
			t.Errorf("slot %d: %d to %d", slot, start, end)
		}
	}
}

// Whatever a request holds arrives, here and at the other implementation of CBOR.
func TestExecRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.String(), 0, 5)
		req := ExecRequest{
			Cmd: rapid.String().Draw(t, "cmd"), Args: texts.Draw(t, "args"), Env: texts.Draw(t, "env"), Cwd: rapid.String().Draw(t, "cwd"),
			User: rapid.String().Draw(t, "user"), TTY: rapid.Bool().Draw(t, "tty"), Rows: rapid.Uint16Min(1).Draw(t, "rows"),
			Cols: rapid.Uint16Min(1).Draw(t, "cols"), Window: rapid.Uint32().Draw(t, "window"),
			Rlimits: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rlimit {
				return Rlimit{rapid.String().Draw(t, "resource"), rapid.Uint64().Draw(t, "soft"), rapid.Uint64().Draw(t, "hard")}
			}), 0, 4).Draw(t, "rlimits"),
		}
		b := Encode(&req)
		var back ExecRequest
		if err := Decode(b, &back); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(Encode(&back), b) {
			t.Fatalf("have %+v, want %+v", back, req)
		}
		var other struct {
			Cmd  string   `cbor:"cmd"`
			Args []string `cbor:"args"`
			Cwd  *string  `cbor:"cwd"`
			Rows uint16   `cbor:"rows"`
		}
		if err := cbor.Unmarshal(b, &other); err != nil {
			t.Fatal(err)
		}
		if other.Cmd != req.Cmd || len(other.Args) != len(req.Args) || other.Rows != req.Rows || (other.Cwd == nil) != (req.Cwd == "") {
			t.Fatalf("the other reads %+v in %+v", other, req)
		}
	})
}

func TestNumbersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attrs := FileAttrs{}
		if rapid.Bool().Draw(t, "mode") {
			attrs.Mode = ptr(rapid.Uint32().Draw(t, "m"))
		}
		attrs.Size = ptr(rapid.Uint64().Draw(t, "size"))
		attrs.MTime = ptr(rapid.Int64().Draw(t, "mtime"))
		var back FileAttrs
		if err := Decode(Encode(&attrs), &back); err != nil || !reflect.DeepEqual(attrs, back) {
			t.Fatalf("have %+v, want %+v: %v", back, attrs, err)
		}
		code := ExecExited{Code: rapid.Int32().Draw(t, "code"), Signal: rapid.Int32().Draw(t, "signal")}
		var codeBack ExecExited
		if err := Decode(Encode(&code), &codeBack); err != nil || code != codeBack {
			t.Fatalf("have %+v, want %+v: %v", codeBack, code, err)
		}
	})
}

func TestDataDoesNotAllocate(t *testing.T) {
	frame := AppendData(nil, 7, TypeExecStdout, make([]byte, 4096))
	body := frame[HeaderLen:]
	if n := testing.AllocsPerRun(100, func() {
		m, err := Open(body)
		if err != nil || m.Type != TypeExecStdout {
			t.Fatal(err)
		}
		if _, err := DecodeData(m.Payload); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("decoding a data frame allocates %v times", n)
	}
	buf := NewDataBuffer(4096)
	if n := testing.AllocsPerRun(100, func() { buf.Frame(7, TypeExecStdout, 4096) }); n > 0 {
		t.Errorf("encoding a data frame allocates %v times", n)
	}
}

func BenchmarkDataFrame(b *testing.B) {
	buf := NewDataBuffer(64 << 10)
	b.SetBytes(64 << 10)
	for b.Loop() {
		m, _ := Open(buf.Frame(7, TypeExecStdout, 64<<10)[HeaderLen:])
		if _, err := DecodeData(m.Payload); err != nil {
			b.Fatal(err)
		}
	}
}
