package proxy

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// hello is what matters of a TLS ClientHello (RFC 8446, section 4.1.2).
type hello struct {
	name string   // of the server, lower case, no final dot; "" if there is none
	alpn []string // the protocols that the client offers
}

// What parseHello says of what it cannot use: that there is not all of it yet, or that it is none.
var (
	errShort = errors.New("incomplete")
	errHello = errors.New("not a TLS hello")
)

const (
	recordHandshake = 22
	typeClientHello = 1
	maxRecord       = 1 << 14
	extServerName   = 0
	extALPN         = 16
)

// parseHello reads the ClientHello that a connection begins with. It may be spread over any number of records. What a
// server might understand in two ways (names given twice, lengths that do not fit) is errHello.
func parseHello(b []byte) (hello, error) {
	var msg []byte
	for {
		if len(b) < 5 {
			return hello{}, errIf(len(b) > 0 && b[0] != recordHandshake)
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if b[0] != recordHandshake || b[1] != 3 || n == 0 || n > maxRecord {
			return hello{}, errHello
		}
		whole := len(b) >= 5+n
		msg = append(msg, b[5:min(len(b), 5+n)]...)
		if len(msg) > 0 && msg[0] != typeClientHello {
			return hello{}, errHello
		}
		if len(msg) >= 4 {
			size := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if size > maxHead {
				return hello{}, errHello
			}
			if len(msg) >= 4+size {
				return parseClientHello(msg[4 : 4+size])
			}
		}
		if !whole {
			return hello{}, errShort
		}
		b = b[5+n:]
	}
}

func errIf(bad bool) error {
	if bad {
		return errHello
	}
	return errShort
}

// fields takes fields of a given length off a message. After a field that is not there all are empty.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.bad, n = true, 0
	}
	x := f.b[:n]
	f.b = f.b[n:]
	if f.bad {
		f.b = nil
	}
	return x
}

func (f *fields) uint(n int) (v int) {
	for _, c := range f.take(n) {
		v = v<<8 | int(c)
	}
	return v
}

// vector takes a field that begins with its length, of n bytes.
func (f *fields) vector(n int) fields { return fields{b: f.take(f.uint(n))} }

func parseClientHello(b []byte) (h hello, err error) {
	f := fields{b: b}
	f.take(2 + 32)
	f.vector(1) // session
	f.vector(2) // cipher suites
	f.vector(1) // compression
	if f.bad {
		return h, errHello
	}
	if len(f.b) == 0 {
		return h, nil
	}
	exts := f.vector(2)
	if f.bad || len(f.b) > 0 {
		return h, errHello
	}
	seen := map[int]bool{}
	for len(exts.b) > 0 {
		kind := exts.uint(2)
		body := exts.vector(2)
		if exts.bad || seen[kind] {
			return h, errHello
		}
		seen[kind] = true
		switch kind {
		case extServerName:
			h.name, err = serverName(body)
		case extALPN:
			h.alpn, err = protocols(body)
		}
		if err != nil {
			return hello{}, err
		}
	}
	return h, nil
}

func serverName(body fields) (string, error) {
	list := body.vector(2)
	if body.bad || len(body.b) > 0 {
		return "", errHello
	}
	name := ""
	for len(list.b) > 0 {
		kind := list.uint(1)
		n := list.vector(2)
		if list.bad || name != "" || kind != 0 { // 0 is the only kind there is
			return "", errHello
		}
		if name = canonical(string(n.b)); !isName(name) {
			return "", errHello
		}
	}
	if name == "" {
		return "", errHello
	}
	return name, nil
}

func protocols(body fields) (all []string, err error) {
	list := body.vector(2)
	if body.bad || len(body.b) > 0 {
		return nil, errHello
	}
	for len(list.b) > 0 {
		p := list.vector(1)
		if list.bad || len(p.b) == 0 {
			return nil, errHello
		}
		all = append(all, string(p.b))
	}
	return all, nil
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// isName reports whether s can be the name of a host; an address is none.
func isName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' || strings.Contains(s, "..") {
		return false
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	_, err := netip.ParseAddr(s)
	return err != nil
}
