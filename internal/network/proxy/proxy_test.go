package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// each runs a test with a server that speaks HTTP/2 and with one that does not.
func each(t *testing.T, o opts, h http.Handler, test func(t *testing.T, b *bed, c *http.Client, s *site)) {
	for _, proto := range []string{"h2", "http/1.1"} {
		t.Run(proto, func(t *testing.T) {
			b := newBed(t, o)
			s := b.serve(goodIP+":443", h, good)
			if proto != "h2" {
				s.TLS.NextProtos = []string{"http/1.1"}
			}
			test(t, b, b.client(nil), s)
		})
	}
}

func TestIntercept(t *testing.T) {
	each(t, opts{tls: on}, helloHandler, func(t *testing.T, b *bed, c *http.Client, s *site) {
		for range 3 { // on one connection
			res, err := c.Do(request(t, "POST", "https://"+good+"/a%2Fb?x=%20y;z", strings.NewReader("12345")))
			must(t, err)
			body, err := io.ReadAll(res.Body)
			must(t, err)
			res.Body.Close()
			if string(body) != "POST "+good+" /a/b 5" || res.Header.Get("X-Proto") != res.Proto {
				t.Errorf("%s %q", res.Header.Get("X-Proto"), body)
			}
			if cn := res.TLS.PeerCertificates[0].Issuer.CommonName; cn != "microsandbox CA" {
				t.Errorf("the guest was shown a certificate of %q", cn)
			}
		}
		if !s.saw("POST /a%2Fb?x=%20y;z " + good) {
			t.Errorf("the URL was changed: %s", &s.got)
		}
	})
}

// random returns a stream of n bytes that is the same for the same seed.
func random(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), n)
}

func sum(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%d %x %v", n, h.Sum(nil)[:8], err)
}

func TestLargeBodies(t *testing.T) {
	const size = 20 << 20
	want := sum(random(size))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", fmt.Sprint(size))
			}
			_, _ = io.Copy(w, random(size))
			return
		}
		fmt.Fprintf(w, "%d %s", r.ContentLength, sum(r.Body))
	})
	each(t, opts{tls: on}, h, func(t *testing.T, b *bed, c *http.Client, s *site) {
		for _, path := range []string{"/length", "/chunked"} {
			res, err := c.Get("https://" + good + path)
			must(t, err)
			if got := sum(res.Body); got != want || (res.ContentLength == size) != (path == "/length") {
				t.Errorf("down, %s: %s of %d, want %s", path, got, res.ContentLength, want)
			}
			res.Body.Close()
		}
		for _, length := range []int64{size, -1} {
			r := request(t, "POST", "https://"+good+"/", random(size))
			r.ContentLength = length
			if _, got := get(c, r); got != fmt.Sprintf("%d %s", length, want) {
				t.Errorf("up: %s, want %d %s", got, length, want)
			}
		}
	})
}

// TestBackPressure sends to a server that does not read: what is taken from the guest is bounded.
func TestBackPressure(t *testing.T) {
	stop := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-stop })
	each(t, opts{tls: on}, h, func(t *testing.T, b *bed, c *http.Client, s *site) {
		stop = make(chan struct{})
		pr, pw := io.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		r := request(t, "POST", "https://"+good+"/", pr).WithContext(ctx)
		done := make(chan struct{})
		go func() { defer close(done); _, _ = get(c, r) }()
		taken := make(chan int)
		go func() {
			buf, n := make([]byte, 64<<10), 0
			for {
				k, err := pw.Write(buf)
				if n += k; err != nil {
					close(taken)
					return
				}
				select {
				case taken <- n:
				case <-done:
				}
			}
		}()
		last := 0
		for idle := time.NewTimer(2 * time.Second); ; idle.Reset(2 * time.Second) {
			select {
			case n, ok := <-taken:
				if last = n; ok {
					if last > 64<<20 {
						t.Fatal("64 MiB were taken that nobody read")
					}
					continue
				}
			case <-idle.C:
			}
			break
		}
		if last == 0 {
			t.Error("nothing was taken")
		}
		cancel()
		pw.CloseWithError(io.ErrClosedPipe)
		<-done
		close(stop)
	})
}

