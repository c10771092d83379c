package secret

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

const (
	placeholder = "$MSB_API_KEY"
	value       = "sk-1234 very/secret+value="
)

func ptr(b bool) *bool { return &b }

// newSet has one secret, for good.test.
func newSet(t testing.TB, change func(*sandbox.Secrets)) *Set {
	t.Helper()
	s := sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "API_KEY", Placeholder: placeholder, AllowedHosts: []sandbox.HostPattern{{Exact: "good.test"}}}}}
	if change != nil {
		change(&s)
	}
	values := make([]string, len(s.Secrets))
	for i := range values {
		values[i] = value
	}
	set, err := New(&s, values)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var goodTarget = Target{Host: "good.test", Pinned: true, Verified: true}

// send is what arrives of a request, as text, or the error that it ended with.
func send(p *Plan, r *http.Request) (string, error) {
	done, err := p.Request(r)
	defer done()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %d\n", r.Method, r.URL.RequestURI(), r.Host, r.ContentLength)
	for k, vs := range r.Header {
		fmt.Fprintf(&b, "%s: %s\n", k, strings.Join(vs, "|"))
	}
	if r.Body != nil {
		defer r.Body.Close()
		if _, err := io.Copy(&b, r.Body); err != nil {
			return b.String(), err
		}
	}
	for k, vs := range r.Trailer {
		fmt.Fprintf(&b, "%s: %s\n", k, strings.Join(vs, "|"))
	}
	return b.String(), nil
}

