package gvisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/leakcheck"
	"github.com/microsandbox-go/microsandbox/internal/network/ca"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/proxy"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// secretProgram uses a secret in every place that it may be in, and holds what it was given and a text of its own. Its
// arguments are the name server, the authority that it is to trust, the placeholder and a host.
const secretProgram = `
import base64, os, socket, ssl, sys, urllib.parse
server, ca, key, host = sys.argv[1:]
mark = "mark:" + os.urandom(16).hex()
held = [mark + str(n) for n in range(1000)]
def ask():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
    q = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + b"".join(bytes([len(p)]) + p.encode() for p in host.split(".")) + b"\x00\x00\x01\x00\x01"
    s.sendto(q, (server, 53))
    return socket.inet_ntoa(s.recv(512)[-4:])
def use():
    c = ssl.create_default_context(cadata=ca).wrap_socket(socket.create_connection((ask(), 443), timeout=20), server_hostname=host)
    body = "key=" + key
    basic = base64.b64encode(("me:" + key).encode()).decode()
    head = ["POST /?" + urllib.parse.urlencode({"key": key}) + " HTTP/1.1", "Host: " + host, "X-Key: " + key, "Authorization: Basic " + basic,
        "Content-Length: %d" % len(body), "Connection: close"]
    c.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    answer = b""
    while b := c.recv(4096): answer += b
    held.append(answer)
    return answer.decode().split("\r\n\r\n")[1]
for line in sys.stdin:
    if line == "mark\n": print(mark, flush=True)
    if line == "use\n": print(use(), flush=True)
`