func TestTrailersAndInterimAnswers(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Said")
		w.WriteHeader(201)
		fmt.Fprintf(w, "trailer %s", r.Trailer.Get("X-Sum"))
		w.Header().Set("X-Said", "announced")
		w.Header().Set(http.TrailerPrefix+"X-Unsaid", "not announced")
	})
	each(t, opts{tls: on}, h, func(t *testing.T, b *bed, c *http.Client, s *site) {
		hints := ""
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints += fmt.Sprint(code, h.Get("Link"))
			return nil
		}}
		r := request(t, "PUT", "https://"+good+"/", nil)
		r.Body, r.ContentLength, r.Trailer = io.NopCloser(strings.NewReader("body")), -1, http.Header{"X-Sum": {"42"}}
		res, err := c.Do(r.WithContext(httptrace.WithClientTrace(context.Background(), trace)))
		must(t, err)
		body, err := io.ReadAll(res.Body)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != 201 || string(body) != "trailer 42" || hints != "103</x>" {
			t.Errorf("%d %q, before it %q", res.StatusCode, body, hints)
		}
		if res.Trailer.Get("X-Said") != "announced" || res.Trailer.Get("X-Unsaid") != "not announced" {
			t.Errorf("trailers %v", res.Trailer)
		}
	})
}

// TestDuplex has both sides speak at once, as gRPC does.
func TestDuplex(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			fmt.Fprintf(w, "echo %s\n", lines.Text())
			_ = http.NewResponseController(w).Flush()
		}
	})
	each(t, opts{tls: on}, h, func(t *testing.T, b *bed, c *http.Client, s *site) {
		pr, pw := io.Pipe()
		res, err := c.Do(request(t, "POST", "https://"+good+"/", pr))
		must(t, err)
		defer res.Body.Close()
		in := bufio.NewReader(res.Body)
		for i := range 5 {
			fmt.Fprintf(pw, "%d\n", i)
			if line, err := in.ReadString('\n'); line != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("%q, %v", line, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

// TestEarlyAnswer has a server answer without reading what it is sent.
func TestEarlyAnswer(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(413)
		fmt.Fprint(w, "too large")
	})
	each(t, opts{tls: on}, h, func(t *testing.T, b *bed, c *http.Client, s *site) {
		for range 3 {
			if status, body := get(c, request(t, "POST", "https://"+good+"/", random(8<<20))); status != 413 || body != "too large" {
				t.Errorf("%d %q", status, body)
			}
		}
	})
}

// dialTLS is a TLS connection of the guest's, to address, asking for name.
func (b *bed) dialTLS(address, name string, alpn ...string) (*tls.Conn, error) {
	raw, err := b.dial(context.Background(), address)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, &tls.Config{RootCAs: b.roots, ServerName: name, NextProtos: alpn})
	if err := c.Handshake(); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

func TestUpgrade(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			w.WriteHeader(400)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
		_, _ = io.Copy(conn, rw)
	})
	b := newBed(t, opts{tls: on})
	b.serve(goodIP+":443", h, good)
	c, err := b.dialTLS(good+":443", good)
	must(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly ", good)
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	must(t, err)
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	fmt.Fprint(c, "late")
	buf := make([]byte, len("hello early late"))
	if _, err := io.ReadFull(in, buf); string(buf) != "hello early late" {
		t.Errorf("%q, %v", buf, err)
	}
}

// TestUpgradeToHTTP has a guest ask to go over to what would be HTTP again, which nobody would look into.
func TestUpgradeToHTTP(t *testing.T) {
	b := newBed(t, opts{tls: on, rules: "allow@" + good})
	s := b.serve(goodIP+":443", helloHandler, good)
	p := b.serve(goodIP+":80", helloHandler)
	for _, to := range []string{"h2c", "H2C", "TLS/1.2", "HTTP/2.0", "websocket, h2c"} {
		for _, url := range []string{"https://" + good, "http://" + good} {
			r := request(t, "GET", url, nil)
			r.Header.Set("Connection", "Upgrade, HTTP2-Settings")
			r.Header.Set("Upgrade", to)
			r.Header.Set("HTTP2-Settings", "AAMAAABkAAQAAP__")
			c := b.client(nil)
			c.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			if status, body := get(c, r); status != 200 {
				t.Errorf("%s: %d %q", to, status, body)
			}
		}
	}
	if s.saw("Upgrade") || p.saw("Upgrade") || s.saw("Http2-Settings") || p.saw("Http2-Settings") {
		t.Errorf("a server was asked: %s %s", &s.got, &p.got)
	}
}

// TestOtherProtocols has TLS with something else than HTTP in it, and connections without TLS on which the server speaks first.
func TestOtherProtocols(t *testing.T) {
	b := newBed(t, opts{tls: &sandbox.TLS{Enabled: true, InterceptedPorts: []uint16{443, 993, 25}}, rules: "allow@" + good})
	secure := func(serve func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			cert, _ := b.servers.certificate(good)
			t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"imap", "h2"}})
			serve(t)
			t.Close()
		}
	}
	echo := func(c net.Conn) { _, _ = io.Copy(c, c) }
	greet := func(c net.Conn) { fmt.Fprint(c, "* OK ready\r\n"); echo(c) }
	b.listen(goodIP+":443", secure(echo))
	b.listen(goodIP+":993", secure(greet))
	b.listen(goodIP+":25", greet)
	for _, x := range []struct {
		port, alpn, greeting string
		tls                  bool
	}{{"443", "", "", true}, {"443", "imap", "", true}, {"993", "", "* OK ready\r\n", true}, {"993", "imap", "* OK ready\r\n", true}, {"25", "", "* OK ready\r\n", false}} {
		var c interface {
			net.Conn
			CloseWrite() error
		}
		var err error
		if x.tls {
			var alpn []string
			if x.alpn != "" {
				alpn = []string{x.alpn, "other"}
			}
			tc, terr := b.dialTLS(good+":"+x.port, good, alpn...)
			must(t, terr)
			if p := tc.ConnectionState().NegotiatedProtocol; p != x.alpn {
				t.Errorf("%s: protocol %q, want %q", x.port, p, x.alpn)
			}
			c = tc
		} else {
			raw, derr := b.dial(context.Background(), good+":"+x.port)
			must(t, derr)
			c, err = raw.(interface {
				net.Conn
				CloseWrite() error
			}), nil
			must(t, err)
		}
		buf := make([]byte, len(x.greeting))
		_, err = io.ReadFull(c, buf)
		must(t, err)
		fmt.Fprint(c, "\x00binary, no line")
		must(t, c.CloseWrite())
		if rest, err := io.ReadAll(c); string(buf) != x.greeting || string(rest) != "\x00binary, no line" || err != nil {
			t.Errorf("%v: %q %q %v", x, buf, rest, err)
		}
		c.Close()
	}
}

