// Package agenttest has what tests of both sides of the agent protocol need: sockets, and a relay's greeting.
package agenttest

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// SocketPair returns the two ends of a stream socket.
func SocketPair(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return ends[0], ends[1]
}

// Bootstrap brings up the agent at the other end and returns what it was ready with, as it was on the wire. change may take away from
// what the agent says it can do.
func Bootstrap(t testing.TB, host net.Conn, b agentproto.Bootstrap, change ...func(*agentproto.Ready)) []byte {
	t.Helper()
	hello := agentproto.Append(nil, 0, agentproto.TypeBootstrap, &b)
	if _, err := host.Write(agentproto.Append(hello, 0, agentproto.TypeInitAck, nil)); err != nil {
		t.Fatal(err)
	}
	frames := agentproto.NewReader(host)
	var raw []byte
	var ready agentproto.Ready
	for _, want := range []agentproto.Type{agentproto.TypeInitResolved, agentproto.TypeReady} {
		f, err := frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		m, err := agentproto.Open(f.Body())
		if err != nil || m.Type != want {
			t.Fatalf("have %q (%v), want %q: %q", m.Type, err, want, f.Body())
		}
		if want == agentproto.TypeReady {
			if err := agentproto.Decode(m.Payload, &ready); err != nil {
				t.Fatal(err)
			}
		}
		raw = append([]byte(nil), f.Raw()...)
		f.Release()
	}
	if frames.Buffered() {
		t.Fatal("the agent said more than it should")
	}
	for _, c := range change {
		c(&ready)
		raw = agentproto.Append(nil, 0, agentproto.TypeReady, &ready)
	}
	return raw
}

// Connect greets a client as a relay does in its first slot, and gives it the connection.
func Connect(t testing.TB, conn net.Conn, ready []byte) *agentclient.Client {
	t.Helper()
	start, end := agentproto.IDRange(0)
	c, err := agentclient.Connect(context.Background(), Greeted(conn, append(agentproto.AppendWords(nil, start, end), ready...)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Greeted is a connection on which something comes first.
func Greeted(conn net.Conn, first []byte) net.Conn { return &greeted{conn, first} }

type greeted struct {
	net.Conn
	first []byte
}

func (g *greeted) Read(p []byte) (int, error) {
	if len(g.first) == 0 {
		return g.Conn.Read(p)
	}
	n := copy(p, g.first)
	g.first = g.first[n:]
	return n, nil
}
