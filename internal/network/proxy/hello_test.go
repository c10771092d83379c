package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// helloOf is the ClientHello that Go's client sends.
func helloOf(t testing.TB, name string, alpn ...string) []byte {
	t.Helper()
	c, s := net.Pipe()
	defer s.Close()
	go func() {
		_ = tls.Client(c, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
		c.Close()
	}()
	var head [5]byte
	_, err := io.ReadFull(s, head[:])
	must(t, err)
	b := make([]byte, int(head[3])<<8|int(head[4]))
	_, err = io.ReadFull(s, b)
	must(t, err)
	return append(head[:], b...)
}

// inRecords spreads a handshake message over records of a size.
func inRecords(hello []byte, size int) (out []byte) {
	for msg := range slices.Chunk(hello[5:], size) {
		out = append(append(out, 22, 3, 1, byte(len(msg)>>8), byte(len(msg))), msg...)
	}
	return out
}

func TestHello(t *testing.T) {
	long := strings.Repeat("a23456789.", 25) + "com"
	for _, x := range []struct {
		name string
		alpn []string
	}{{"example.com", []string{"h2", "http/1.1"}}, {"EXAMPLE.com", nil}, {long, []string{"x"}}, {"", []string{"h2"}}, {"a_b-c.d", nil}} {
		whole := helloOf(t, x.name, x.alpn...)
		for _, size := range []int{len(whole), 1000, 7, 1} {
			b := inRecords(whole, size)
			h, err := parseHello(append(slices.Clone(b), "and what follows"...))
			if err != nil || h.name != strings.ToLower(x.name) || !slices.Equal(h.alpn, x.alpn) {
				t.Errorf("%q in records of %d: %+v, %v", x.name, size, h, err)
			}
		}
		for n := range len(whole) {
			if _, err := parseHello(whole[:n]); !errors.Is(err, errShort) {
				t.Fatalf("%q, the first %d bytes: %v", x.name, n, err)
			}
		}
	}
}

// extension is one with a body behind its length.
func extension(kind int, body []byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body))}, body...)
}

func clientHello(exts ...[]byte) []byte {
	all := slices.Concat(exts...)
	b := append([]byte{3, 3}, make([]byte, 32)...)
	b = append(b, 0, 0, 2, 0x13, 1, 1, 0, byte(len(all)>>8), byte(len(all)))
	b = append(b, all...)
	msg := append([]byte{1, 0, byte(len(b) >> 8), byte(len(b))}, b...)
	return append([]byte{22, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...)
}

func names(list ...string) []byte {
	var b []byte
	for _, n := range list {
		b = append(append(b, 0, byte(len(n)>>8), byte(len(n))), n...)
	}
	return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...)
}

// TestHelloWithTwoMeanings refuses what a server might understand in another way.
func TestHelloWithTwoMeanings(t *testing.T) {
	sni := func(list ...string) []byte { return extension(0, names(list...)) }
	if h, err := parseHello(clientHello(sni("good.test"))); err != nil || h.name != "good.test" {
		t.Fatalf("a plain one: %+v, %v", h, err)
	}
	for what, b := range map[string][]byte{
		"two names":            clientHello(sni("good.test", "evil.test")),
		"two extensions":       clientHello(sni("good.test"), sni("evil.test")),
		"an address":           clientHello(sni("10.0.0.1")),
		"an empty name":        clientHello(sni("")),
		"no name":              clientHello(sni()),
		"a NUL":                clientHello(sni("good.test\x00.evil.test")),
		"a slash":              clientHello(sni("good.test/evil")),
		"dots":                 clientHello(sni("good..test")),
		"not ASCII":            clientHello(sni("göod.test")),
		"bytes behind":         clientHello(extension(0, append(names("good.test"), 1))),
		"another kind of name": clientHello(extension(0, []byte{0, 4, 1, 0, 1, 'x'})),
		"a cut extension":      clientHello(extension(0, names("good.test"))[:6]),
		"another message":      append([]byte{22, 3, 1, 0, 5}, 2, 0, 0, 1, 0),
		"an empty record":      append([]byte{22, 3, 1, 0, 0}, clientHello(sni("good.test"))...),
		"a huge one":           {22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff},
		"an alert between":     append(clientHello(sni("good.test"))[:20], 21, 3, 1, 0, 2, 1, 0),
	} {
		if h, err := parseHello(b); err == nil {
			t.Errorf("%s: %+v", what, h)
		}
	}
}

