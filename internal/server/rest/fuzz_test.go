package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/cloudapi"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (k *kept) Dial(context.Context, sandbox.Ref) (net.Conn, error) { return k.relay, nil }

// FuzzCreate makes sandboxes of bodies of anybody: what is asked of the backend is valid and within what the key may have, what is refused
// is the client's fault, and no answer has the value of a secret.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{
		`{"name":"full","image":{"type":"oci","reference":"host"},"resources":{"vcpus":2,"memory_mib":512,"disk_size_mib":1024},"runtime":{"workdir":"/w","shell":"/bin/bash","scripts":{"s":"echo"},"entrypoint":["/e"],"cmd":["c"],"user":"u","log_level":"debug"},"env":[{"key":"A","value":"b"}],"labels":{"k":"v"},"rlimits":[{"resource":"nofile","soft":10,"hard":10}]}`,
		`{"name":"a","image":{"type":"oci","reference":"host"},"mounts":[{"type":"bind","host":"/host","guest":"/b","options":{"readonly":true},"stat_virtualization":"strict","host_permissions":"private","quota_mib":null},{"type":"named","name":"vol","guest":"/n"},{"type":"tmpfs","guest":"/t","size_mib":64},{"type":"disk_image","host":"/x.raw","guest":"/di","format":"raw"}]}`,
		`{"name":"a","image":{"type":"oci","reference":"host"},"patches":[{"type":"text","path":"/p","content":"x","mode":null},{"type":"file","path":"/f","content":[1,255]},{"type":"copy_file","src":"/etc/shadow","dst":"/x"},{"type":"symlink","target":"/a","link":"/b"}]}`,
		`{"name":"a","image":{"type":"oci","reference":"host"},"network":{"enabled":true,"policy":{"default_egress":"deny","default_ingress":"allow","rules":[{"direction":"egress","destination":{"domain":"example.com"},"protocols":["tcp"],"ports":[{"start":443,"end":443}],"action":"allow"}]},"secrets":{"entries":[{"env_var":"K","value":"hush-4711","placeholder":"$MSB_K","allowed_hosts":[{"type":"exact","value":"api.x.com"}]}],"on_violation":{"type":"block_and_log"}},"strict":false,"max_connections":5}}`,
		`{"name":"a","image":{"type":"oci","reference":"host"},"network":{"secrets":{"entries":[{"env_var":"K","source":{"type":"env","var":"HOME"}}]},"tls":{"x":1},"ports":[1]},"registry":{"mode":"inline","username":"u","password":"hush-4712"}}`,
		`{"name":"a","image":{"type":"bind","path":"/etc"},"init":{"cmd":"auto","args":[],"env":[["A","b"]]},"pull_policy":"always","security_profile":"restricted","lifecycle":{"ephemeral":true,"max_duration_secs":60,"idle_timeout_secs":30}}`,
		`{"name":"a","microsandbox":{"spec":{"image":{"Oci":{"reference":"host","root_disk":{"kind":""}}},"mounts":[{"type":"Bind","host":"/etc","guest":"/b"}],"network":{"ports":[{"host_port":22,"guest_port":22}]}},"values":{"K":"hush-4713"}}}`,
		`{"name":1}`, `[]`, `{`, ``, `null`,
	} {
		f.Add(seed)
	}
	s := newSite(f)
	f.Fuzz(func(t *testing.T, body string) {
		s.kept.asked, s.kept.infos = nil, nil
		code, answer := s.ask("team", "POST", "/v1/sandboxes?start=true", body)
		if code >= 500 {
			t.Errorf("%d %s", code, answer)
		}
		if strings.Contains(body, "hush-471") && strings.Contains(answer, "hush-471") && code == 200 {
			t.Errorf("it says a secret: %s", answer)
		}
		if code != 200 {
			var e cloudapi.Envelope
			if err := json.Unmarshal([]byte(answer), &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
				t.Errorf("%d %s, %v", code, answer, err)
			}
			if len(s.kept.asked) > 0 {
				t.Errorf("it is refused, and was asked for: %s", answer)
			}
			return
		}
		req := s.kept.asked[0]
		if err := req.Spec.WithDefaults().Validate(); err != nil || req.Ref.Namespace != "team" || req.Ref.Validate() != nil {
			t.Errorf("asked for %+v, %v", req.Ref, err)
		}
		inside := func(path string) bool { return path == s.roots || strings.HasPrefix(path, s.roots+"/") }
		if b := req.Spec.Image.Bind; b != nil && !inside(b.Path) {
			t.Errorf("its root is %s", b.Path)
		}
		for _, m := range req.Spec.Mounts {
			if m.Type == sandbox.MountBind && !inside(m.Host) || m.Type != sandbox.MountBind && m.Type != sandbox.MountNamed && m.Type != sandbox.MountTmpfs {
				t.Errorf("it mounts %+v", m)
			}
		}
		for _, p := range req.Spec.Patches {
			if (p.Type == sandbox.PatchCopyFile || p.Type == sandbox.PatchCopyDir) && !inside(p.Src) {
				t.Errorf("it copies %s", p.Src)
			}
		}
		if n := req.Spec.Network; n.Secrets != nil {
			for _, x := range n.Secrets.Secrets {
				if x.Source != nil {
					t.Errorf("a secret is from %+v", x.Source)
				}
			}
		}
	})
}