// TestNames holds connections to what rules about domains say.
func TestNames(t *testing.T) {
	for _, x := range []struct {
		what       string
		rules      string
		tls        bool
		strict     bool
		dial, name string // where to, and the name that is asked for
		ok         bool
	}{
		{"its name", "allow@" + good, false, false, good, good, true},
		{"its name, intercepted", "allow@" + good, true, false, good, good, true},
		{"the name of another on the same address", "allow@" + good, false, false, good, "shared.test", false},
		{"the same, intercepted", "allow@" + good, true, false, good, "shared.test", false},
		{"no name", "allow@" + good, false, false, good, "", false},
		{"no name, intercepted", "allow@" + good, true, false, good, "", false},
		{"a suffix", "allow@*." + good, false, false, "sub." + good, "sub." + good, true},
		{"below it, never resolved", "allow@*." + good, false, false, good, "sub." + good, false},
		{"a denied name on an address that is allowed", "allow@dns,deny@" + evil + ",allow@public", false, false, evilIP, evil, false},
		{"the same, intercepted", "allow@dns,deny@" + evil + ",allow@public", true, false, evilIP, evil, false},
		{"another name there", "allow@dns,deny@" + evil + ",allow@public", false, false, evilIP, other, true},
		{"strict, not looked into", "allow@" + good, false, true, good, good, false},
		{"strict, looked into", "allow@" + good, true, true, good, good, true},
		{"strict, by address", "allow@dns,deny@" + evil + ",allow@public", false, true, goodIP, "", true},
	} {
		t.Run(x.what, func(t *testing.T) {
			o := opts{rules: x.rules, strict: x.strict}
			if x.tls {
				o.tls = on
			}
			b := newBed(t, o)
			b.serve(goodIP+":443", helloHandler, good, "shared.test", "sub."+good)
			b.serve(evilIP+":443", helloHandler, evil, other)
			for n := range b.names {
				if n != "sub."+good {
					_, _ = b.resolve(n)
				}
			}
			raw, err := b.dial(context.Background(), x.dial+":443")
			must(t, err)
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: x.name})
			err = c.Handshake()
			if (err == nil) != x.ok {
				t.Errorf("handshake: %v", err)
			}
			if !x.ok && !b.said("denied by policy") {
				t.Errorf("no event of it: %q", b.events)
			}
		})
	}
}