// FuzzHello holds the parser to what Go's server makes of the same bytes.
func FuzzHello(f *testing.F) {
	f.Add(helloOf(f, "example.com", "h2"))
	f.Add(inRecords(helloOf(f, "a.example.com"), 50))
	f.Add(clientHello(extension(0, names("good.test", "evil.test"))))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		var theirs *tls.ClientHelloInfo
		c, s := net.Pipe()
		go func() {
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, c)
		}()
		_ = tls.Server(s, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs = i
			return nil, errors.New("enough")
		}}).Handshake()
		c.Close()
		s.Close()
		if theirs != nil && (canonical(theirs.ServerName) != h.name || !slices.Equal(theirs.SupportedProtos, h.alpn)) {
			t.Errorf("%+v, and Go says %q %q", h, theirs.ServerName, theirs.SupportedProtos)
		}
	})
}

func TestClassify(t *testing.T) {
	for _, x := range []struct {
		head string
		want kind
	}{
		{"", undecided}, {"G", undecided}, {"GET", undecided}, {"GET ", speaksHTTP}, {"POST /x", speaksHTTP}, {"PRI * HTTP/2.0\r\n", speaksHTTP},
		{"GETX / HTTP/1.0\r\n", speaksHTTP}, {"FOO /", undecided}, {"FOO / HTTP/1.1", speaksHTTP}, {"FOO /\r\n", opaque}, {"EHLO me\r\n", opaque}, {"EHLO me", undecided},
		{"SSH-2.0-x\r\n", opaque}, {"\x00\x01", opaque}, {"\x80\x2e\x01", opaque}, {"*1\r\n$4\r\nPING\r\n", opaque}, {"\r\n\r\n", undecided}, {"\n GET /", speaksHTTP},
		{"GET\n", speaksHTTP}, {"\x16", undecided}, {"\x16\x03\x01", undecided}, {"\x16\x02", opaque}, {"\x16\x03\x01\x00\x01\x02", speaksTLS},
		{strings.Repeat("\n", maxHead), speaksHTTP}, {strings.Repeat("A", 100), opaque},
	} {
		if got, _ := classify([]byte(x.head)); got != x.want {
			t.Errorf("%.40q: %d, want %d", x.head, got, x.want)
		}
	}
}

// TestClassifyOnce holds that what was decided stays, whatever follows: so it does not matter in what pieces it comes.
func TestClassifyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := []byte(rapid.OneOf(rapid.StringMatching(`[\r\n ]{0,3}(GET|get|FOO|PRI|EHLO)[ \t][a-z/ ]{0,9}( HTTP/1.1)?\r?\n[a-z\n]{0,20}`), rapid.StringMatching(`[\x00-\xff]{1,30}`)).Draw(t, "head"))
		decided := undecided
		for n := range len(b) + 1 {
			k, _ := classify(b[:n])
			if decided != undecided && k != decided && !(decided == opaque && k == speaksHTTP) {
				t.Fatalf("%q: %d after %d bytes, and %d before", b, k, n, decided)
			}
			if decided == opaque && k == speaksHTTP && strings.Contains(strings.SplitN(strings.TrimLeft(string(b[:n-1]), "\r\n \t"), "\n", 2)[0], "HTTP/") {
				t.Fatalf("%q: a request was taken for none after %d bytes", b, n-1)
			}
			decided = k
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, _ := classify(b)
		if len(b) >= maxHead && k == undecided {
			t.Error("still undecided")
		}
	})
}

func FuzzHostOf(f *testing.F) {
	for _, s := range []string{"a.b", "A.B.:443", "[::1]:80", "[fe80::1%25eth0]", "a:b:c", ":80", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := hostOf(s)
		if isName(h) && (h != canonical(h) || strings.ContainsAny(h, "/:[]@% ")) {
			t.Errorf("%q is the name %q", s, h)
		}
	})
}

func TestIssuer(t *testing.T) {
	i := newOwn(t).issuer
	i.capacity = 3
	first, err := i.certificate("a.test")
	must(t, err)
	for n := range 10 {
		_, err := i.certificate(fmt.Sprint(n, ".test"))
		must(t, err)
		if again, err := i.certificate("a.test"); err != nil || again != first {
			t.Fatalf("a certificate that is in use was made anew (%v)", err)
		}
	}
	if len(i.byName) != 3 || i.recent.Len() != 3 {
		t.Errorf("%d and %d are kept", len(i.byName), i.recent.Len())
	}
	for _, name := range []string{"a.test", "10.0.0.1", "2001:db8::1", strings.Repeat("a23456789.", 25) + "com"} {
		c, err := i.certificate(name)
		must(t, err)
		if err := c.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
		if err := c.Leaf.CheckSignatureFrom(i.ca); err != nil {
			t.Error(err)
		}
	}
	i.validity = -1 // all have expired
	if again, err := i.certificate("a.test"); err != nil || again == first {
		t.Errorf("an expired certificate is used (%v)", err)
	}
}
