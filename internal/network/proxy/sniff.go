package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The first flight: how much of it is looked at, in bytes, and how long it is waited for (contract msb-0.6 §5.6).
const (
	maxHead   = 16 << 10
	firstWait = 5 * time.Second
)

// kind is what a connection speaks, by its first bytes.
type kind uint8

const (
	undecided kind = iota
	speaksTLS
	speaksHTTP
	opaque // anything else, also when the server speaks first
)

// classify says what head is the beginning of. What an HTTP server might take for a request is HTTP, also if it is a bad one.
func classify(head []byte) (kind, hello) {
	if len(head) == 0 {
		return undecided, hello{}
	}
	if head[0] == recordHandshake {
		if len(head) > 1 && head[1] != 3 {
			return opaque, hello{}
		}
		h, err := parseHello(head)
		if errors.Is(err, errShort) && len(head) < maxHead {
			return undecided, hello{}
		}
		return speaksTLS, h // with no name, if that cannot be read: a server may be able to
	}
	return classifyText(head), hello{}
}

// methods are those of HTTP that begin a request whatever follows.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"}

func classifyText(head []byte) kind {
	line := bytes.TrimLeft(head, "\r\n \t") // servers skip empty lines before a request
	if len(line) == 0 {
		return short(head)
	}
	whole := false
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		line, whole = line[:i], true
	}
	word, _, spaced := strings.Cut(strings.ReplaceAll(string(line), "\t", " "), " ")
	for _, m := range methods {
		switch {
		case word == m && (spaced || whole):
			return speaksHTTP
		case !spaced && !whole && strings.HasPrefix(m, word):
			return short(head)
		}
	}
	if bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
		return speaksHTTP
	}
	// Another word may be a method, too, if the line turns out to be a request's.
	if !whole && isToken(word) && len(word) <= 32 && printable(line) {
		return short(head)
	}
	return opaque
}

// short is the verdict on what may still become a request. When too much of it has come, it is taken for one.
func short(head []byte) kind {
	if len(head) >= maxHead {
		return speaksHTTP
	}
	return undecided
}

func isToken(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c) }) < 0
}

func printable(b []byte) bool {
	return bytes.IndexFunc(b, func(c rune) bool { return c < ' ' && c != '\t' && c != '\r' || c == 0x7f }) < 0
}

// flight is the first flight of a connection.
type flight struct {
	kind  kind
	hello hello
	head  []byte // what was read from the guest
	early []byte // what was read from the host; nothing if it is a socket
	err   error  // the guest's side is broken
}

var longAgo = time.Unix(1, 0)

// sniff reads from the guest until it is clear what it speaks. Nothing is decided while both sides are silent, so that
// waiting is no way round it; a server that speaks first is no server of TLS or HTTP.
func sniff(guest, host net.Conn) (f flight) {
	early := make(chan []byte, 1)
	go func() {
		b, spoke := hears(host)
		if spoke {
			_ = guest.SetReadDeadline(longAgo)
		}
		early <- b
	}()
	for f.kind == undecided {
		if len(f.head) == cap(f.head) {
			f.head = append(make([]byte, 0, max(1024, 4*cap(f.head))), f.head...)
		}
		n, err := guest.Read(f.head[len(f.head):cap(f.head)])
		if len(f.head) == 0 && n > 0 && err == nil {
			_ = guest.SetReadDeadline(time.Now().Add(firstWait)) // for the rest
		}
		f.head = f.head[:len(f.head)+n]
		f.kind, f.hello = classify(f.head)
		if err == nil || f.kind != undecided {
			continue
		}
		switch {
		case len(f.head) > 0 && f.head[0] == recordHandshake:
			f.kind = speaksTLS // of which no name could be had in time
		case len(f.head) > 0 && isTimeout(err):
			f.kind = speaksHTTP // it might become a request
		default:
			f.kind = opaque
		}
		if !isTimeout(err) && !errors.Is(err, io.EOF) {
			f.err = err
		}
	}
	_ = host.SetReadDeadline(longAgo)
	f.early = <-early
	_ = host.SetReadDeadline(time.Time{})
	_ = guest.SetReadDeadline(time.Time{})
	return f
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// hears waits until the host says something or has ended, or its read deadline is set back. Of a socket nothing is read.
func hears(host net.Conn) (b []byte, spoke bool) {
	sc, ok := host.(syscall.Conn)
	if !ok {
		b = make([]byte, 4096)
		n, err := host.Read(b)
		return b[:n], n > 0 || !isTimeout(err)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, false
	}
	var one [1]byte
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return nil, err == nil
}

// replay is a connection of which some was read already.
type replay struct {
	net.Conn
	head []byte
}

func (c *replay) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *replay) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// replayed returns c with head in front of what it still has.
func replayed(c net.Conn, head []byte) net.Conn {
	if len(head) == 0 {
		return c
	}
	return &replay{c, head}
}