// FuzzLists asks for parts of lists in words of anybody.
func FuzzLists(f *testing.F) {
	f.Add("", "", "", "")
	f.Add(place{1700000000, "name"}.String(), "20", `{"k":"v"}`, "2026-01-01T00:00:00Z")
	f.Add("MTI=", "-1", "[", "now")
	s := newSite(f)
	_, _ = s.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a","image":{"type":"oci","reference":"host"},"labels":{"k":"v"}}`)
	f.Fuzz(func(t *testing.T, cursor, limit, labels, since string) {
		q := url.Values{"cursor": {cursor}, "limit": {limit}, "labels": {labels}, "since": {since}}.Encode()
		for _, path := range []string{"/v1/sandboxes?", "/v1/events?"} {
			code, answer := s.ask("team", "GET", path+q, "")
			var page struct {
				Data       []json.RawMessage
				NextCursor *string `json:"next_cursor"`
				HasMore    bool    `json:"has_more"`
			}
			switch err := json.Unmarshal([]byte(answer), &page); {
			case code != 200 && code != 400, err != nil:
				t.Errorf("%s%s: %d %s, %v", path, q, code, answer, err)
			case code == 200 && (page.Data == nil || page.HasMore != (page.NextCursor != nil)):
				t.Errorf("%s%s: %s", path, q, answer)
			}
		}
	})
}

// frame is a client's WebSocket frame (RFC 6455 §5.2), which claims to be as long as it says.
func frame(first byte, claims uint64, masked bool, payload string) []byte {
	b := []byte{first, 0}
	switch {
	case claims < 126:
		b[1] = byte(claims)
	case claims < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(claims))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, claims)
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= 0x80
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// binaryBytes is what is in the binary messages of a stream, up to what no client may send; of that, whole is how much is in frames that
// have all that they claim.
func binaryBytes(b []byte) (out []byte, whole int) {
	message := byte(0) // the opcode of the message that goes on
	for len(b) >= 2 {
		fin, reserved, op, masked, length := b[0]&0x80 != 0, b[0]&0x70, b[0]&0x0f, b[1]&0x80 != 0, uint64(b[1]&0x7f)
		control := op >= 8
		b = b[2:]
		switch length {
		case 126:
			if len(b) < 2 {
				return out, whole
			}
			length, b = uint64(binary.BigEndian.Uint16(b)), b[2:]
		case 127:
			if len(b) < 8 {
				return out, whole
			}
			length, b = binary.BigEndian.Uint64(b), b[8:]
		}
		if reserved != 0 || !masked || length>>63 != 0 || control && (!fin || length > 125) || op > 10 || op > 2 && op < 8 {
			return out, whole
		}
		if !control && (op == 0) != (message != 0) || op == 8 {
			return out, whole
		}
		if len(b) < 4 {
			return out, whole
		}
		mask := b[:4]
		b = b[4:]
		n := min(length, uint64(len(b)))
		if op == 1 || op == 2 {
			message = op
		}
		if !control && message == 2 {
			for i := range n {
				out = append(out, b[i]^mask[i%4])
			}
		}
		b = b[n:]
		if n == length {
			whole = len(out)
		}
		if !control && fin {
			message = 0
		}
	}
	return out, whole
}

// FuzzPipe sends a stream of bytes of anybody where WebSocket frames are wanted: the relay gets what is in binary messages, in order and no
// more than that, whatever lengths the frames claim, and both ends go with the client.
func FuzzPipe(f *testing.F) {
	const fin = 0x80
	f.Add(frame(fin|2, 5, true, "hello"))
	f.Add(append(frame(2, 3, true, "one"), frame(fin|0, 3, true, "two")...))                                            // in fragments
	f.Add(append(frame(fin|1, 4, true, "text"), frame(fin|2, 2, true, "ok")...))                                        // text is passed over
	f.Add(bytes.Join([][]byte{frame(2, 1, true, "a"), frame(fin|9, 4, true, "ping"), frame(fin|0, 1, true, "b")}, nil)) // a ping between
	f.Add(frame(fin|2, 1<<63|5, true, "hello"))                                                                         // a negative length
	f.Add(frame(fin|2, 1<<62, true, "hello"))                                                                           // a huge one
	f.Add(frame(fin|2, 70_000, true, "short"))
	f.Add(frame(fin|2, 5, false, "hello")) // not masked
	f.Add(frame(fin|0, 5, true, "hello"))  // goes on with nothing
	f.Add(append(frame(2, 1, true, "a"), frame(fin|2, 1, true, "b")...))
	f.Add(append(frame(fin|8, 2, true, "\x03\xe8"), frame(fin|2, 1, true, "b")...)) // after a close
	f.Add(frame(fin|0x70|2, 1, true, "a"))
	f.Add(frame(fin|9, 126, true, strings.Repeat("p", 126)))
	f.Add(frame(fin|2, 9, true, "\xff\xff\xff\xff\x00\x00\x00\x01\x00")) // an agent's frame of 4 GiB: the relay's to refuse
	s := newSite(f)
	_, _ = s.ask("team", "POST", "/v1/sandboxes?start=true", `{"name":"a","image":{"type":"oci","reference":"host"}}`)
	web := httptest.NewServer(s.h)
	f.Cleanup(web.Close)
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > 1<<20 {
			return
		}
		ours, relay := net.Pipe()
		s.kept.relay = ours
		type taken struct {
			data []byte
			err  error
		}
		got := make(chan taken, 1)
		go func() {
			data, err := io.ReadAll(relay)
			got <- taken{data, err}
		}()
		c, err := net.Dial("tcp", web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, "GET /v1/sandboxes/by-name/a/agent HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "+s.keys["team"]+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(c)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("it says %+v, %v", resp, err)
		}
		_, _ = c.Write(stream) // the server may not take all of it
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, in)
		want, whole := binaryBytes(stream)
		if have := <-got; !bytes.HasPrefix(want, have.data) || len(have.data) < whole {
			t.Errorf("the relay has %q (%v), want %q, at least %d bytes of it", have.data, have.err, want, whole)
		}
	})
}
