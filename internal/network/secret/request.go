package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
)

// Bodies of a known length in which something may be replaced are held back until their new length is known, if they are
// not larger than maxFixed (contract msb-0.6 §5.6) and all of them together not than maxHeld; others are sent in chunks.
const (
	maxFixed = 16 << 20
	maxHeld  = 64 << 20
)

var held atomic.Int64 // bytes of bodies that are held back

// Request makes r, a request on its way out, what its far end is to get: placeholders are replaced where they may be, and
// a *Violation is returned where one must not be sent. In the body both happen as it is read, so a violation may also come
// from there. When r is over, done is to be called.
func (p *Plan) Request(r *http.Request) (done func(), err error) {
	done = func() {}
	if p.Idle() {
		return done, nil
	}
	if err := p.watchHead(r); err != nil {
		return done, err
	}
	grown := 0
	if err := p.replaceHeader(r.Header, &grown); err != nil {
		return done, err
	}
	if err := p.replaceQuery(r.URL, &grown); err != nil {
		return done, err
	}
	if r.Body == nil || r.Body == http.NoBody {
		return done, nil
	}
	return p.body(r)
}

// watchHead looks for what must not be sent in the URL and the header.
func (p *Plan) watchHead(r *http.Request) error {
	if len(p.watch) == 0 {
		return nil
	}
	scan := newScanner(p)
	if x := scan.write([]byte(r.Method + " " + r.Host + " " + r.URL.RequestURI() + " " + r.RequestURI)); x != nil {
		return p.violation(x, "the URL")
	}
	return p.watchHeader(r.Header, "a header")
}

func (p *Plan) watchHeader(h http.Header, where string) error {
	if len(p.watch) == 0 || len(h) == 0 {
		return nil
	}
	var b []byte
	for k, vs := range h {
		for _, v := range vs {
			b = append(append(append(append(b, k...), 0), v...), 0)
			if _, plain, ok := basicAuth(v); ok {
				b = append(append(b, plain...), 0)
			}
		}
	}
	if x := newScanner(p).write(b); x != nil {
		return p.violation(x, where)
	}
	names := bytes.ToLower(b) // names have lost their case
	for _, x := range p.watch {
		if bytes.Contains(names, bytes.ToLower([]byte(x.placeholder))) {
			return p.violation(x, where)
		}
	}
	return nil
}

// basicAuth decodes the credentials of HTTP's basic authentication (RFC 7617).
func basicAuth(v string) (scheme, plain string, ok bool) {
	scheme, encoded, found := strings.Cut(v, " ")
	if !found || !strings.EqualFold(scheme, "basic") {
		return "", "", false
	}
	encoded = strings.TrimRight(strings.TrimSpace(encoded), "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(encoded); err == nil {
			return scheme, string(b), true
		}
	}
	return "", "", false
}

// replaceHeader adds to grown, which is bounded by maxText, what the values become longer by, in bytes.
func (p *Plan) replaceHeader(h http.Header, grown *int) error {
	plain := p.replacer(func(x *secret) bool { return x.headers })
	basic := p.replacer(func(x *secret) bool { return x.basic })
	for k, vs := range h {
		for i, v := range vs {
			if basic != nil && k == "Authorization" {
				if scheme, auth, ok := basicAuth(v); ok {
					with, err := p.replaceText(basic, auth, grown)
					if err != nil {
						return err
					}
					if with != auth {
						vs[i] = scheme + " " + base64.StdEncoding.EncodeToString([]byte(with))
						continue
					}
				}
			}
			if plain == nil {
				continue
			}
			with, err := p.replaceText(plain, v, grown)
			if err != nil {
				return err
			}
			if with != v && !fitsHeader(with) {
				return p.misfit(v, "a header, which cannot hold its value")
			}
			vs[i] = with
		}
	}
	return nil
}

// maxText bounds what a request's head may become longer by when its placeholders are replaced, in bytes: a value may be much
// longer, and a head full of placeholders.
const maxText = 1 << 20

// replaceText replaces in one part of a request's head.
func (p *Plan) replaceText(with *strings.Replacer, text string, grown *int) (string, error) {
	more := 0
	for _, x := range p.replace {
		if more += strings.Count(text, x.placeholder) * len(x.value); *grown+more > maxText {
			return "", p.misfit(text, "a text that would become too long")
		}
	}
	now := with.Replace(text)
	*grown += max(0, len(now)-len(text))
	return now, nil
}

