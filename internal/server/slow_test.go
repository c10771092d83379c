package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// listening serves on loopback until the test ends.
func listening(t *testing.T, s *Server) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l, err := s.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// patience is what a test waits for what has to happen.
const patience = time.Minute

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// TestTimeouts are those that clients have who say nothing else.
func TestTimeouts(t *testing.T) {
	want := Timeouts{Header: 10 * time.Second, Body: 30 * time.Second, Write: time.Minute, Idle: 2 * time.Minute}
	if have := New(Config{}).Config().Timeouts; have != want {
		t.Errorf("%+v, want %+v", have, want)
	}
}

// TestSlowClients has clients that send a header or a body a byte at a time, or not at all, do not read, or say nothing more: they are
// cut off, each by the timeout that is for it, while others are answered.
func TestSlowClients(t *testing.T) {
	const short, long = 200 * time.Millisecond, 10 * patience
	read := make(chan error, 16)
	flood := Route{Pattern: "GET /flood", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 64<<10))
		}
		read <- err
	})}
	upload := Route{Pattern: "PUT /upload", Public: true, MaxBody: -1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			WriteFailure(w, r, FailureOf(err))
		}
	})}
	const host = " HTTP/1.1\r\nHost: localhost\r\n"
	for name, c := range map[string]struct {
		timeouts   Timeouts
		send, drip string // drip comes again and again
		want       string
	}{
		"header":                    {Timeouts{short, long, long, long}, "POST /keyed" + host, "x: y\r\n", ""},
		"nothing":                   {Timeouts{short, long, long, long}, "", "", ""},
		"body":                      {Timeouts{long, short, long, long}, "POST /keyed" + host + "Content-Length: 1000\r\n\r\n{", "x", "HTTP/1.1 408 "},
		"no body":                   {Timeouts{long, short, long, long}, "POST /keyed" + host + "Content-Length: 1000\r\n\r\n", "", "HTTP/1.1 408 "},
		"chunks":                    {Timeouts{long, short, long, long}, "POST /keyed" + host + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", "HTTP/1.1 408 "},
		"body of any length":        {Timeouts{long, short, long, long}, "PUT /upload" + host + "Content-Length: 1000000\r\n\r\nx", "", "HTTP/1.1 408 "},
		"body that nobody wants":    {Timeouts{long, short, long, long}, "GET /public" + host + "Content-Length: 1000\r\n\r\n", "x", "HTTP/1.1 408 "},
		"body of what is not there": {Timeouts{long, short, long, long}, "POST /nothing" + host + "Content-Length: 10000000\r\n\r\n", "x", "HTTP/1.1 404 "},
		"idle":                      {Timeouts{long, long, long, short}, "GET /public" + host + "\r\n", "", "HTTP/1.1 200 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testServer(t, Config{Timeouts: c.timeouts})
			s.Mount(upload)
			addr := listening(t, s)
			var all sync.WaitGroup
			for range 20 {
				conn := dial(t, addr)
				stop := make(chan struct{})
				all.Go(func() {
					_, err := io.WriteString(conn, c.send)
					for err == nil && c.drip != "" {
						select {
						case <-stop:
							return
						case <-time.After(short / 10):
							_, err = io.WriteString(conn, c.drip)
						}
					}
				})
				all.Go(func() {
					defer close(stop)
					answer, err := io.ReadAll(conn)
					if e, ok := err.(net.Error); ok && e.Timeout() {
						t.Errorf("the connection is still there; it answered %q", answer)
					}
					if !strings.HasPrefix(string(answer), c.want) || c.want == "" && len(answer) > 0 {
						t.Errorf("it answered %q, want %q", answer, c.want)
					}
				})
			}
			resp, err := http.Get("http://" + addr + "/public")
			if err != nil || resp.StatusCode != 200 {
				t.Errorf("another client: %v, %v", resp, err)
			}
			all.Wait()
		})
	}
	t.Run("answer", func(t *testing.T) {
		t.Parallel()
		s := testServer(t, Config{Timeouts: Timeouts{long, long, short, long}})
		s.Mount(flood)
		conn := dial(t, listening(t, s))
		if _, err := io.WriteString(conn, "GET /flood"+host+"\r\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-read: // the client's buffers were full, and nobody emptied them
		case <-time.After(patience):
			t.Error("it still writes")
		}
	})
}

// TestLongBodies sends 100 MB to all sorts of routes, all of it before the answer is read, as simple clients do: each has its answer, and
// nothing of it stays in memory.
func TestLongBodies(t *testing.T) {
	const length = 100 << 20
	s := testServer(t, Config{Keys: testKeys(t)})
	addr := listening(t, s)
	chunk := make([]byte, 64<<10)
	for _, c := range []struct {
		name, path, key string
		chunked         bool
		want            int
	}{
		{"too long", "POST /keyed", vectorAll, false, 413},
		{"too long, in chunks", "POST /keyed", vectorAll, true, 413},
		{"without a key", "POST /keyed", "", false, 401},
		{"without a key, in chunks", "POST /keyed", "", true, 401},
		{"not there", "POST /nothing", vectorAll, false, 404},
		{"another method", "PUT /keyed", vectorAll, true, 405},
		{"of nobody's name", "POST http://evil.example/keyed", vectorAll, false, 421},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, addr)
			head := c.path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + c.key + "\r\nConnection: close\r\n"
			w := bufio.NewWriter(conn)
			if c.chunked {
				fmt.Fprint(w, head+"Transfer-Encoding: chunked\r\n\r\n")
			} else {
				fmt.Fprintf(w, head+"Content-Length: %d\r\n\r\n", length)
			}
			for n := 0; n < length; n += len(chunk) {
				if c.chunked {
					fmt.Fprintf(w, "%x\r\n", len(chunk))
				}
				_, _ = w.Write(chunk)
				if c.chunked {
					fmt.Fprint(w, "\r\n")
				}
			}
			if c.chunked {
				fmt.Fprint(w, "0\r\n\r\n")
			}
			if err := w.Flush(); err != nil {
				t.Fatalf("it was not taken: %v", err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != c.want {
				t.Errorf("%v, %v; want %d", resp, err, c.want)
			}
		})
	}
}
