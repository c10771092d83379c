package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// guest is a port of a sandbox whose connections serve answers, and a server that leads to it.
func guest(t *testing.T, serve func(c net.Conn, r *http.Request)) (address string, over <-chan struct{}) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					serve(c, r)
				}
			}()
		}
	}()
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		forward(w, r, "/p", 80, func(ctx context.Context) (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) })
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), done
}

// ask sends a request as it is written, and returns the connection.
func ask(t *testing.T, address, request string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestUpgradedIsLetGo has a client go away from an upgraded connection that the sandbox never closes.
func TestUpgradedIsLetGo(t *testing.T) {
	address, over := guest(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	})
	c := ask(t, address, "GET /p/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, %v", resp, err)
	}
	c.Close()
	<-over
}

// TestHeaders has a sandbox say what would be about the whole server, in its answer and in one before that, and looks at what it is told.
func TestHeaders(t *testing.T) {
	const bad = "Set-Cookie: a=b\r\nNel: {}\r\nReport-To: {}\r\nReporting-Endpoints: a=\"b\"\r\nAlt-Svc: h3=\":1\"\r\nX-Request-Id: 1\r\nClear-Site-Data: *\r\nLink: </x>; rel=preload\r\n"
	asked := make(chan http.Header, 1)
	address, over := guest(t, func(c net.Conn, r *http.Request) {
		asked <- r.Header
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n"+bad+"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n"+bad+"X-Own: 1\r\n\r\nok")
	})
	c := ask(t, address, "GET /p/ HTTP/1.1\r\nHost: x\r\nCookie: session=hush\r\nX-Mine: 1\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK") || !strings.Contains(string(answer), "X-Own: 1") || !strings.HasSuffix(string(answer), "ok") {
		t.Errorf("%s, %v", answer, err)
	}
	for _, name := range []string{"Set-Cookie", "Nel", "Report-To", "Reporting-Endpoints", "Alt-Svc", "X-Request-Id", "Clear-Site-Data"} {
		if strings.Contains(string(answer), name+":") {
			t.Errorf("%s is passed on: %s", name, answer)
		}
	}
	<-over
	if h := <-asked; h.Get("Cookie") != "" || h.Get("X-Mine") != "1" {
		t.Errorf("the sandbox was told %v", h)
	}
}

// gone is a backend without sandboxes.
type gone struct{ backend.Backend }

func (gone) Dial(_ context.Context, ref sandbox.Ref) (net.Conn, error) {
	return nil, &sandbox.Error{Ref: ref, Kind: sandbox.NotFound}
}

// TestOtherSites has pages of other sites ask for what a sandbox shows, where no key is needed.
func TestOtherSites(t *testing.T) {
	s := server.New(server.Config{Backend: gone{}, Origins: []string{"https://app.example"}})
	defer s.Close()
	h := New(s)
	s.Mount(h.Routes()...)
	signed, err := h.Sign(server.WithCaller(t.Context(), server.Caller{Namespace: server.AllNamespaces}), "n", "s", 80, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url, site, origin string
		status            int
	}{
		{"/proxy/n/s/80/", "cross-site", "", http.StatusForbidden}, {"/proxy/n/s/80/", "same-site", "", http.StatusForbidden},
		{"/proxy/n/s/80/", "cross-site", "https://evil.example", http.StatusForbidden}, {"/proxy/n/s/80/", "cross-site", "https://app.example", http.StatusNotFound},
		{"/proxy/n/s/80/", "same-origin", "", http.StatusNotFound}, {"/proxy/n/s/80/", "none", "", http.StatusNotFound}, {"/proxy/n/s/80/", "", "", http.StatusNotFound},
		{signed, "cross-site", "", http.StatusNotFound},
	} {
		r := httptest.NewRequest("GET", "http://localhost"+c.url, nil)
		for name, v := range map[string]string{"Sec-Fetch-Site": c.site, "Origin": c.origin} {
			if v != "" {
				r.Header.Set(name, v)
			}
		}
		w := httptest.NewRecorder()
		if s.ServeHTTP(w, r); w.Code != c.status {
			t.Errorf("%+v: %d %s", c, w.Code, w.Body)
		}
	}
}

// TestSignedByRevokedKey revokes the key that URLs were signed for.
func TestSignedByRevokedKey(t *testing.T) {
	home := t.TempDir()
	if err := server.SaveSecret(home, "0123456789abcdefghijklmnopqrstuv"); err != nil {
		t.Fatal(err)
	}
	keys, err := server.OpenKeys(home, "")
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Config{Keys: keys, Backend: gone{}})
	defer s.Close()
	h := New(s)
	s.Mount(h.Routes()...)
	sign := func() (url, id string) {
		token, key, err := keys.Make("n", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c, err := keys.Verify(token)
		if err != nil {
			t.Fatal(err)
		}
		url, err = h.Sign(server.WithCaller(t.Context(), c), "n", "s", 80, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return url, key.ID
	}
	status := func(url string) int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost"+url, nil))
		return w.Code
	}
	url, id := sign()
	if have := status(url); have != http.StatusNotFound { // it looked for the sandbox
		t.Errorf("signed: %d", have)
	}
	for _, other := range []string{strings.Replace(url, id, "0123456789abcdef", 1), strings.Replace(url, id, "", 1), strings.Replace(url, "~"+id, "", 1)} {
		if have := status(other); have != http.StatusForbidden {
			t.Errorf("for another key, %s: %d", other, have)
		}
	}
	if _, err := keys.Revoke(id); err != nil {
		t.Fatal(err)
	}
	if have := status(url); have != http.StatusForbidden {
		t.Errorf("for a revoked key: %d", have)
	}
}