// fitsHeader reports whether v can be the value of a header (RFC 9110, section 5.5).
func fitsHeader(v string) bool {
	return strings.IndexFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) < 0
}

// misfit is the violation of a value that cannot be put where its placeholder is, such as one of several lines into a header.
func (p *Plan) misfit(text, where string) error {
	i := slices.IndexFunc(p.replace, func(x *secret) bool { return strings.Contains(text, x.placeholder) })
	v := p.opaque(where)
	if i >= 0 {
		v.Env = p.replace[i].env
	}
	return v
}

// Mask replaces, in the header of an answer, values by their placeholders: a server that sends back what it was sent, in a
// redirect for example, would tell the guest. A header with a value in its name is left out. What is in the body of an answer
// is the server's own affair.
func (p *Plan) Mask(h http.Header) {
	for _, x := range p.replace {
		for _, form := range x.shown {
			for name, vs := range h {
				if len(name) >= len(form) && strings.Contains(strings.ToLower(name), strings.ToLower(form)) { // names have lost their case
					delete(h, name)
					continue
				}
				for i, v := range vs {
					if strings.Contains(v, form) {
						vs[i] = strings.ReplaceAll(v, form, x.placeholder)
					}
				}
			}
		}
	}
}

// replaceQuery replaces in the names and values of a query, which may be encoded. Those without a placeholder stay as they are.
func (p *Plan) replaceQuery(u *url.URL, grown *int) error {
	with := p.replacer(func(x *secret) bool { return x.query })
	if with == nil || u.RawQuery == "" {
		return nil
	}
	var b strings.Builder
	for rest := u.RawQuery; ; {
		i := strings.IndexAny(rest, "&;=")
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		if plain, err := url.QueryUnescape(part); err == nil {
			now, err := p.replaceText(with, plain, grown)
			if err != nil {
				return err
			}
			if now != plain {
				part = url.QueryEscape(now)
			}
		}
		b.WriteString(part)
		if i < 0 {
			break
		}
		b.WriteByte(rest[i])
		rest = rest[i+1:]
	}
	u.RawQuery = b.String()
	return nil
}

// body puts what watches and what replaces between r and its body.
func (p *Plan) body(r *http.Request) (done func(), err error) {
	coded := r.Header.Values("Content-Encoding")
	list, known := codings(coded)
	b := &body{Reader: r.Body, orig: r.Body, plan: p, request: r}
	if len(p.watch) > 0 {
		if !known {
			return func() {}, p.opaque("a body of an unknown encoding")
		}
		b.Reader = p.Watch(b.Reader, "the body")
		if len(list) > 0 {
			b.decode = newDecodeReader(b.Reader, p, list)
			b.Reader = b.decode
		}
	}
	r.Body = b
	var inBody []*secret
	for _, x := range p.replace {
		if x.body {
			inBody = append(inBody, x)
		}
	}
	if len(inBody) == 0 || len(list) > 0 || !known {
		return func() {}, nil
	}
	b.Reader = newReplaceReader(b.Reader, inBody)
	n := r.ContentLength
	r.ContentLength = -1
	if n < 0 || n > maxFixed {
		return func() {}, nil
	}
	if held.Add(n) > maxHeld {
		held.Add(-n)
		return func() {}, nil
	}
	done = func() { held.Add(-n) }
	all, err := io.ReadAll(io.LimitReader(b, 2*maxFixed))
	if err != nil {
		return done, err
	}
	if len(all) == 2*maxFixed {
		return done, p.opaque("a body that would become too long")
	}
	r.ContentLength = int64(len(all))
	b.Reader = bytes.NewReader(all)
	return done, nil
}

// body is a request's body on its way through what watches and replaces.
type body struct {
	io.Reader
	orig    io.Closer
	plan    *Plan
	request *http.Request
	decode  *decodeReader
	ended   bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) && !b.ended {
		b.ended = true
		if terr := b.trailer(); terr != nil {
			return 0, terr
		}
	}
	return n, err
}

// trailer does to the trailer, which is there when the body has ended, what was done to the header.
func (b *body) trailer() error {
	if err := b.plan.watchHeader(b.request.Trailer, "a trailer"); err != nil {
		return err
	}
	grown := 0
	return b.plan.replaceHeader(b.request.Trailer, &grown)
}

func (b *body) Close() error {
	if b.decode != nil {
		b.decode.Close()
	}
	return b.orig.Close()
}