// TestHosts holds requests to the connection's name, and to what rules about domains say.
func TestHosts(t *testing.T) {
	const both = "allow@" + good + ",allow@" + other
	for _, x := range []struct {
		what, rules, url, host, dial string
		status                       int // 0: no answer at all
	}{
		{"TLS, its name", both, "https://" + good, good, "", 200},
		{"TLS, other case, port", both, "https://" + good, "API.good.test.:443", "", 200},
		{"TLS, fronting", both, "https://" + good, evil, "", 403},
		{"TLS, fronting a name that is allowed", both, "https://" + good, other, "", 403},
		{"TLS, an address", both, "https://" + good, goodIP, "", 403},
		{"HTTP, its name", both, "http://" + good, good, "", 200},
		{"HTTP, fronting", both, "http://" + good, evil, "", 403},
		{"HTTP, a name of another address", both, "http://" + good, other, "", 403},
		{"HTTP, an address", both, "http://" + good, goodIP, "", 403},
		{"HTTP, a denied name at an address that is allowed", "allow@dns,deny@" + evil + ",allow@public", "http://" + good, evil, "", 403},
		{"HTTP, an address that is allowed", "allow@dns,deny@" + evil + ",allow@public", "http://" + good, goodIP, "", 200},
	} {
		t.Run(x.what, func(t *testing.T) {
			b := newBed(t, opts{rules: x.rules, tls: on})
			s := b.serve(goodIP+":443", helloHandler, good)
			p := b.serve(goodIP+":80", helloHandler)
			c := b.client(nil)
			if status, body := get(c, request(t, "GET", x.url+"/first", nil)); status != 200 { // the connection is used again
				t.Fatal(status, body)
			}
			for n := range b.names {
				_, _ = b.resolve(n)
			}
			r := request(t, "GET", x.url+"/second", nil)
			r.Host = x.host
			status, body := get(c, r)
			if status != x.status {
				t.Errorf("%d %q", status, body)
			}
			if reached := s.saw("/second") || p.saw("/second"); reached != (x.status == 200) {
				t.Errorf("the server saw it: %v", reached)
			}
			if x.status == 403 && !b.said("denied by policy") {
				t.Errorf("no event of it: %q", b.events)
			}
		})
	}
}

// TestConnect does not let a request leave what is looked into.
func TestConnect(t *testing.T) {
	b := newBed(t, opts{tls: on, rules: "allow@" + good})
	s := b.serve(goodIP+":80", helloHandler)
	c, err := b.dial(context.Background(), good+":80")
	must(t, err)
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %s:80 HTTP/1.1\r\nHost: %s:80\r\n\r\n", good, good)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	res.Body.Close()
	if res.StatusCode != 403 || s.saw("CONNECT") {
		t.Errorf("%d, %s", res.StatusCode, &s.got)
	}
}

// TestNotHTTP has a guest try to get a request past the inspection of its host.
func TestNotHTTP(t *testing.T) {
	for _, first := range []string{
		"get / HTTP/1.1\r\n", "\r\n\r\nGET / HTTP/1.1\r\n", "GET\t/ HTTP/1.1\r\n", " GET / HTTP/1.1\r\n", "FOO / http/1.1\r\n", "GET /\r\n", "G|ET / HTTP/1.1\r\n",
		strings.Repeat("\r\n", 9000) + "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\n", "GET http://" + evil + "/ HTTP/1.1\r\n",
	} {
		t.Run(fmt.Sprintf("%.40q", first), func(t *testing.T) {
			b := newBed(t, opts{rules: "allow@" + good})
			got := make(chan string, 1)
			b.listen(goodIP+":80", func(c net.Conn) {
				_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
				all, _ := io.ReadAll(c)
				got <- string(all)
			})
			c, err := b.dial(context.Background(), good+":80")
			must(t, err)
			defer c.Close()
			one, two, slow := strings.Cut(first, "|")
			fmt.Fprint(c, one)
			if slow {
				time.Sleep(50 * time.Millisecond)
			}
			fmt.Fprintf(c, "%sHost: %s\r\n\r\n", two, evil)
			select {
			case all := <-got:
				if strings.Contains(all, evil) {
					t.Errorf("it got through: %.200q", all)
				}
			case <-time.After(10 * time.Second):
				t.Error("the server waits still")
			}
		})
	}
}

