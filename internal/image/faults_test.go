package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// quick are options for registries that fail: no test waits for them.
func quick() Options { return Options{Backoff: time.Millisecond, Stall: 200 * time.Millisecond} }

// faulty breaks the answers to requests for the layers of an image, which are those of more than a kilobyte.
type faulty struct {
	mode  atomic.Value // string
	times atomic.Int64 // that remain, for those that end
	asked atomic.Int64
	short atomic.Int64 // answers with a part
}

func (f *faulty) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mode, _ := f.mode.Load().(string)
		blob := strings.Contains(r.URL.Path, "/blobs/")
		if mode == "" || r.Method != http.MethodGet || !blob && !strings.HasPrefix(mode, "all ") {
			next.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		if strings.HasSuffix(mode, "without ranges") {
			r.Header.Del("Range")
		}
		next.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if len(body) < 1000 && blob {
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(body)
			return
		}
		f.asked.Add(1)
		if rec.Code == http.StatusPartialContent {
			f.short.Add(1)
		}
		f.answer(w, mode, rec, body)
	})
}

func (f *faulty) answer(w http.ResponseWriter, mode string, rec *httptest.ResponseRecorder, body []byte) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	more := f.times.Add(-1) >= 0
	fail, _ := strings.CutPrefix(mode, "all ")
	switch kind, _, _ := strings.Cut(fail, " "); {
	case kind == "truncated":
		body = body[:len(body)/2]
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	case kind == "longer":
		w.Header().Del("Content-Length")
		body = append(body, "more"...)
	case kind == "wrong":
		body = bytes.Clone(body)
		body[len(body)/2] ^= 1
	case kind == "reset" && more:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body[:len(body)/3])
		panic(http.ErrAbortHandler)
	case kind == "stalls" && more:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body[:len(body)/3])
		_ = http.NewResponseController(w).Flush()
		time.Sleep(time.Second)
		return
	case kind == "unavailable" && more:
		w.Header().Del("Content-Length")
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	case kind == "gone":
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"no such blob"}]}`, http.StatusNotFound)
		return
	case kind == "forbidden":
		http.Error(w, `{"errors":[{"code":"DENIED","message":"not for you"}]}`, http.StatusForbidden)
		return
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// unpublished fails when something of an image is there that is not whole: only finished layers may be.
func unpublished(t testing.TB, what string, s *Store) {
	t.Helper()
	for _, f := range files(t, s) {
		if !strings.HasPrefix(f, "blobs/sha256/") {
			t.Errorf("%s left %s", what, f)
			continue
		}
		b, err := os.ReadFile(filepath.Join(s.dir, f))
		if err != nil || digestOfBytes(b).hex() != filepath.Base(f) {
			t.Errorf("%s left a damaged layer: %v", what, err)
		}
	}
}

// noise is a file that does not get smaller.
func noise(name string, size int) testimage.Entry {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 5)
	}
	copy(b, name)
	return testimage.Entry{Header: tar.Header{Name: name}, Body: string(b)}
}

func TestFaults(t *testing.T) {
	var f faulty
	reg := testimage.Serve(t, testimage.Options{Wrap: f.wrap})
	img := testimage.Image(t, v1.Config{}, testimage.Layer(t, testimage.Tar(t, noise("a", 200_000)), testimage.Plain),
		testimage.Layer(t, testimage.Tar(t, noise("b", 900_000)), testimage.Gzip))
	ref := reg.Push(t, "faulty", img)
	before := goleak.IgnoreCurrent()
	defer func() {
		reg.Close()
		goleak.VerifyNone(t, before)
	}()
	for _, c := range []struct {
		mode  string
		times int64
		kind  sandbox.Kind // "" when it works in the end
		err   error
		hint  string
	}{
		{"truncated without ranges", 0, sandbox.ImagePullFailed, ErrTruncated, "try again"},
		{"truncated", 0, "", nil, ""}, // each time half of what is left
		{"longer", 0, sandbox.ImagePullFailed, ErrDigest, "changed the bytes"},
		{"wrong", 0, sandbox.ImagePullFailed, ErrDigest, "changed the bytes"},
		{"gone", 0, sandbox.ImageNotFound, nil, ""},
		{"forbidden", 0, sandbox.ImagePullFailed, nil, "msb registry login " + reg.Host},
		{"unavailable", 3, "", nil, ""},
		{"unavailable", 1000, sandbox.ImagePullFailed, nil, ""},
		{"reset", 4, "", nil, ""},
		{"reset without ranges", 4, "", nil, ""},
		{"reset", 1000, sandbox.ImagePullFailed, nil, ""},
		{"stalls", 1, "", nil, ""},
		{"all unavailable", 3, "", nil, ""},
		{"all forbidden", 0, sandbox.ImagePullFailed, nil, "msb registry login " + reg.Host},
		{"all gone", 0, sandbox.ImageNotFound, nil, "check the name"},
	} {
		what := fmt.Sprintf("%s %d times", c.mode, c.times)
		f.times.Store(c.times)
		f.mode.Store(c.mode)
		s := Open(t.TempDir(), quick())
		_, err := s.Pull(context.Background(), ref, PullOptions{})
		f.mode.Store("")
		switch {
		case c.kind == "" && err != nil:
			t.Errorf("%s: %v", what, err)
		case c.kind != "" && (!errors.Is(err, c.kind) || !strings.Contains(sandbox.HintOf(err), c.hint) || c.err != nil && !errors.Is(err, c.err)):
			t.Errorf("%s: %v, hint %q", what, err, sandbox.HintOf(err))
		}
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: more than one line: %v", what, err)
			}
			unpublished(t, what, s)
		}
		// Whatever happened, the next pull works.
		root := mustPull(t, s, ref, PullOptions{})
		same(t, what, ofImage(t, root.Path), modelOf(t, img).shown())
	}
	if f.short.Load() == 0 {
		t.Error("no answer was a part: nothing was resumed in the middle of a layer")
	}
}

func TestResume(t *testing.T) {
	var f faulty
	reg := testimage.Serve(t, testimage.Options{Wrap: f.wrap})
	var layers []v1.Layer
	for i := range 4 {
		layers = append(layers, testimage.Layer(t, testimage.Tar(t, noise(fmt.Sprint(i), 50_000)), testimage.Plain))
	}
	ref := reg.Push(t, "layers", testimage.Image(t, v1.Config{}, layers...))
	o := quick()
	o.Parallel = 1
	s := Open(t.TempDir(), o)
	ctx, cancel := context.WithCancel(context.Background())
	f.mode.Store("count")
	done := 0
	_, err := s.Pull(ctx, ref, PullOptions{Progress: func(p Progress) {
		if p.Phase == Downloaded {
			if done++; done == 2 {
				cancel()
			}
		}
	}})
	if !errors.Is(err, sandbox.Cancelled) {
		t.Fatalf("cancelled: %v", err)
	}
	unpublished(t, "cancelled", s)
	f.asked.Store(0)
	var phases []Phase
	mustPull(t, s, ref, PullOptions{Progress: func(p Progress) { phases = append(phases, p.Phase) }})
	if n := f.asked.Load(); n != 2 {
		t.Errorf("the second try asked for %d layers, want the 2 that were missing", n)
	}
	if !slices.Contains(phases, Cached) {
		t.Errorf("phases %v", phases)
	}
	f.asked.Store(0)
	if mustPull(t, s, ref, PullOptions{Force: true}); f.asked.Load() != 4 {
		t.Errorf("forced, it asked for %d layers, want all 4", f.asked.Load())
	}
	// A stored layer that went bad is noticed and replaced.
	d, err := s.Inspect(ref)
	if err != nil {
		t.Fatal(err)
	}
	blob := s.blobPath(Digest(d.LayerList[1].Digest))
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := errors.Join(os.Remove(blob), os.WriteFile(blob, b, 0o600), os.Remove(s.erofsPath(Digest(d.Digest)))); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, ref, PullOptions{})
	if b, err = os.ReadFile(blob); err != nil || string(digestOfBytes(b)) != d.LayerList[1].Digest {
		t.Errorf("the damaged layer is still there: %v", err)
	}
}

func TestOffline(t *testing.T) {
	s := Open(t.TempDir(), quick())
	for _, ref := range []string{"127.0.0.1:1/x", "no-such-host.invalid/x"} {
		_, err := s.Pull(context.Background(), ref, PullOptions{})
		if !errors.Is(err, sandbox.ImagePullFailed) || !strings.Contains(err.Error(), "cannot reach") || sandbox.HintOf(err) == "" {
			t.Errorf("%s: %v", ref, err)
		}
		unpublished(t, ref, s)
	}
	for _, ref := range []string{"", "A", "a b", "x@sha256:1", "http://x/y", "../x"} {
		if _, err := s.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, sandbox.InvalidArgument) || sandbox.HintOf(err) == "" {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// lying is a layer whose configuration says another diff id.
type lying struct{ v1.Layer }

func (lying) DiffID() (v1.Hash, error) { return v1.NewHash(aDigest) }

func TestHostile(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	entry := func(typ byte, name, link string) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: link}}
	}
	dev := func(major, minor int64) testimage.Entry {
		e := entry(tar.TypeChar, "dev", "")
		e.Devmajor, e.Devminor = major, minor
		return e
	}
	many := func(n int) (list []testimage.Entry) {
		for i := range n {
			e := dev(1, int64(i))
			e.Name = fmt.Sprint(i)
			list = append(list, e)
		}
		return list
	}
	circle := []testimage.Entry{entry(tar.TypeSymlink, "a", "b"), entry(tar.TypeSymlink, "b", "a"), entry(tar.TypeReg, "a/x", "")}
	deep := entry(tar.TypeDir, strings.Repeat("d/", 2500), "")
	sparse := func() []byte { // an old GNU header that claims a terabyte
		b := testimage.Tar(t, testimage.Entry{Header: tar.Header{Name: "sparse", Format: tar.FormatGNU}})
		copy(b[156:], "S")
		copy(b[386:], "00000000000\x0000000000000\x00")
		copy(b[483:], "\x80\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	long := testimage.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 256)}}
	limits := Limits{Bytes: 4 << 20, Entries: 1000, Metadata: 300_000, Ratio: 200}
	for what, c := range map[string]struct {
		tar []byte
		err error
	}{
		"../":                  {testimage.Tar(t, entry(tar.TypeReg, "../x", "")), ErrUnsafe},
		"a/../../x":            {testimage.Tar(t, entry(tar.TypeReg, "a/../../x", "")), ErrUnsafe},
		"link to ../":          {testimage.Tar(t, entry(tar.TypeLink, "x", "../../etc/passwd")), ErrUnsafe},
		"link to nothing":      {testimage.Tar(t, entry(tar.TypeLink, "x", "/etc/passwd")), ErrFormat},
		"link to a directory":  {testimage.Tar(t, entry(tar.TypeDir, "d/", ""), entry(tar.TypeLink, "x", "d")), ErrFormat},
		"link to itself":       {testimage.Tar(t, entry(tar.TypeLink, "x", "x")), ErrFormat},
		"symlinks in a circle": {testimage.Tar(t, circle...), ErrUnsafe},
		"below a file":         {testimage.Tar(t, entry(tar.TypeReg, "f", ""), entry(tar.TypeReg, "f/x", "")), ErrFormat},
		"root is a file":       {testimage.Tar(t, entry(tar.TypeSymlink, "./", "x")), ErrUnsafe},
		"whiteout of ..":       {testimage.Tar(t, entry(tar.TypeReg, "a/.wh...", "")), ErrUnsafe},
		"whiteout of nothing":  {testimage.Tar(t, entry(tar.TypeReg, ".wh.", "")), ErrUnsafe},
		"name too long":        {testimage.Tar(t, long), ErrUnsafe},
		"path too long":        {testimage.Tar(t, deep), ErrUnsafe},
		"device number":        {testimage.Tar(t, dev(1<<13, 0)), ErrUnsafe},
		"device flood":         {testimage.Tar(t, many(1001)...), ErrTooLarge},
		"names flood": {testimage.Tar(t, func() (list []testimage.Entry) {
			for i := range 900 {
				list = append(list, entry(tar.TypeSymlink, fmt.Sprint(i), strings.Repeat("t", 500)))
			}
			return list
		}()...), ErrTooLarge},
		"bomb":        {testimage.Tar(t, testimage.Entry{Header: tar.Header{Name: "zeros"}, Body: strings.Repeat("\x00", 5<<20)}), ErrTooLarge},
		"sparse bomb": {sparse(), ErrTooLarge},
		"no tar":      {bytes.Repeat([]byte("no tar "), 1000), ErrFormat},
		"cut":         {testimage.Tar(t, noise("x", 10_000))[:5000], ErrFormat},
		"diff id":     {testimage.Tar(t, entry(tar.TypeReg, "x", "")), ErrDiffID},
	} {
		for _, packing := range []testimage.Compression{testimage.Gzip, testimage.Plain} {
			layer := testimage.Layer(t, c.tar, packing)
			if what == "diff id" {
				layer = lying{layer}
			}
			ref := reg.Push(t, "hostile", testimage.Image(t, v1.Config{}, testimage.Layer(t, testimage.Tar(t, entry(tar.TypeReg, "ok", "")), testimage.Gzip), layer))
			o := quick()
			o.Limits = limits
			s := Open(t.TempDir(), o)
			_, err := s.Pull(context.Background(), ref, PullOptions{})
			if !errors.Is(err, sandbox.ImagePullFailed) || !errors.Is(err, c.err) || sandbox.HintOf(err) == "" || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%s (%s): %v, hint %q", what, packing, err, sandbox.HintOf(err))
			}
			// What all layers together may have, the first one can be the one to reach.
			if err != nil && !strings.Contains(err.Error(), "layer 2 of 2") && !(errors.Is(err, ErrTooLarge) && strings.Contains(err.Error(), "layer 1 of 2")) {
				t.Errorf("%s: does not say which layer: %v", what, err)
			}
			unpublished(t, what, s)
		}
	}
}

// TestTricks is about archives that are strange and allowed: nothing of them leaves the tree.
func TestTricks(t *testing.T) {
	reg := testimage.Serve(t, testimage.Options{})
	entry := func(typ byte, name, link, body string) testimage.Entry {
		return testimage.Entry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: link}, Body: body}
	}
	lower := testimage.Tar(t, entry(tar.TypeSymlink, "etc", "/outside", ""), entry(tar.TypeSymlink, "up", "../../..", ""),
		entry(tar.TypeSymlink, "here", "/real/dir", ""), entry(tar.TypeReg, "here/file", "", "in real/dir"), entry(tar.TypeReg, "up/top", "", "in the root"),
		entry(tar.TypeReg, "/absolute", "", "in the tree"), entry(tar.TypeLink, "hard", "/absolute", ""))
	upper := testimage.Tar(t, entry(tar.TypeReg, "etc/passwd", "", "in a new directory"), entry(tar.TypeLink, "through", "here/file", ""))
	ref := reg.Push(t, "tricks", testimage.Image(t, v1.Config{}, testimage.Layer(t, lower, testimage.Gzip), testimage.Layer(t, upper, testimage.Gzip)))
	root := mustPull(t, Open(t.TempDir(), Options{}), ref, PullOptions{})
	img := open(t, root.Path)
	for p, want := range map[string]string{
		"etc": "dir", "etc/passwd": "in a new directory", "outside": "none", "up": "-> ../../..", "top": "in the root", "real/dir/file": "in real/dir",
		"here": "-> /real/dir", "absolute": "in the tree", "hard": "in the tree", "through": "in real/dir",
	} {
		if got := content(img, p); got != want {
			t.Errorf("/%s: %q, want %q", p, got, want)
		}
	}
}

func TestManyEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 100_000 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir/%d", i), Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	reg := testimage.Serve(t, testimage.Options{})
	ref := reg.Push(t, "many", testimage.Image(t, v1.Config{}, testimage.Layer(t, b.Bytes(), testimage.Gzip)))
	s := Open(t.TempDir(), Options{})
	began := time.Now()
	root := mustPull(t, s, ref, PullOptions{})
	t.Log("100,000 entries in", time.Since(began))
	if n := len(ofImage(t, root.Path)); n != 100_002 {
		t.Errorf("%d entries", n)
	}
}

func TestBadManifests(t *testing.T) {
	for what, raw := range map[string]string{
		"no JSON": "{", "schema 1": `{"schemaVersion":1}`, "no digest": `{"schemaVersion":2,"config":{"digest":"x"}}`,
		"negative": `{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":-1}}`, "path": `{"schemaVersion":2,"config":{"digest":"sha256:../../../x"}}`,
		"layers":               `{"schemaVersion":2,"config":{"digest":"` + aDigest + `"},"layers":[` + strings.Repeat(`{"digest":"`+aDigest+`"},`, 1001) + `{"digest":"` + aDigest + `"}]}`,
		"big config":           `{"schemaVersion":2,"config":{"digest":"` + aDigest + `","size":99999999999}}`,
		"other kind":           `{"schemaVersion":2,"config":{"digest":"` + string(digestOfBytes([]byte("{}"))) + `","size":2,"mediaType":"application/vnd.cncf.helm.config.v1+json"},"layers":[]}`,
		"too few":              `{"schemaVersion":2,"config":{"digest":"` + string(digestOfBytes([]byte("{}"))) + `","size":2},"layers":[{"digest":"` + aDigest + `"}]}`,
		"no manifest in index": `{"schemaVersion":2,"mediaType":"` + string(types.OCIImageIndex) + `","manifests":[]}`,
		"huge":                 `{"schemaVersion":2,"x":"` + strings.Repeat("x", maxManifest) + `"}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.URL.Path, "/manifests/"):
				_, _ = io.WriteString(w, raw)
			case strings.Contains(r.URL.Path, "/blobs/"):
				_, _ = io.WriteString(w, "{}")
			}
		}))
		s := Open(t.TempDir(), quick())
		_, err := s.Pull(context.Background(), srv.Listener.Addr().String()+"/x", PullOptions{})
		srv.Close()
		if !errors.Is(err, sandbox.ImagePullFailed) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
			t.Errorf("%s: %v", what, err)
		}
		unpublished(t, what, s)
	}
}
