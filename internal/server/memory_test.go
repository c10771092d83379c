package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestMemory has requests that are not answered keep as much as they may: there is none left for others of their namespace, some for another
// one, and all again once they are answered.
func TestMemory(t *testing.T) {
	for _, what := range []string{"body", "output"} {
		s := New(Config{Keys: testKeys(t)})
		defer s.Close()
		begun, end := make(chan int, 8), make(chan struct{})
		wait := Route{Pattern: "POST /wait", MaxBody: maxBodies, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := ReadBody(r, "")
			if r.Header.Get("Output") != "" {
				err = Room(r.Context())
				if err == nil {
					err = Hold(r.Context(), maxOutputs/2)
				}
			}
			if err != nil {
				WriteFailure(w, r, FailureOf(err))
				return
			}
			begun <- 1
			<-end
		})}
		s.Mount(wait)
		keys := map[string]string{}
		for _, ns := range []string{"a", "b", "c"} {
			var err error
			if keys[ns], _, err = s.cfg.Keys.Make(ns, 1e12); err != nil {
				t.Fatal(err)
			}
		}
		ask := func(as string) *httptest.ResponseRecorder {
			body := "{}"
			if what == "body" {
				body = `"` + strings.Repeat("x", maxBodies/2) + `"`
			}
			r := httptest.NewRequest("POST", "/wait", strings.NewReader(body))
			r.Host = "127.0.0.1"
			r.Header.Set("Authorization", "Bearer "+keys[as])
			if what == "output" {
				r.Header.Set("Output", "yes")
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w
		}
		answers := make(chan int, 2)
		go func() { answers <- ask("a").Code }()
		<-begun
		if w := ask("a"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: more of the same namespace: %d %v", what, w.Code, w.Header())
		}
		go func() { answers <- ask("b").Code }()
		<-begun
		if w := ask("c"); w.Code != http.StatusTooManyRequests {
			t.Errorf("%s: more than there is: %d", what, w.Code)
		}
		close(end)
		for range 2 {
			if code := <-answers; code != http.StatusOK {
				t.Errorf("%s: %d", what, code)
			}
		}
		if w := ask("c"); w.Code != http.StatusOK {
			t.Errorf("%s: after the others: %d", what, w.Code)
		}
		for _, m := range []*memory{s.bodies, s.outputs} {
			if m.held != 0 || len(m.of) != 0 {
				t.Errorf("%s: %d bytes are kept for nobody, %v", what, m.held, m.of)
			}
		}
	}
}

// TestMeter gathers more than there is room for.
func TestMeter(t *testing.T) {
	trace := &trace{output: holding{memory: newMemory(4 * holdStep)}}
	ctx := WithCaller(context.WithValue(t.Context(), traceKey{}, trace), Caller{Namespace: "a"})
	m, n := MeterOf(ctx, 1<<30), 0
	for m.Add(1 << 10) {
		n += 1 << 10
	}
	if want := freeOutput + 2*holdStep; n != want || !m.Full() || m.Add(1) {
		t.Errorf("%d bytes, want %d", n, want)
	}
	if f := FailureOf(Room(ctx)); f.Status != http.StatusTooManyRequests || f.Retry == 0 {
		t.Errorf("there is room: %+v", f)
	}
	if trace.output.release(); Room(ctx) != nil {
		t.Error("what was released is kept")
	}
}

func TestMeasure(t *testing.T) {
	bytes := `"content" : [0, 1,` + strings.Repeat("255,", maxValues) + "0]"
	for name, c := range map[string]struct {
		text          string
		values, depth int
	}{
		"nothing":           {"", 1, 0},
		"a value":           {" 1 ", 1, 0},
		"objects":           {`{"a":[{},{}],"b":"[,{\"[,"}`, 7, 3},
		"many":              {"[" + strings.Repeat("{},", maxValues), maxValues + 1, 2},
		"numbers":           {"[" + strings.Repeat("0,", maxValues), maxValues + 1, 1},
		"deep":              {strings.Repeat("[", maxValues), maxDepth + 2, maxDepth + 1},
		"a file":            {"{" + bytes + `,"b":[]}`, 4, 2},
		"no file":           {"{" + strings.Replace(bytes, "content", "other", 1) + "}", maxValues + 1, 2},
		"no bytes":          {"{" + strings.Replace(bytes, "1,", "null,", 1) + "}", maxValues + 1, 2},
		"content of a text": {`["content",[1,2,3]]`, 6, 2},
		"torn":              {`{"content":[1,2`, 4, 2},
		"torn text":         {`{"con\`, 2, 1},
	} {
		if values, depth := measure([]byte(c.text), "content"); values != c.values || depth != c.depth {
			t.Errorf("%s: %d values, %d deep; want %d, %d", name, values, depth, c.values, c.depth)
		}
	}
	if values, _ := measure([]byte("{"+bytes+"}"), ""); values <= maxValues {
		t.Errorf("where there are no files: %d values", values)
	}
}

func FuzzMeasure(f *testing.F) {
	for _, s := range []string{`{"content":[1,2],"x":"\"[,"}`, `["\`, `{"content"`, `{"content":`, "]]}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, _ := measure(data, "")
		if files, _ := measure(data, "content"); files > values {
			t.Errorf("%q: %d values, %d where there are files", data, values, files)
		}
		if got, want := JSONSize(data), jsonLength(t, data); got < want {
			t.Errorf("%q is %d bytes as JSON, not %d", data, want, got)
		}
	})
}

// jsonLength is how long a text is in JSON, without its quotes.
func jsonLength(t *testing.T, p []byte) int {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(strings.ToValidUTF8(string(p), "\uFFFD")); err != nil {
		t.Fatal(err)
	}
	return b.Len() - len("\"\"\n")
}