func newRequest(t testing.TB, target, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("POST", target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// TestViolationSaysWhatIsMissing tells a host that may see the value, but has not shown that it is that one, from others.
func TestViolationSaysWhatIsMissing(t *testing.T) {
	s := newSet(t, nil)
	for want, at := range map[string]Target{
		"TLS has not proved who it is":                      {Host: "good.test", Pinned: true},
		"the name was not resolved to this address here":    {Host: "good.test", Verified: true},
		"secret API_KEY may not go to evil.test (a header)": {Host: "evil.test", Pinned: true, Verified: true},
	} {
		p := s.For(at)
		if v := p.violation(p.watch[0], "a header"); !strings.HasSuffix(v.Error(), want) {
			t.Errorf("%+v: %q, want it to end with %q", at, v, want)
		}
	}
}

// TestTargets says to which targets a value goes.
func TestTargets(t *testing.T) {
	with := func(change func(x *sandbox.Secret)) *Set {
		return newSet(t, func(s *sandbox.Secrets) { change(&s.Secrets[0]) })
	}
	plain, loose := newSet(t, nil), with(func(x *sandbox.Secret) { x.RequireTLSIdentity = ptr(false) })
	wild := with(func(x *sandbox.Secret) { x.AllowedHosts = []sandbox.HostPattern{{Wildcard: "*.Good.test"}} })
	for _, x := range []struct {
		set *Set
		at  Target
		ok  bool
	}{
		{plain, goodTarget, true},
		{plain, Target{Host: "good.test", Pinned: true}, false},
		{plain, Target{Host: "good.test", Verified: true}, false},
		{plain, Target{Host: "evil.test", Pinned: true, Verified: true}, false},
		{plain, Target{Host: "xgood.test", Pinned: true, Verified: true}, false},
		{plain, Target{Host: "good.test.evil.test", Pinned: true, Verified: true}, false},
		{plain, Target{Pinned: true, Verified: true}, false},
		{loose, Target{Host: "good.test", Pinned: true}, true},
		{loose, Target{Host: "good.test"}, false},
		{wild, goodTarget, true},
		{wild, Target{Host: "a.b.good.test", Pinned: true, Verified: true}, true},
		{wild, Target{Host: "notgood.test", Pinned: true, Verified: true}, false},
		{with(func(x *sandbox.Secret) { x.AllowedHosts = []sandbox.HostPattern{{Any: true}} }), Target{Host: "evil.test", Pinned: true, Verified: true}, true},
		{with(func(x *sandbox.Secret) { x.AllowedHosts = []sandbox.HostPattern{{Any: true}} }), Target{Pinned: true, Verified: true}, false},
	} {
		got, err := send(x.set.For(x.at), newRequest(t, "https://h/", "", "Authorization", "Bearer "+placeholder))
		var v *Violation
		if has := strings.Contains(got, value); has != x.ok || errors.As(err, &v) == x.ok {
			t.Errorf("%+v: %q, %v; want the value: %v", x.at, got, err, x.ok)
		}
	}
}

// TestPlaces says where in a request a placeholder is replaced.
func TestPlaces(t *testing.T) {
	all := sandbox.Injection{QueryParams: ptr(true), Body: ptr(true)}
	none := sandbox.Injection{Headers: ptr(false), BasicAuth: ptr(false)}
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, x := range []struct {
		what   string
		inject sandbox.Injection
		req    func() *http.Request
		want   string // is in what arrives
	}{
		{"header", sandbox.Injection{}, func() *http.Request { return newRequest(t, "https://h/", "", "X", "a"+placeholder+"b"+placeholder) }, "X: a" + value + "b" + value + "\n"},
		{"header, off", none, func() *http.Request { return newRequest(t, "https://h/", "", "X", placeholder) }, "X: " + placeholder + "\n"},
		{"basic", sandbox.Injection{}, func() *http.Request { return newRequest(t, "https://h/", "", "Authorization", basic("u:"+placeholder)) }, basic("u:"+value) + "\n"},
		{"basic, unpadded, lower case", sandbox.Injection{}, func() *http.Request {
			return newRequest(t, "https://h/", "", "Authorization", "basic "+strings.TrimRight(basic("me:" + placeholder)[6:], "="))
		}, "basic " + basic("me:" + value)[6:] + "\n"},
		{"basic, off", sandbox.Injection{BasicAuth: ptr(false)}, func() *http.Request { return newRequest(t, "https://h/", "", "Authorization", basic("u:"+placeholder)) }, basic("u:"+placeholder) + "\n"},
		{"basic, without the rest", sandbox.Injection{Headers: ptr(false)}, func() *http.Request { return newRequest(t, "https://h/", "", "Authorization", basic("u:"+placeholder)) }, basic("u:"+value) + "\n"},
		{"query, off", sandbox.Injection{}, func() *http.Request { return newRequest(t, "https://h/?k="+placeholder, "") }, "/?k=" + placeholder + " "},
		{"query", all, func() *http.Request { return newRequest(t, "https://h/?a=%zz&k="+placeholder+"&b=x+y%20z", "") }, "/?a=%zz&k=" + url.QueryEscape(value) + "&b=x+y%20z "},
		{"query, encoded", all, func() *http.Request { return newRequest(t, "https://h/?k=%24%4dSB_API%5FKEY", "") }, "/?k=" + url.QueryEscape(value) + " "},
		{"path", all, func() *http.Request { return newRequest(t, "https://h/"+placeholder, "") }, "/" + placeholder + " "},
		{"body, off", sandbox.Injection{}, func() *http.Request { return newRequest(t, "https://h/", "<"+placeholder+">") }, "<" + placeholder + ">"},
		{"body", all, func() *http.Request { return newRequest(t, "https://h/", "<"+placeholder+">") }, "<" + value + ">"},
		{"body, its length", all, func() *http.Request { return newRequest(t, "https://h/", "<"+placeholder+">") }, fmt.Sprintf(" %d\n", len(value)+2)},
		{"body, chunked", all, func() *http.Request {
			r := newRequest(t, "https://h/", "<"+placeholder+">")
			r.ContentLength = -1
			return r
		}, " -1\n<" + value + ">"},
		{"body, compressed", all, func() *http.Request {
			return newRequest(t, "https://h/", "<"+placeholder+">", "Content-Encoding", "gzip")
		}, "<" + placeholder + ">"},
		{"trailer", sandbox.Injection{}, func() *http.Request {
			r := newRequest(t, "https://h/", "x")
			r.Trailer = http.Header{"X-T": {placeholder}}
			return r
		}, "X-T: " + value + "\n"},
	} {
		set := newSet(t, func(s *sandbox.Secrets) { s.Secrets[0].Injection = x.inject })
		got, err := send(set.For(goodTarget), x.req())
		if err != nil || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, %v; want %q", x.what, got, err, x.want)
		}
	}
}

// TestMisfits has values that cannot be where their placeholder is, or would make a request that is too large.
func TestMisfits(t *testing.T) {
	s := sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "PEM", Placeholder: "$P", AllowedHosts: []sandbox.HostPattern{{Exact: "good.test"}},
		Injection: sandbox.Injection{QueryParams: ptr(true), Body: ptr(true)}}}}
	for _, x := range []struct {
		what, value string
		req         *http.Request
	}{
		{"lines in a header", "a\r\nX: b", newRequest(t, "https://h/", "", "A", "$P")},
		{"a large header", strings.Repeat("x", 60<<10), newRequest(t, "https://h/", "", "A", strings.Repeat("$P", 100))},
		{"a large query", strings.Repeat("x", 60<<10), newRequest(t, "https://h/?q="+strings.Repeat("$P", 100), "")},
		{"a large body", strings.Repeat("x", 60<<10), newRequest(t, "https://h/", strings.Repeat("$P", 1000))},
	} {
		set, err := New(&s, []string{x.value})
		if err != nil {
			t.Fatal(err)
		}
		got, err := send(set.For(goodTarget), x.req)
		var v *Violation
		if !errors.As(err, &v) || strings.Contains(err.Error(), x.value) {
			t.Errorf("%s: %d bytes, %v", x.what, len(got), err)
		}
	}
	set, _ := New(&s, []string{strings.Repeat("x", 60<<10)})
	r := newRequest(t, "https://h/", strings.Repeat("$P", 1000))
	r.ContentLength = -1 // nothing is held back
	if got, err := send(set.For(goodTarget), r); err != nil || len(got) < 1000*60<<10 {
		t.Errorf("a large body in chunks: %d bytes, %v", len(got), err)
	}
}

