package jsonrpc

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/server"
)

func TestLines(t *testing.T) {
	type piece struct{ stream, text string }
	for _, c := range []struct {
		name   string
		pieces []piece
		want   []Line
	}{
		{"nothing", nil, []Line{}},
		{"no end", []piece{{"stdout", "a"}}, []Line{{"stdout", "a"}}},
		{"in pieces", []piece{{"stdout", "a"}, {"stdout", "b\nc"}, {"stdout", "\n"}}, []Line{{"stdout", "ab"}, {"stdout", "c"}}},
		{"mixed", []piece{{"stdout", "a"}, {"stderr", "e\n"}, {"stdout", "b\n"}}, []Line{{"stderr", "e"}, {"stdout", "ab"}}},
		{"empty lines", []piece{{"stdout", "\n\na\r\n"}}, []Line{{"stdout", ""}, {"stdout", ""}, {"stdout", "a"}}},
		{"no text", []piece{{"stdout", "\xff\xfe\n"}}, []Line{{"stdout", "\uFFFD"}}},
		{"a letter in two pieces", []piece{{"stdout", "\xc3"}, {"stdout", "\xa9\n"}}, []Line{{"stdout", "é"}}},
	} {
		l := linesOf(t.Context(), 0)
		for _, p := range c.pieces {
			l.write(p.stream, []byte(p.text))
		}
		if got := l.done(); !slices.Equal(got, c.want) || got == nil {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestLinesAreBounded prints without end, also what is long in JSON.
func TestLinesAreBounded(t *testing.T) {
	for name, text := range map[string]string{"one line": strings.Repeat("x", 1<<20), "lines": strings.Repeat("x\n", 1<<19), "empty lines": strings.Repeat("\n", 1<<20), "zeros": strings.Repeat("\x00", 1<<20),
		"no text": strings.Repeat("x\xff", 1<<19), "separators": strings.Repeat("\u2028", 1<<19), "quotes": strings.Repeat(`"`, 1<<20)} {
		l := linesOf(t.Context(), 0)
		for range 64 {
			l.write("stdout", []byte(text))
		}
		all := l.done()
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(all); err != nil {
			t.Fatal(err)
		}
		last := all[len(all)-1]
		if b.Len() < MaxOutput/2 || b.Len() > MaxOutput+100 || last.Stream != "stderr" || !strings.Contains(last.Text, "output truncated") {
			t.Errorf("%s: %d bytes in %d lines, the last is %q", name, b.Len(), len(all), clip(last.Text))
		}
	}
	const ten = 10_000_000 // letters, which contract server-v0.2 §2.3 wants
	l := linesOf(t.Context(), 0)
	l.write("stdout", bytes.Repeat([]byte("x"), ten))
	if all := l.done(); len(all) != 1 || len(all[0].Text) != ten {
		t.Errorf("ten million letters: %d lines", len(all))
	}
}

func TestTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{"null": 0, "0": 0, "5": 5 * time.Second, "99999999": 99999999 * time.Second, "100000000": 100 * time.Millisecond,
		"30000000000": 30 * time.Second} {
		if got, _, err := (object{"timeout": json.RawMessage(text)}).timeout(); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"1.5", "-1", `"5"`, "18446744073709551615", "18446744073709551616"} {
		if got, _, err := (object{"timeout": json.RawMessage(text)}).timeout(); err == nil {
			t.Errorf("%s is %v", text, got)
		}
	}
}

// FuzzCall reads all sorts of bodies: who may use one namespace gets no other one through, however it is spelled.
func FuzzCall(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","method":"sandbox.start","params":{"sandbox":"a","namespace":"mine","config":{"image":"x","memory":1,"ports":["1:2"]}},"id":1}`,
		`{"jsonrpc":"2.0","method":"sandbox.repl.run","params":{"sandbox":"a","namespace":"mine","Namespace":"other","code":"1","language":"python","timeout":5}}`,
		`{"params":{"namespace":"other"},"params":{"namespace":"mine"}}`, `{"Params":{"namespace":"other"},"params":{"namespace":"mine","sandbox":"b"}}`, `[]`, `null`, `{"params":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := checkNamespace(server.Caller{Namespace: "mine"}, body); err != nil {
			return
		}
		req, _, err := parse(body)
		if err != nil {
			return
		}
		var namespaces []string
		if p, err := ParseStart(req.params); err == nil {
			namespaces = append(namespaces, p.Namespace)
		}
		if ns, _, err := ParseNames(req.params); err == nil {
			namespaces = append(namespaces, ns)
		}
		if ns, _, err := ParseMetrics(req.params); err == nil {
			namespaces = append(namespaces, ns)
		}
		if p, err := ParseCommand(req.params); err == nil {
			namespaces = append(namespaces, p.Namespace)
		}
		if p, err := ParseCode(req.params); err == nil {
			namespaces = append(namespaces, p.Namespace)
		}
		for _, ns := range namespaces {
			if ns != "mine" {
				t.Errorf("%q is read from %s", ns, body)
			}
		}
	})
}