// TestSecretIsNowhere has a guest use a secret, and then looks for the value in all files of a checkpoint, in the memory of the
// sandbox's processes, and in those of a sandbox that was restored from it.
func TestSecretIsNowhere(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("needs /usr/bin/python3")
	}
	home := t.TempDir()
	leakcheck.Check(t, leakcheck.Home(home, "images", "bin", "checkpoint", "msb-agent"), leakcheck.Within(5*time.Second))
	g := newGuestKit(t, home)
	ctx := context.Background()
	const host, placeholder, address = "api.good.test", "$MSB_API_KEY", "93.184.216.34"
	var random [16]byte
	_, _ = rand.Read(random[:])
	value := "sk/driver+" + hex.EncodeToString(random[:]) + "/&" // which is written otherwise in URLs
	forms := leakcheck.Forms(value)

	// What came to the server, in which the value is to be in every place. It is not sent back.
	var mu sync.Mutex
	var came []string
	thanks := "thank you"
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, password, _ := r.BasicAuth()
		mu.Lock()
		defer mu.Unlock()
		came = append(came, r.Header.Get("X-Key"), password, r.URL.Query().Get("key"), strings.TrimPrefix(string(body), "key="))
		fmt.Fprint(w, thanks)
	}))
	roots := x509.NewCertPool()
	web.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t, roots, host)}}
	web.StartTLS()
	t.Cleanup(web.Close)
	authority, key, err := ca.Open(filepath.Join(home, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	set, err := secret.New(&sandbox.Secrets{Secrets: []sandbox.Secret{{EnvVar: "API_KEY", Placeholder: placeholder,
		AllowedHosts: []sandbox.HostPattern{{Exact: host}}, Injection: sandbox.Injection{QueryParams: &yes, Body: &yes}}}}, []string{value})
	if err != nil {
		t.Fatal(err)
	}
	g.net.DNS = netstack.DNSConfig{Nameservers: []netip.AddrPort{nameserver(t, host, address)}, Dialer: &net.Dialer{}}
	g.net.Dialer = &onlyTo{web.Listener.Addr().String()}
	intercept := func() {
		p, err := proxy.New(proxy.Config{TLS: &sandbox.TLS{Enabled: true}, CACert: authority, CAKey: key, Roots: roots, Secrets: set})
		if err != nil {
			t.Fatal(err)
		}
		g.net.Inspector = p
		t.Cleanup(func() { _ = p.Close() }) // after the gateway that is to be started
	}

	intercept()
	original := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Start(ctx, cfg) })
	original.bringUp(t)
	ends, err := netstack.Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	program := original.exec(t, 7, "python3", "-u", "-c", secretProgram, ends.Gateway4.String(), string(authority), placeholder, host)
	use := func(s *session) {
		t.Helper()
		mu.Lock()
		came = nil
		mu.Unlock()
		s.says(t, "use", "thank you")
		mu.Lock()
		defer mu.Unlock()
		if len(came) != 4 {
			t.Fatalf("the server was sent %d values", len(came))
		}
		for i, got := range came {
			if got != value {
				t.Errorf("place %d: the server was sent %q", i, got)
			}
		}
	}
	use(program)
	mark := strings.TrimSpace(program.hears(t, "mark"))

	dir := filepath.Join(home, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := original.inst.(driver.Checkpointer).Checkpoint(ctx, dir); err != nil {
		t.Fatal(err)
	}
	use(program)
	var saved leakcheck.Found
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range files {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var found leakcheck.Found
		found.Search(f, append(forms, mark, placeholder)...)
		f.Close()
		if found.Has(forms...) {
			t.Errorf("the checkpoint's file %s has the value: %v", e.Name(), found.Texts)
		}
		t.Logf("%s: %d KiB, the mark %v, the placeholder %v", e.Name(), found.Bytes>>10, found.Has(mark), found.Has(placeholder))
		saved.Bytes += found.Bytes
		if saved.Texts == nil {
			saved.Texts = map[string]bool{}
		}
		for x := range found.Texts {
			saved.Texts[x] = true
		}
	}
	if !saved.Has(mark) || !saved.Has(placeholder) || saved.Bytes != size(t, dir) {
		t.Errorf("what the guest holds is not in the checkpoint: %v, of %d bytes", saved.Texts, saved.Bytes)
	}

	look := func(what string, g *guest) {
		t.Helper()
		i := g.inst.(*instance)
		seen, others := false, 0
		for _, pid := range family(t, i.sentry, i.gofer) {
			found, err := leakcheck.SearchMemory(pid, append(forms, mark)...)
			if err != nil {
				t.Fatal(err)
			}
			if found.Has(forms...) {
				t.Errorf("%s: the memory of process %d has the value: %v", what, pid, found.Texts)
			}
			seen = seen || found.Has(mark)
			if pid != i.sentry && pid != i.gofer && found.Has(mark) {
				others++
			}
		}
		if !seen || others == 0 {
			t.Errorf("%s: what the guest holds was found: %v, in %d processes of the guest's", what, seen, others)
		}
	}
	look("the original", original)
	intercept()
	fork := g.start(t, func(cfg driver.Config) (driver.Instance, error) { return Driver{}.Restore(ctx, cfg, dir) })
	use(&session{g: fork, id: 7})
	look("the restored", fork)
	// A server that sends it back tells the guest: then it is found.
	mu.Lock()
	thanks = value
	mu.Unlock()
	(&session{g: fork, id: 7}).says(t, "use", value)
	if found, err := leakcheck.SearchMemory(fork.inst.(*instance).sentry, forms...); err != nil || !found.Has(value) {
		t.Errorf("what a server told the guest is not found: %v", err)
	}
}

// onlyTo takes every connection to one address.
type onlyTo struct{ address string }

func (o *onlyTo) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, o.address)
}

// selfSigned makes a certificate for host, and has roots trust it.
func selfSigned(t *testing.T, roots *x509.CertPool, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// nameserver starts one that knows a host.
func nameserver(t *testing.T, host, address string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up, done := make(chan struct{}), make(chan struct{})
	s := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if x := q.Question[0]; x.Name == host+"." && x.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: x.Name, Rrtype: x.Qtype, Class: dns.ClassINET, Ttl: 300}, A: net.ParseIP(address)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	<-up
	t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// family returns processes and all that descend from them.
func family(t *testing.T, roots ...int) []int {
	t.Helper()
	parents := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil { // it has ended
			continue
		}
		after := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if parent, err := strconv.Atoi(after[1]); err == nil {
			parents[parent] = append(parents[parent], pid)
		}
	}
	var all []int
	for _, pid := range roots {
		if pid > 0 {
			all = append(all, pid)
		}
	}
	for n := 0; n < len(all); n++ {
		all = append(all, parents[all[n]]...)
	}
	return all
}
