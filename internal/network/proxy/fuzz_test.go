package proxy

import (
	"context"
	"flag"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// FuzzRequests has a guest send anything to a server that one name on its address may see a secret of. Whatever the guest
// writes, the server gets the value only in requests that it, too, takes to be for that name.
func FuzzRequests(f *testing.F) {
	no := false
	b := newBed(f, opts{secrets: keySecret(func(s *sandbox.Secrets) { s.Secrets[0].RequireTLSIdentity = &no }), values: []string{value}})
	var wrong, right atomic.Int64
	b.serve(goodIP+":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		has := strings.Contains(r.RequestURI+string(body), value)
		for _, h := range []http.Header{r.Header, r.Trailer} {
			for _, vs := range h {
				has = has || strings.Contains(strings.Join(vs, " "), value)
			}
		}
		if has && hostOf(r.Host) != good {
			wrong.Add(1)
		}
		if has {
			right.Add(1)
		}
	}))
	for _, n := range []string{good, "shared.test"} {
		if _, err := b.resolve(n); err != nil {
			f.Fatal(err)
		}
	}
	head := "POST / HTTP/1.1\r\nHost: " + good + "\r\n"
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: " + good + "\r\nX: " + placeholder + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: shared.test\r\nX: " + placeholder + "\r\n\r\n",
		head + "Host: shared.test\r\nX: " + placeholder + "\r\n\r\n",
		head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: shared.test\r\nX: " + placeholder + "\r\n\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n4;a=b\r\n$MSB\r\n8\r\n_API_KEY\r\n0\r\nX: " + placeholder + "\r\n\r\n",
		head + "Content-Length: 70\r\n\r\nGET / HTTP/1.1\r\nHost: shared.test\r\nX: " + placeholder + "\r\n\r\nGET / HTTP/1.1\r\nHost: shared.test\r\n\r\n",
		"GET http://shared.test/?a=" + placeholder + " HTTP/1.1\r\nHost: " + good + "\r\n\r\n",
		"GET / HTTP/1.0\r\nX: " + placeholder + "\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<16 {
			return
		}
		c, err := b.dial(context.Background(), goodIP+":80")
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = c.Write(in)
		if h, ok := c.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
		if wrong.Load() > 0 {
			t.Error("the value went with a request for another host")
		}
	})
	if fuzzing := flag.Lookup("test.fuzz"); fuzzing.Value.String() == "" && right.Load() == 0 { // else others do it
		f.Error("the value was never sent to whom it may go to: nothing was tested")
	}
}
