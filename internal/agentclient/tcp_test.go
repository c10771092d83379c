package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// listen listens and serves each connection.
func listen(t *testing.T, serve func(*net.TCPConn)) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestTCP(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		conn, err := g.Client.DialTCP(t.Context(), "127.0.0.1", port)
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), 300_000)
		go func() {
			_, _ = conn.Write(data)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("have %d bytes of %d, %v", len(got), len(data), err)
		}
		_ = conn.Close()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}

		conn, err = g.Client.DialTCP(t.Context(), "localhost", port)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("have %v", err)
		}
		_ = conn.SetReadDeadline(time.Time{})
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	})
}

func TestTCPFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	reset := listen(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 1)); _ = c.SetLinger(0) })
	sink := listen(t, func(c *net.TCPConn) { time.Sleep(300 * time.Millisecond) })
	eachPlace(t, agentproto.Bootstrap{}, func(t *testing.T, g *guest) {
		if _, err := g.Client.DialTCP(t.Context(), "127.0.0.1", closed); !errors.Is(err, sandbox.IO) {
			t.Errorf("have %v", err)
		}
		conn, err := g.Client.DialTCP(t.Context(), "127.0.0.1", reset)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a reset connection: %v", err)
		}
		_ = conn.Close()

		// A peer that does not read stops the writer only, who can give up.
		conn, err = g.Client.DialTCP(t.Context(), "127.0.0.1", sink)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for err == nil {
			_, err = conn.Write(make([]byte, 1<<20))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("have %v", err)
		}
		_ = conn.Close()

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.Client.DialTCP(ctx, "127.0.0.1", sink); !errors.Is(err, context.Canceled) {
			t.Errorf("have %v", err)
		}
	})
}
