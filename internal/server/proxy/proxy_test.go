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