// forms are ways to write a placeholder that are found where it may not be sent.
func forms(p string) map[string]string {
	b64 := base64.StdEncoding.EncodeToString
	percent := func(s string, every int) string {
		var b strings.Builder
		for i, c := range []byte(s) {
			if i%every == 0 {
				fmt.Fprintf(&b, "%%%02x", c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	js := ""
	for _, c := range p {
		js += fmt.Sprintf(`\u%04X`, c)
	}
	wide := ""
	for _, c := range p {
		wide += string(c) + "\x00"
	}
	broken := ""
	for i, c := range b64([]byte("some words before it: " + p + " and some after")) {
		if broken += string(c); i%19 == 18 {
			broken += "\r\n"
		}
	}
	return map[string]string{
		"plain": p, "between": "xx" + p + "yy", "percent": percent(p, 1), "percent, every third": percent(p, 3), "percent twice": percent(percent(p, 1), 1),
		"percent thrice": percent(percent(percent(p, 2), 1), 2), "a stray percent": "100%" + percent(p, 4),
		"base64": b64([]byte(p)), "base64 of more": b64([]byte("user:" + p)), "base64 of more, by one": b64([]byte("users:" + p + "!")), "base64 of more, by two": b64([]byte("user12:" + p + "!!")),
		"base64 in lines": broken, "base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte("??>>" + p)), "percent of base64": percent(b64([]byte(p)), 2),
		"hex": hex.EncodeToString([]byte(p)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(p))),
		"JSON": js, "JSON, in part": `{"a":"b\\c` + js[:12] + p[2:] + `"}`, "a backslash": `\` + p[:3] + `\` + p[3:], "x": `\x24` + p[1:],
		"JSON of percent": strings.ReplaceAll(percent(p, 1), "%", `\u0025`), "UTF-16": wide, "broken line": p[:4] + "\r\n" + p[4:],
	}
}

// TestFoundEverywhere has every form in every place, in pieces of every size, and none of it gets through.
func TestFoundEverywhere(t *testing.T) {
	set := newSet(t, nil)
	p := set.For(Target{Host: "evil.test", Pinned: true, Verified: true})
	for name, form := range forms(placeholder) {
		var requests = map[string]*http.Request{}
		if !strings.ContainsAny(form, "\r\n\x00") {
			requests["header"] = newRequest(t, "https://evil.test/", "", "X-Any", form)
			requests["second header"] = newRequest(t, "https://evil.test/", "", "X-Any", "x", "X-Any", form)
			u := newRequest(t, "https://evil.test/", "")
			u.URL.RawQuery = "a=" + form
			requests["query"] = u
			requests["cookie"] = newRequest(t, "https://evil.test/", "", "Cookie", "a=b; c="+form)
		}
		for size := 1; size < 40; size += 1 + size/4 {
			r := newRequest(t, "https://evil.test/", "")
			r.Body, r.ContentLength = io.NopCloser(&pieces{strings.NewReader("before " + form + " after"), size}), -1
			requests[fmt.Sprint("body in pieces of ", size)] = r
		}
		for where, r := range requests {
			var v *Violation
			if got, err := send(p, r); !errors.As(err, &v) || v.Env != "API_KEY" || v.Host != "evil.test" {
				t.Errorf("%s in a %s: %q, %v", name, where, got, err)
			}
		}
	}
	for what, r := range map[string]*http.Request{
		"name of a header": newRequest(t, "https://evil.test/", "", placeholder, "x"),
		"path":             newRequest(t, "https://evil.test/a/"+placeholder+"/b", ""),
		"host":             newRequest(t, "https://"+placeholder+".evil.test/", ""),
		"basic":            newRequest(t, "https://evil.test/", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(placeholder+":"))),
	} {
		var v *Violation
		if got, err := send(p, r); !errors.As(err, &v) || v.Env == "" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

type pieces struct {
	io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

func compress(t testing.TB, coding, s string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip", "x-gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	case "bare deflate":
		w, _ = flate.NewWriter(&b, 6)
	case "zstd":
		w, _ = zstd.NewWriter(&b)
	}
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCompressed(t *testing.T) {
	plan := newSet(t, nil).For(Target{Host: "evil.test"})
	padding := strings.Repeat("some words that compress well, ", 3000)
	for _, x := range []struct{ coding, header string }{{"gzip", "gzip"}, {"gzip", "X-GZIP, identity"}, {"deflate", "deflate"}, {"bare deflate", "deflate"}, {"zstd", "zstd"}} {
		for _, bad := range []bool{false, true} {
			text := padding
			if bad {
				text += placeholder
			}
			body := compress(t, x.coding, text+padding)
			r := newRequest(t, "https://evil.test/", body, "Content-Encoding", x.header)
			got, err := send(plan, r)
			if bad == (err == nil) || !bad && !strings.HasSuffix(got, body) {
				t.Errorf("%s, with a placeholder %v: %d bytes, %v", x.coding, bad, len(got), err)
			}
			if bad && strings.HasSuffix(got, body[len(body)-8:]) {
				t.Errorf("%s: the body was sent to its end", x.coding)
			}
		}
	}
	twice := compress(t, "gzip", compress(t, "zstd", placeholder))
	bomb := compress(t, "gzip", compress(t, "gzip", strings.Repeat("\x00", 80<<20)))
	for what, r := range map[string]*http.Request{
		"twice":           newRequest(t, "https://evil.test/", twice, "Content-Encoding", "zstd, gzip"),
		"two headers":     newRequest(t, "https://evil.test/", twice, "Content-Encoding", "zstd", "Content-Encoding", "gzip"),
		"thrice":          newRequest(t, "https://evil.test/", "x", "Content-Encoding", "gzip, gzip, gzip"),
		"unknown":         newRequest(t, "https://evil.test/", "x", "Content-Encoding", "br"),
		"broken":          newRequest(t, "https://evil.test/", "not gzip at all", "Content-Encoding", "gzip"),
		"cut off":         newRequest(t, "https://evil.test/", compress(t, "gzip", padding)[:100], "Content-Encoding", "gzip"),
		"bomb":            newRequest(t, "https://evil.test/", bomb, "Content-Encoding", "gzip, gzip"),
		"what follows":    newRequest(t, "https://evil.test/", compress(t, "deflate", "x")+placeholder, "Content-Encoding", "deflate"),
		"a second member": newRequest(t, "https://evil.test/", compress(t, "gzip", "x")+compress(t, "gzip", placeholder), "Content-Encoding", "gzip"),
	} {
		var v *Violation
		if got, err := send(plan, r); !errors.As(err, &v) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	if !plan.Watches() || newSet(t, nil).For(goodTarget).Watches() {
		t.Error("what is watched")
	}
	if _, err := send(newSet(t, nil).For(goodTarget), newRequest(t, "https://good.test/", "x", "Content-Encoding", "br")); err != nil {
		t.Errorf("an unknown encoding to an allowed host: %v", err)
	}
}

// TestReplaceAsReference has a stream in any pieces become what strings.Replacer makes of it whole.
func TestReplaceAsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[$ab]{1,5}`), 1, 4, rapid.ID[string]).Draw(t, "placeholders")
		spec := &sandbox.Secrets{}
		var values []string
		for i, n := range names {
			spec.Secrets = append(spec.Secrets, sandbox.Secret{EnvVar: fmt.Sprint("E", i), Placeholder: n})
			values = append(values, rapid.StringMatching(`[$abV]{0,9}`).Draw(t, "value"))
		}
		set, err := New(spec, values)
		if err != nil {
			t.Fatal(err)
		}
		text := rapid.StringMatching(`[$abc]{0,200}`).Draw(t, "text")
		var pairs []string
		for _, x := range set.list {
			pairs = append(pairs, x.placeholder, x.value)
		}
		if !slices.IsSortedFunc(set.list, func(a, b *secret) int { return len(b.placeholder) - len(a.placeholder) }) {
			t.Fatal("not the longest first")
		}
		want := strings.NewReplacer(pairs...).Replace(text)
		in := &drawn{t, text, rapid.IntRange(1, 12)}
		got, err := io.ReadAll(newReplaceReader(in, set.list))
		if err != nil || string(got) != want {
			t.Fatalf("%q became %q, %v; want %q", text, got, err, want)
		}
	})
}

