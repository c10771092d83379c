package agent

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

func TestParseEvent(t *testing.T) {
	number := "\x00\x00\x01\x02"
	for in, want := range map[string]event{
		"R" + number: {kind: 'R', number: 258},
		"S" + number: {kind: 'S', number: 258},
		"M" + number + "\x01\x0atext/plainabc": {kind: 'M', number: 258,
			result: agentproto.KernelResult{MIME: "text/plain", Data: []byte("abc"), More: true}},
		"D" + number + "x\x00\x00\x00\x03":           {kind: 'D', number: 258, end: cellEnd{number: 258, how: 'x', code: 3}},
		"D" + number + "e\x00\x00\x00\x01E\x00w\xff": {kind: 'D', number: 258, end: cellEnd{number: 258, how: 'e', code: 1, name: "E", words: "w\uFFFD"}},
	} {
		have, err := parseEvent([]byte(in))
		if err != nil || have.kind != want.kind || have.number != want.number || have.end != want.end ||
			have.result.MIME != want.result.MIME || have.result.More != want.result.More || !bytes.Equal(have.result.Data, want.result.Data) {
			t.Errorf("%q: have %+v, %v; want %+v", in, have, err, want)
		}
	}
	for _, in := range []string{"", "R", "R123", "Q" + number, "M" + number, "M" + number + "\x00", "M" + number + "\x00\x00", "M" + number + "\x00\x05abcd",
		"M" + number + "\x00\x03a\nb", "M" + number + "\x00\x80" + strings.Repeat("m", 128), "D" + number, "D" + number + "o\x00\x00\x00"} {
		if e, err := parseEvent([]byte(in)); err == nil {
			t.Errorf("%q is read as %+v", in, e)
		}
	}
}

// FuzzParseEvent reads what code in a guest says in the place of its driver. All of it can be sent on.
func FuzzParseEvent(f *testing.F) {
	f.Add([]byte("R\x00\x00\x00\x00"))
	f.Add([]byte("M\x00\x00\x00\x01\x01\x09image/png\x89PNG"))
	f.Add([]byte("D\x00\x00\x00\x01e\x00\x00\x00\x01Error\x00\xff\xfe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEvent(b)
		if err != nil {
			return
		}
		if !utf8.ValidString(e.result.MIME) || len(e.result.Data) > len(b) || len(e.end.name) > 3*maxErrorName || len(e.end.words) > 3*maxErrorWords {
			t.Fatalf("%q is read as %+v", b, e)
		}
		for t2, p := range map[agentproto.Type]agentproto.Payload{agentproto.TypeKernelResult: &e.result, agentproto.TypeKernelDone: e.end.done("")} {
			back := map[agentproto.Type]agentproto.Payload{agentproto.TypeKernelResult: &agentproto.KernelResult{}, agentproto.TypeKernelDone: &agentproto.KernelDone{}}[t2]
			if err := agentproto.Decode(agentproto.Encode(p), back); err != nil {
				t.Fatalf("%s of %q: %v", t2, b, err)
			}
		}
	})
}

func TestEncodeCells(t *testing.T) {
	c := &cell{number: 258, req: agentproto.KernelRun{Code: "1+1", Echo: agentproto.EchoAll}}
	if have, want := string(encodeCell(c)), "\x00\x00\x00\x08\x00\x00\x01\x02a1+1"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
	if have, want := string(encodeForBash(c)), `\000\000\001\002`+"000000031+1"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
}

// A value that does not fit is cut, one that comes later is left out, and each that was begun is ended.
func TestResultsAreCut(t *testing.T) {
	for _, c := range []struct {
		left   uint64
		pieces []agentproto.KernelResult
		want   string
	}{
		{1000, []agentproto.KernelResult{{Data: []byte("ab"), More: true}, {Data: []byte("c")}}, "ab+ c."},
		{resultCost + 1, []agentproto.KernelResult{{Data: []byte("ab")}, {Data: []byte("c")}}, "a."},
		{2*resultCost + 3, []agentproto.KernelResult{{Data: []byte("ab"), More: true}, {Data: []byte("cd"), More: true}, {Data: []byte("ef"), More: true}, {Data: []byte("g")}, {Data: []byte("h")}}, "ab+ c+ ."},
		{resultCost, []agentproto.KernelResult{{More: true}, {Data: []byte("a"), More: true}, {}}, "+ ."},
		{0, []agentproto.KernelResult{{Data: []byte("ab"), More: true}, {Data: []byte("c")}}, ""},
	} {
		var wire bytes.Buffer
		a := &Agent{}
		a.out = newWire(&wire, &a.activity)
		cell := &cell{a: a, id: 1, left: c.left}
		cell.window.init(0)
		for _, p := range c.pieces {
			cell.result(&p)
		}
		var have []string
		for b := wire.Bytes(); len(b) > 0; {
			n := 4 + binary.BigEndian.Uint32(b)
			m, err := agentproto.Open(b[agentproto.HeaderLen:n])
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
			var r agentproto.KernelResult
			if err := agentproto.Decode(m.Payload, &r); err != nil {
				t.Fatal(err)
			}
			have = append(have, string(r.Data)+map[bool]string{true: "+", false: "."}[r.More])
		}
		if got := strings.Join(have, " "); got != c.want {
			t.Errorf("of %d bytes: have %q, want %q", c.left, got, c.want)
		}
	}
}
