package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestEscapesAreTakenOut(t *testing.T) {
	for in, want := range map[string]struct{ plain, colour string }{
		"text\twith é € 😀\n":              {"text\twith é € 😀\n", "text\twith é € 😀\n"},
		"\x1b[1;31mred\x1b[0m":            {"red", "\x1b[1;31mred\x1b[0m"},
		"a\x1b[2J\x1b[Hb":                 {"ab", "ab"},
		"a\x1b]0;title\x07b":              {"ab", "ab"},
		"a\x1b]52;c;aGk=\x1b\\b":          {"ab", "ab"},
		"a\x1bPq#0\x1b\\b":                {"ab", "ab"},
		"10%\r20%\r\ndone\r\n":            {"10%\n20%\ndone\n", "10%\n20%\ndone\n"},
		"a\x00\x07\x08\x7f\u009b31mb":     {"a31mb", "a31mb"},
		"\x1b(B\x1b7\x1bcx":               {"x", "x"},
		"\x1b]never ended\nnext":          {"\nnext", "\nnext"},
		"\xff\xfe\xc2\xa9":                {"\xff\xfe\xc2\xa9", "\xff\xfe\xc2\xa9"},
		"\x1b[?25lx\x1b[38:2::1:2:3my":    {"xy", "x\x1b[38:2::1:2:3my"},
		"\x1b[" + strings.Repeat("1", 99): {strings.Repeat("1", 35), strings.Repeat("1", 35)},
	} {
		for _, c := range []struct {
			colour bool
			want   string
		}{{false, want.plain}, {true, want.colour}} {
			whole := &escapeFilter{colour: c.colour}
			if got := string(whole.filter(nil, []byte(in))); got != c.want {
				t.Errorf("%q, colours %v: %q, want %q", in, c.colour, got, c.want)
			}
			split := &escapeFilter{colour: c.colour}
			var got []byte
			for i := range len(in) {
				got = split.filter(got, []byte{in[i]})
			}
			if string(got) != c.want {
				t.Errorf("%q in pieces, colours %v: %q, want %q", in, c.colour, got, c.want)
			}
		}
	}
}

func FuzzEscapes(f *testing.F) {
	f.Add([]byte("\x1b[1mx\x1b]0;t\x07\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := (&escapeFilter{}).filter(nil, data)
		if bytes.ContainsAny(out, "\x1b\x07\x08\r\x00\x7f") {
			t.Errorf("%q became %q", data, out)
		}
		coloured := (&escapeFilter{colour: true}).filter(nil, data)
		if again := (&escapeFilter{colour: true}).filter(nil, coloured); !bytes.Equal(again, coloured) && !bytes.Contains(data, []byte{0xc2}) {
			t.Errorf("%q became %q, and that %q", data, coloured, again)
		}
	})
}

func TestLogPrinter(t *testing.T) {
	id := func(n uint64) *uint64 { return &n }
	at := time.Date(2026, 11, 20, 12, 0, 0, 123e6, time.UTC)
	entries := []sandbox.LogEntry{
		{Time: at, Source: sandbox.LogSystem, Data: []byte("--- sandbox started ---\n")},
		{Time: at, Source: sandbox.LogStdout, Session: id(1), Data: []byte("one\ntw")},
		{Time: at, Source: sandbox.LogStdout, Session: id(1), Data: []byte("o\n")},
		{Time: at, Source: sandbox.LogStdout, Session: id(1), Data: []byte("half")},
		{Time: at, Source: sandbox.LogStderr, Session: id(12), Data: []byte("other\n")},
	}
	const stamp = "2026-11-20T12:00:00.123Z\t"
	for _, c := range []struct {
		p    logPrinter
		want string
	}{
		{logPrinter{}, "--- sandbox started ---\none\ntwo\nhalf\nother\n"},
		{logPrinter{times: true}, stamp + "--- sandbox started ---\n" + stamp + "one\n" + stamp + "two\n" + stamp + "half\n" + stamp + "other\n"},
		{logPrinter{ids: true}, "[id:sys] --- sandbox started ---\n[id:  1] one\n[id:  1] two\n[id:  1] half\n[id: 12] other\n"},
		{logPrinter{ids: true, sessions: true, colour: true}, "[id:sys] --- sandbox started ---\n\x1b[36m[id:  1] one\x1b[0m\n\x1b[36m[id:  1] tw\x1b[0m\x1b[36mo\x1b[0m\n" +
			"\x1b[36m[id:  1] half\x1b[0m\n\x1b[35m[id: 12] other\x1b[0m\n"},
	} {
		var out bytes.Buffer
		c.p.out, c.p.filters = &out, map[stream]*escapeFilter{}
		for _, e := range entries {
			if err := c.p.entry(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.p.end(); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.want {
			t.Errorf("%+v:\n%q, want\n%q", c.p, out.String(), c.want)
		}
	}
	var out bytes.Buffer
	j := &jsonEntries{&out}
	for _, e := range []sandbox.LogEntry{entries[0], {Time: at, Source: sandbox.LogStdout, Session: id(3), Data: []byte("<a>\xff")}} {
		if err := j.entry(e); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"d":"--- sandbox started ---\n","e":null,"id":null,"s":"system","t":"2026-11-20T12:00:00.123Z"}` + "\n" +
		`{"d":"PGE+/w==","e":"b64","id":3,"s":"stdout","t":"2026-11-20T12:00:00.123Z"}` + "\n"
	if out.String() != want {
		t.Errorf("as JSON\n%s, want\n%s", out.String(), want)
	}
}

func TestMoments(t *testing.T) {
	now := time.Now()
	for in, ago := range map[string]time.Duration{"30s": 30 * time.Second, "5m": 5 * time.Minute, "2h": 2 * time.Hour, "1d": 24 * time.Hour} {
		at, err := parseMoment(in)
		if err != nil || at.Before(now.Add(-ago)) || at.After(time.Now().Add(-ago)) {
			t.Errorf("%s is %v, %v", in, at, err)
		}
	}
	if at, err := parseMoment("2026-01-31T12:00:00+01:00"); err != nil || at.UTC().Hour() != 11 {
		t.Errorf("RFC 3339 is %v, %v", at, err)
	}
	for _, bad := range []string{"", "d", "5", "yesterday", "-5m", "2026-01-31"} {
		if at, err := parseMoment(bad); err == nil {
			t.Errorf("%q is %v", bad, at)
		}
	}
}
