package server

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSilentConnections opens far more connections than the server takes, which ask something once and stay: others are answered, and
// so is one of those that is still there.
func TestSilentConnections(t *testing.T) {
	const most = 8
	s := New(Config{Log: slog.New(slog.DiscardHandler), Audit: slog.New(slog.DiscardHandler), Limits: Limits{Connections: most},
		Timeouts: Timeouts{Header: 10 * patience, Body: 10 * patience, Write: 10 * patience, Idle: 10 * patience}})
	s.Mount(Route{Pattern: "GET /x", Public: true, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "answer") })})
	addr := listening(t, s)
	ask := func(c net.Conn) string {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\n\r\n", addr); err != nil {
			return err.Error()
		}
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	var all []net.Conn
	for i := range 5 * most {
		c := dial(t, addr)
		if i%2 == 0 { // the others never ask
			if got := ask(c); !strings.HasSuffix(got, "answer") {
				t.Fatalf("connection %d: %q", i, got)
			}
		}
		all = append(all, c)
	}
	if _, err := io.ReadAll(all[0]); err != nil {
		t.Errorf("the oldest: %v", err)
	}
	if got := ask(all[len(all)-2]); !strings.HasSuffix(got, "answer") {
		t.Errorf("a young one: %q", got)
	}
	if got := ask(dial(t, addr)); !strings.HasSuffix(got, "answer") {
		t.Errorf("a new one: %q", got)
	}
}