func TestVerify(t *testing.T) {
	yes, no := true, false
	for _, x := range []struct {
		what string
		tls  sandbox.TLS
		cert string // the name in the server's certificate
		own  bool   // by an authority of its own
		cas  bool   // which is trusted, for *.good.test
		ok   bool
	}{
		{"its name", sandbox.TLS{}, good, false, false, true},
		{"another name", sandbox.TLS{}, evil, false, false, false},
		{"another name, not verified", sandbox.TLS{VerifyUpstream: &no}, evil, false, false, true},
		{"another name, not verified there", sandbox.TLS{ScopedVerifyUpstream: []sandbox.ScopedVerify{{Pattern: "*.good.test", Verify: false}}}, evil, false, false, true},
		{"another name, not verified elsewhere", sandbox.TLS{ScopedVerifyUpstream: []sandbox.ScopedVerify{{Pattern: other, Verify: false}}}, evil, false, false, false},
		{"another name, verified there only", sandbox.TLS{VerifyUpstream: &no, ScopedVerifyUpstream: []sandbox.ScopedVerify{{Pattern: good, Verify: true}}}, evil, false, false, false},
		{"an unknown authority", sandbox.TLS{VerifyUpstream: &yes}, good, true, false, false},
		{"one that is known for it", sandbox.TLS{}, good, true, true, true},
	} {
		t.Run(x.what, func(t *testing.T) {
			x.tls.Enabled = true
			own := newOwn(t)
			o := opts{tls: &x.tls}
			if x.cas {
				o.scoped = []Authority{{Pattern: sandbox.HostPattern{Wildcard: "*.good.test"}, PEM: own.pem}}
			}
			b := newBed(t, o)
			if x.own {
				b.servers = own.issuer
			}
			s := b.serve(goodIP+":443", helloHandler, x.cert)
			status, body := get(b.client(nil), request(t, "GET", "https://"+good+"/x", nil))
			if (status == 200) != x.ok || s.saw("/x") != x.ok {
				t.Errorf("%d %s", status, body)
			}
			says := "bad certificate"
			if x.own {
				says = "unknown certificate authority"
			}
			if !x.ok && !strings.Contains(body, says) {
				t.Errorf("the guest was told %q, want %q", body, says)
			}
			if !x.ok && !b.said("not trusted") {
				t.Errorf("no event of it: %q", b.events)
			}
		})
	}
}

func TestBypass(t *testing.T) {
	b := newBed(t, opts{tls: &sandbox.TLS{Enabled: true, Bypass: []string{good}}})
	b.serve(goodIP+":443", helloHandler, good)
	b.serve(evilIP+":443", helloHandler, good)
	trust := x509.NewCertPool()
	trust.AddCert(b.servers.ca)
	for _, x := range []struct {
		to     string
		issuer string
	}{{good, "passes"}, {evilIP, "intercepted"}} { // the name alone is not enough: it was not resolved to that address
		if x.to == evilIP {
			_, _ = b.resolve(good)
		}
		raw, err := b.dial(context.Background(), x.to+":443")
		must(t, err)
		c := tls.Client(raw, &tls.Config{RootCAs: trust, ServerName: good})
		if err := c.Handshake(); (err == nil) != (x.issuer == "passes") {
			t.Errorf("%s: %v", x.to, err)
		}
		raw.Close()
	}
}

func TestDoT(t *testing.T) {
	b := newBed(t, opts{tls: on, rules: "allow@" + good + ",allow@public:tcp:853"})
	c, err := b.dialTLS(otherIP+":853", "resolver.test", "dot")
	must(t, err)
	defer c.Close()
	for name, want := range map[string]int{good: dns.RcodeSuccess, "no.where.test": dns.RcodeNameError} {
		q, err := new(dns.Msg).SetQuestion(name+".", dns.TypeA).Pack()
		must(t, err)
		_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
		must(t, err)
		var n [2]byte
		_, err = io.ReadFull(c, n[:])
		must(t, err)
		buf := make([]byte, binary.BigEndian.Uint16(n[:]))
		_, err = io.ReadFull(c, buf)
		must(t, err)
		var m dns.Msg
		must(t, m.Unpack(buf))
		if m.Rcode != want && !(want == dns.RcodeNameError && len(m.Answer) == 0) {
			t.Errorf("%s: %v", name, &m)
		}
	}
}

// TestManyConnections has a proxy serve many at once, and leaves nothing (see TestMain).
func TestManyConnections(t *testing.T) {
	b := newBed(t, opts{tls: on})
	b.serve(goodIP+":443", helloHandler, good)
	_, err := b.resolve(good)
	must(t, err)
	errs := make(chan error)
	const n = 100
	for range n {
		go func() {
			c, err := b.dialTLS(goodIP+":443", good)
			if err == nil {
				fmt.Fprintf(c, "GET /x HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", good)
				var all []byte
				if all, err = io.ReadAll(c); err == nil && !bytes.Contains(all, []byte("GET "+good+" /x 0")) {
					err = fmt.Errorf("%q", all)
				}
				c.Close()
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