// drawn is a reader of pieces of drawn sizes, some of which come with the end.
type drawn struct {
	t    *rapid.T
	text string
	size *rapid.Generator[int]
}

func (d *drawn) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), d.size.Draw(d.t, "piece"))], d.text)
	d.text = d.text[n:]
	if d.text == "" && (n == 0 || rapid.Bool().Draw(d.t, "with the end")) {
		return n, io.EOF
	}
	return n, nil
}

// TestWatchAsReference has a placeholder found in a stream, in any pieces, if and only if it is there in one of its forms.
func TestWatchAsReference(t *testing.T) {
	all := forms(placeholder)
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	plan := newSet(t, nil).For(Target{})
	rapid.Check(t, func(t *rapid.T) {
		noise := rapid.StringMatching(`[a-z%\\ \n&=\$M]{0,80}`)
		before, after := noise.Draw(t, "before"), noise.Draw(t, "after")
		before = strings.TrimRight(before, `\%`) // else it is escaped
		bad := rapid.Bool().Draw(t, "bad")
		text := before + "........." + after
		if bad {
			text = before + " " + all[rapid.SampledFrom(names).Draw(t, "form")] + " " + after
		}
		_, err := io.Copy(io.Discard, plan.Watch(&drawn{t, text, rapid.IntRange(1, 60)}, "it"))
		if bad != (err != nil) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func TestReaderIsOne(t *testing.T) {
	set := newSet(t, nil)
	text := strings.Repeat("some text and "+placeholder+" in it\n", 5000)
	want := strings.ReplaceAll(text, placeholder, value)
	if err := iotest.TestReader(newReplaceReader(strings.NewReader(text), set.list), []byte(want)); err != nil {
		t.Error(err)
	}
}

// TestNothingShowsValues writes what there is in every way that programs write.
func TestNothingShowsValues(t *testing.T) {
	v := sandbox.SecretValue(value)
	s := sandbox.Secret{EnvVar: "K", Value: v}
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	set := newSet(t, nil)
	var redactor Redactor
	redactor.Add(set)
	log := slog.New(redactor.Handler(slog.NewTextHandler(&b, nil)))
	log.With("a", value).WithGroup("g").Info("m "+value, "err", fmt.Errorf("x: %w", errors.New(value)), "v", v, slog.Group("h", "k", value), "url", &url.URL{Path: value})
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, "s", s)
	fmt.Fprintf(&b, "%v %+v %#v %s %q %x %v", v, s, s, v, v, string(js), []sandbox.Secret{s})
	if strings.Contains(b.String(), value) || strings.Contains(b.String(), hex.EncodeToString([]byte(value))) || strings.Contains(b.String(), "sk-1234") {
		t.Error(b.String())
	}
	if !strings.Contains(b.String(), "[secret]") || !strings.Contains(string(js), `"value":""`) {
		t.Errorf("%s\n%s", js, b.String())
	}
}

// TestRedactorRemembers keeps the values of sets that were replaced out of a log, too, and what was made before it knew any.
func TestRedactorRemembers(t *testing.T) {
	var b bytes.Buffer
	var r Redactor
	log := slog.New(r.Handler(slog.NewTextHandler(&b, nil))).With("k", "v")
	log.Info("nothing is secret: first-value second-value")
	for _, v := range []string{"first-value", "second-value"} {
		s := &sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "K", Placeholder: "$MSB_K", AllowedHosts: []sandbox.HostPattern{{Any: true}}}}}
		set, err := New(s, []string{v})
		if err != nil {
			t.Fatal(err)
		}
		r.Add(set)
		r.Add(&Set{})
	}
	b2 := b.Len()
	log.Info("m", "first", "a first-value b", "second", errors.New("second-value"))
	if said := b.String()[b2:]; strings.Contains(said, "-value") || strings.Count(said, "[secret]") != 2 || !strings.Contains(said, "k=v") {
		t.Error(said)
	}
	if !strings.Contains(b.String()[:b2], "first-value") {
		t.Error("what is no secret is not shown")
	}
}

// FuzzWatch has the scanner find a placeholder that is there as it is, whatever else is, in any pieces.
func FuzzWatch(f *testing.F) {
	f.Add([]byte("x"), []byte("y"), uint8(3), true)
	f.Add([]byte("%2"), []byte("4%"), uint8(1), true)
	f.Add([]byte(`\u00`), []byte("\n"), uint8(7), false)
	plan := newSet(f, nil).For(Target{})
	f.Fuzz(func(t *testing.T, before, after []byte, size uint8, there bool) {
		if len(before) > 1<<16 || len(after) > 1<<16 {
			return
		}
		text := slices.Clone(before)
		if there {
			text = append(text, placeholder...)
		}
		text = append(text, after...)
		_, err := io.Copy(io.Discard, plan.Watch(&pieces{bytes.NewReader(text), int(size) + 1}, "it"))
		if there && err == nil {
			t.Error("it was not found")
		}
		if err == nil && bytes.Contains(text, []byte(placeholder)) {
			t.Error("it was not found where it came to be")
		}
	})
}
