package mcp

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// TestEndWaitsForAnswers has an input end behind two requests, of which one is answered late or not at all.
func TestEndWaitsForAnswers(t *testing.T) {
	in := `{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n" + `{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n" + `{"jsonrpc":"2.0","id":"b","method":"ping"}` + "\n"
	for name, c := range map[string]struct {
		end  func(c mcp.Connection, last jsonrpc.ID)
		want time.Duration
	}{
		"answered": {func(c mcp.Connection, last jsonrpc.ID) {
			_ = c.Write(context.Background(), &jsonrpc.Response{ID: last, Result: []byte("{}")})
		}, time.Second},
		"closed":     {func(c mcp.Connection, _ jsonrpc.ID) { _ = c.Close() }, time.Second},
		"unanswered": {func(mcp.Connection, jsonrpc.ID) {}, patience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				conn, err := draining{&mcp.IOTransport{Reader: io.NopCloser(strings.NewReader(in)), Writer: discard{}}}.Connect(ctx)
				if err != nil {
					t.Fatal(err)
				}
				var ids []jsonrpc.ID
				for range 3 {
					msg, err := conn.Read(ctx)
					if err != nil {
						t.Fatal(err)
					}
					if r := msg.(*jsonrpc.Request); r.IsCall() {
						ids = append(ids, r.ID)
					}
				}
				if err := conn.Write(ctx, &jsonrpc.Response{ID: ids[0], Result: []byte("{}")}); err != nil {
					t.Fatal(err)
				}
				go func() {
					time.Sleep(time.Second)
					c.end(conn, ids[1])
				}()
				began := time.Now()
				if _, err := conn.Read(ctx); err == nil {
					t.Error("a message after the end")
				}
				if took := time.Since(began); took != c.want {
					t.Errorf("the end came after %v, want %v", took, c.want)
				}
				_ = conn.Close()
			})
		})
	}
}
