package secret

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestHeadGrowsLittle fills a head with the placeholder of a long value, spread over many headers and parts of a query.
func TestHeadGrowsLittle(t *testing.T) {
	yes := true
	for _, size := range []int{16, 1 << 10, 64 << 10} {
		s, err := New(&sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "K", Placeholder: "$MSB_K", AllowedHosts: []sandbox.HostPattern{{Exact: "api.test"}},
			Injection: sandbox.Injection{QueryParams: &yes}}}}, []string{strings.Repeat("v", size)})
		if err != nil {
			t.Fatal(err)
		}
		plan := s.For(Target{Host: "api.test", Pinned: true, Verified: true})
		send := func(headers, params int) (int, error) {
			r := &http.Request{Header: http.Header{}, URL: &url.URL{}}
			for i := range headers {
				r.Header.Set(fmt.Sprintf("A%d", i), "$MSB_K")
			}
			r.URL.RawQuery = strings.TrimPrefix(strings.Repeat("&a=$MSB_K", params), "&")
			_, err := plan.Request(r)
			grown := len(r.URL.RawQuery)
			for _, v := range r.Header {
				grown += len(v[0])
			}
			return grown, err
		}
		fits := maxText / (size - len("$MSB_K"))
		if n, err := send(min(fits/2, 1000), min(fits/2, 1000)); err != nil || n < min(fits/2, 1000)*size {
			t.Errorf("%d bytes: %d, %v", size, n, err)
		}
		if fits > 2000 {
			continue
		}
		for _, parts := range [][2]int{{fits + 2, 0}, {0, fits + 2}, {fits/2 + 2, fits/2 + 2}} {
			var v *Violation
			if n, err := send(parts[0], parts[1]); !errors.As(err, &v) || v.Env != "K" {
				t.Errorf("%d bytes, %d times: %d, %v", size, parts, n, err)
			}
		}
	}
}

// TestZstdWaits has more bodies in zstd under way than may be decoded at a time. Those that wait go on when one has ended, and
// go when they are closed.
func TestZstdWaits(t *testing.T) {
	s, err := New(&sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "K", Placeholder: "$MSB_K", AllowedHosts: []sandbox.HostPattern{{Exact: "api.test"}}}}}, []string{"value-value"})
	if err != nil {
		t.Fatal(err)
	}
	begin := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
	begin = append(begin, 0, 13<<3, 0, 0, 0) // a window of 8 MiB, an empty block
	end := []byte{1<<3 | 1, 0, 0, 'x'}
	type sent struct {
		body io.ReadCloser
		to   *io.PipeWriter
		err  chan error
	}
	send := func() *sent {
		r, w := io.Pipe()
		req := &http.Request{Header: http.Header{"Content-Encoding": {"zstd"}}, URL: &url.URL{}, Body: r}
		if _, err := s.For(Target{Host: "other.test"}).Request(req); err != nil {
			t.Fatal(err)
		}
		x := &sent{req.Body, w, make(chan error, 1)}
		go func() {
			_, err := io.Copy(io.Discard, x.body)
			x.err <- err
		}()
		if _, err := w.Write(begin); err != nil {
			t.Fatal(err)
		}
		return x
	}
	finish := func(x *sent) {
		t.Helper()
		_, _ = x.to.Write(end)
		x.to.Close()
		if err := <-x.err; err != nil {
			t.Error(err)
		}
		x.body.Close()
	}
	var all []*sent
	for range cap(zstds) {
		all = append(all, send())
	}
	for len(zstds) < cap(zstds) {
		runtime.Gosched()
	}
	waits, given := send(), send()
	given.body.Close()
	given.to.Close()
	if err := <-given.err; err == nil {
		t.Error("a body that was closed went well")
	}
	if n := len(zstds); n != cap(zstds) {
		t.Errorf("%d decode", n)
	}
	finish(all[0])
	finish(waits)
	for _, x := range all[1:] {
		finish(x)
	}
	for len(zstds) > 0 {
		runtime.Gosched()
	}
	if _, ok := codings([]string{"zstd, zstd"}); ok {
		t.Error("zstd in zstd is looked into")
	}
}
