package dns_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var gateway = []netip.Addr{netip.MustParseAddr("172.16.0.5"), netip.MustParseAddr("fd42:6d73:62:1::1")}

// zone is a name server with answers in zone-file form, or others by a function.
type zone struct {
	records map[string][]string // "name type" → records
	reply   func(network string, q *mdns.Msg) []byte
	asked   atomic.Int32
}

func (z *zone) answer(network string, query []byte) []byte {
	z.asked.Add(1)
	var q mdns.Msg
	if q.Unpack(query) != nil {
		return nil
	}
	if z.reply != nil {
		return z.reply(network, &q)
	}
	m := new(mdns.Msg).SetReply(&q)
	list, ok := z.records[strings.ToLower(q.Question[0].Name)+" "+mdns.TypeToString[q.Question[0].Qtype]]
	if !ok {
		m.Rcode = mdns.RcodeNameError
		soa, _ := mdns.NewRR("example. 60 SOA a. b. 1 2 3 4 30")
		m.Ns = []mdns.RR{soa}
	}
	for _, s := range list {
		rr, err := mdns.NewRR(s)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	if network == "udp" {
		m.Truncate(1232)
	}
	b, _ := m.Pack()
	return b
}

// serve runs z on a port of loopback, UDP and TCP.
func (z *zone) serve(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := z.answer("udp", buf[:n]); b != nil {
				_, _ = u.WriteTo(b, from)
			}
		}
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			_, _ = io.ReadFull(c, size[:])
			q := make([]byte, binary.BigEndian.Uint16(size[:]))
			_, _ = io.ReadFull(c, q)
			b := z.answer("tcp", q)
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); u.Close(); all.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func newResolver(t testing.TB, cfg dns.Config, np sandbox.NetworkPolicy) *dns.Resolver {
	t.Helper()
	p, err := policy.New(np, gateway...)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy, cfg.Gateway = p, gateway
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = os.DevNull
	}
	return dns.New(cfg)
}

func ask(t testing.TB, r *dns.Resolver, name string, typ uint16) *mdns.Msg {
	t.Helper()
	q := new(mdns.Msg).SetQuestion(name, typ)
	b, _ := q.Pack()
	var m mdns.Msg
	if err := m.Unpack(r.Answer(context.Background(), b, true)); err != nil || m.Id != q.Id || !m.Response || !m.RecursionAvailable {
		t.Fatalf("%s: %v, %v", name, err, &m)
	}
	return &m
}

// summary is the code and the addresses of an answer.
func summary(m *mdns.Msg) string {
	s := mdns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			s += " " + rr.A.String()
		case *mdns.AAAA:
			s += " " + rr.AAAA.String()
		}
	}
	return s
}

func TestAnswers(t *testing.T) {
	z := &zone{records: map[string][]string{
		"www.example. A":       {"www.example. 60 CNAME cdn.example.", "cdn.example. 30 A 198.51.100.7", "cdn.example. 30 A 198.51.100.8"},
		"www.example. AAAA":    {"www.example. 60 AAAA 2001:db8::7"},
		"private.example. A":   {"private.example. 60 A 198.51.100.7", "private.example. 60 A 10.0.0.1"},
		"meta.example. A":      {"meta.example. 60 A 169.254.169.254"},
		"loop.example. A":      {"loop.example. 60 A 127.0.0.1"},
		"zero.example. A":      {"zero.example. 60 A 0.0.0.0"},
		"loop.example. AAAA":   {"loop.example. 60 AAAA ::1"},
		"mapped.example. AAAA": {"mapped.example. 60 AAAA ::ffff:10.0.0.1"},
		"nat64.example. AAAA":  {"nat64.example. 60 AAAA 64:ff9b::a9fe:a9fe"},
		"svc.example. HTTPS":   {"svc.example. 60 HTTPS 1 . ipv4hint=10.0.0.1"},
		"ads.example. A":       {"ads.example. 60 A 198.51.100.9"},
	}}
	var mu sync.Mutex
	var denied []string
	np := sandbox.PublicPolicy()
	np.Rules = append([]sandbox.NetworkRule{{Direction: "egress", Destination: sandbox.Destination{DomainSuffix: "ads.example"}, Action: "deny"}}, np.Rules...)
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}, Denied: func(n string, v policy.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		denied = append(denied, n)
	}}, np)
	for _, c := range []struct {
		name, want string
		typ        uint16
	}{
		{"www.example.", "NOERROR 198.51.100.7 198.51.100.8", mdns.TypeA},
		{"WWW.Example.", "NOERROR 198.51.100.7 198.51.100.8", mdns.TypeA},
		{"www.example.", "NOERROR 2001:db8::7", mdns.TypeAAAA},
		{"nothing.example.", "NXDOMAIN", mdns.TypeA},
		{"private.example.", "NXDOMAIN", mdns.TypeA}, {"meta.example.", "NXDOMAIN", mdns.TypeA}, {"loop.example.", "NXDOMAIN", mdns.TypeA},
		{"zero.example.", "NXDOMAIN", mdns.TypeA}, {"loop.example.", "NXDOMAIN", mdns.TypeAAAA}, {"mapped.example.", "NXDOMAIN", mdns.TypeAAAA},
		{"nat64.example.", "NXDOMAIN", mdns.TypeAAAA}, {"svc.example.", "NXDOMAIN", mdns.TypeHTTPS},
		{"ads.example.", "NXDOMAIN", mdns.TypeA}, {"x.ads.example.", "NXDOMAIN", mdns.TypeA},
		{"host.microsandbox.internal.", "NOERROR 172.16.0.5", mdns.TypeA}, {"HOST.microsandbox.internal.", "NOERROR fd42:6d73:62:1::1", mdns.TypeAAAA},
		{"host.microsandbox.internal.", "NOERROR", mdns.TypeMX}, {"other.microsandbox.internal.", "NXDOMAIN", mdns.TypeA},
		{"localhost.", "NOERROR 127.0.0.1", mdns.TypeA}, {"printer.local.", "NXDOMAIN", mdns.TypeA},
		{"1.0.0.10.in-addr.arpa.", "NXDOMAIN", mdns.TypePTR}, {"1.0.16.172.in-addr.arpa.", "NXDOMAIN", mdns.TypePTR}, {"254.169.254.169.in-addr.arpa.", "NXDOMAIN", mdns.TypePTR},
		{"www.example.", "REFUSED", mdns.TypeANY}, {"www.example.", "REFUSED", mdns.TypeAXFR},
	} {
		m := ask(t, r, c.name, c.typ)
		if got := summary(m); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, mdns.TypeToString[c.typ], got, c.want)
		}
	}
	if m := ask(t, r, "host.microsandbox.internal.", mdns.TypeA); m.Answer[0].Header().Ttl != 60 {
		t.Errorf("TTL of the host's name: %v", m.Answer[0])
	}
	if want := "private.example meta.example loop.example zero.example loop.example mapped.example nat64.example svc.example ads.example x.ads.example"; strings.Join(denied, " ") != want {
		t.Errorf("denied: %v", denied)
	}
	for a, want := range map[string]string{"198.51.100.7": "[www.example]", "2001:db8::7": "[www.example]", "10.0.0.1": "[]", "198.51.100.9": "[]", "::ffff:198.51.100.8": "[www.example]"} {
		if got := fmt.Sprint(r.Names(netip.MustParseAddr(a))); got != want {
			t.Errorf("Names(%s) = %s, want %s", a, got, want)
		}
	}
}

func TestAddressRuleLiftsRebindProtection(t *testing.T) {
	z := &zone{records: map[string][]string{"nas.example. A": {"nas.example. 60 A 10.0.0.1"}}}
	np := sandbox.PublicPolicy()
	server := []netip.AddrPort{z.serve(t)}
	if m := ask(t, newResolver(t, dns.Config{Nameservers: server, NoRebindProtection: true}, np), "nas.example.", mdns.TypeA); summary(m) != "NOERROR 10.0.0.1" {
		t.Errorf("protection off: %s", summary(m))
	}
	np.Rules = append(np.Rules, sandbox.NetworkRule{Direction: "egress", Destination: sandbox.Destination{Group: "private"}, Action: "allow"})
	if m := ask(t, newResolver(t, dns.Config{Nameservers: server}, np), "nas.example.", mdns.TypeA); summary(m) != "NOERROR 10.0.0.1" {
		t.Errorf("private allowed: %s", summary(m))
	}
}

func TestCacheAndPinsEndWithTheTTL(t *testing.T) {
	z := &zone{records: map[string][]string{"a.example. A": {"a.example. 10 A 198.51.100.7"}, "zero.example. A": {"zero.example. 0 A 198.51.100.8"}}}
	now := time.Unix(1000, 0)
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}, Now: func() time.Time { return now }}, sandbox.PublicPolicy())
	a, zero := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.8")
	ask(t, r, "a.example.", mdns.TypeA)
	now = now.Add(4 * time.Second)
	if m := ask(t, r, "a.example.", mdns.TypeA); m.Answer[0].Header().Ttl != 6 || z.asked.Load() != 1 {
		t.Errorf("TTL %d, asked %d times", m.Answer[0].Header().Ttl, z.asked.Load())
	}
	now = now.Add(6 * time.Second)
	if n := r.Names(a); len(n) != 0 {
		t.Errorf("pinned after the TTL: %v", n)
	}
	ask(t, r, "a.example.", mdns.TypeA)
	if z.asked.Load() != 2 || len(r.Names(a)) != 1 {
		t.Errorf("asked %d times, names %v", z.asked.Load(), r.Names(a))
	}
	ask(t, r, "zero.example.", mdns.TypeA)
	now = now.Add(999 * time.Millisecond)
	if len(r.Names(zero)) != 1 {
		t.Error("a TTL of 0 pins for less than a second")
	}
	now = now.Add(time.Millisecond)
	if len(r.Names(zero)) != 0 {
		t.Error("a TTL of 0 pins for more than a second")
	}
	ask(t, r, "none.example.", mdns.TypeA)
	n := z.asked.Load()
	if ask(t, r, "none.example.", mdns.TypeA); z.asked.Load() != n {
		t.Error("absence is not cached")
	}
}

func TestTruncatedAnswerIsFetchedOverTCP(t *testing.T) {
	var list []string
	for i := range 200 {
		list = append(list, fmt.Sprintf("big.example. 60 A 198.51.100.%d", i))
	}
	z := &zone{records: map[string][]string{"big.example. A": list}}
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}}, sandbox.PublicPolicy())
	b, _ := new(mdns.Msg).SetQuestion("big.example.", mdns.TypeA).Pack()
	var udp, tcp mdns.Msg
	answer := r.Answer(context.Background(), b, true)
	if err := udp.Unpack(answer); err != nil || !udp.Truncated || len(answer) > 512 {
		t.Errorf("UDP: %v, %d bytes, truncated %v", err, len(answer), udp.Truncated)
	}
	if err := tcp.Unpack(r.Answer(context.Background(), b, false)); err != nil || len(tcp.Answer) != 200 {
		t.Errorf("TCP: %v, %d answers", err, len(tcp.Answer))
	}
}

func TestFailures(t *testing.T) {
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes queries and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	silent := netip.MustParseAddrPort(dead.LocalAddr().String())
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	good := (&zone{records: map[string][]string{"a.example. A": {"a.example. 1 A 198.51.100.7"}}}).serve(t)
	forged := (&zone{reply: func(network string, q *mdns.Msg) []byte {
		q.Id++
		b, _ := new(mdns.Msg).SetReply(q).Pack()
		return b
	}}).serve(t)
	for _, c := range []struct {
		name    string
		servers []netip.AddrPort
		want    string
		timeout time.Duration
	}{
		{"no server", nil, "SERVFAIL", 0},
		{"closed port", []netip.AddrPort{closed}, "SERVFAIL", 0},
		{"silence", []netip.AddrPort{silent}, "SERVFAIL", 100 * time.Millisecond},
		{"answer to another question", []netip.AddrPort{forged}, "SERVFAIL", 100 * time.Millisecond},
		{"the second knows", []netip.AddrPort{closed, good}, "NOERROR 198.51.100.7", 0},
		{"the second knows, the first is silent", []netip.AddrPort{silent, good}, "NOERROR 198.51.100.7", 0},
	} {
		failed := 0
		r := newResolver(t, dns.Config{Nameservers: c.servers, Timeout: c.timeout, Failed: func(error) { failed++ }}, sandbox.PublicPolicy())
		if got := summary(ask(t, r, "a.example.", mdns.TypeA)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if told := failed == 1; told != (c.want == "SERVFAIL") {
			t.Errorf("%s: %d failures are told of", c.name, failed)
		}
	}
}

func TestResolvConf(t *testing.T) {
	z := &zone{records: map[string][]string{"a.example. A": {"a.example. 1 A 198.51.100.7"}}}
	server := z.serve(t)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# comment\nsearch x\nnameserver 192.0.2.53\nnameserver bad\noptions ndots:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked string
	r := newResolver(t, dns.Config{ResolvConf: file, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked = address
		return (&net.Dialer{}).DialContext(ctx, network, server.String())
	}}, sandbox.PublicPolicy())
	if got := summary(ask(t, r, "a.example.", mdns.TypeA)); got != "NOERROR 198.51.100.7" || asked != "192.0.2.53:53" {
		t.Errorf("%s, asked %s", got, asked)
	}
}

func TestMalformedQueries(t *testing.T) {
	r := newResolver(t, dns.Config{}, sandbox.PublicPolicy())
	good, _ := new(mdns.Msg).SetQuestion("a.example.", mdns.TypeA).Pack()
	response := append([]byte(nil), good...)
	response[2] |= 0x80
	two := append([]byte(nil), good...)
	two[5] = 2
	for _, c := range []struct {
		name  string
		query []byte
		want  int // -1: no answer
	}{
		{"empty", nil, -1}, {"half a header", good[:6], -1}, {"response", response, -1},
		{"cut question", good[:len(good)-3], mdns.RcodeFormatError}, {"two questions promised", two, mdns.RcodeFormatError},
		{"header only", append([]byte{1, 2, 1, 0}, make([]byte, 8)...), mdns.RcodeFormatError},
		{"update", append([]byte{1, 2, 0x28, 0}, good[4:]...), mdns.RcodeNotImplemented},
		{"too long", append(append([]byte(nil), good...), make([]byte, 5000)...), mdns.RcodeFormatError},
	} {
		var m mdns.Msg
		b := r.Answer(context.Background(), c.query, true)
		switch {
		case b == nil && c.want == -1:
		case b == nil || m.Unpack(b) != nil || m.Rcode != c.want || !m.Response:
			t.Errorf("%s: %x, want rcode %d", c.name, b, c.want)
		}
	}
}

// FuzzAnswer takes queries from the guest and answers from the name server, both hostile.
func FuzzAnswer(f *testing.F) {
	good, _ := new(mdns.Msg).SetQuestion("a.example.", mdns.TypeA).Pack()
	reply := new(mdns.Msg).SetQuestion("a.example.", mdns.TypeA)
	reply.Response = true
	for _, s := range []string{"a.example. 60 A 10.0.0.1", "a.example. 60 CNAME b.example.", "a.example. 60 HTTPS 1 . ipv4hint=10.0.0.1 ipv6hint=::1"} {
		rr, _ := mdns.NewRR(s)
		reply.Answer = append(reply.Answer, rr)
	}
	answer, _ := reply.Pack()
	f.Add(good, answer)
	f.Add(good[:14], answer[:40])
	f.Fuzz(func(t *testing.T, query, answer []byte) {
		r := newResolver(t, dns.Config{
			Nameservers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Timeout: 50 * time.Millisecond,
			Dial: func(context.Context, string, string) (net.Conn, error) { return &scripted{answer: answer}, nil },
		}, sandbox.PublicPolicy())
		for _, udp := range []bool{true, false} {
			b := r.Answer(context.Background(), query, udp)
			var m mdns.Msg
			if b == nil {
				continue
			}
			if len(b) < 12 || b[2]&0x80 == 0 || b[0] != query[0] || b[1] != query[1] {
				t.Fatalf("%x is no answer to %x", b, query)
			}
			if udp && len(b) > 4096 {
				t.Fatalf("%d bytes over UDP", len(b))
			}
			if len(b) > 12 && m.Unpack(b) == nil && m.Rcode == mdns.RcodeSuccess && strings.Contains(summary(&m), " 10.") {
				t.Fatalf("a private address got through: %v", &m)
			}
		}
		if dns.QueryName(query) == "a.example" && len(r.Names(netip.MustParseAddr("10.0.0.1"))) > 0 {
			t.Fatal("a private address was pinned")
		}
	})
}

// scripted is a connection to a name server that answers with given bytes, under the query's ID.
type scripted struct {
	net.Conn
	answer []byte
	id     [2]byte
	done   bool
}

func (s *scripted) Write(b []byte) (int, error) {
	copy(s.id[:], b)
	return len(b), nil
}

func (s *scripted) Read(b []byte) (int, error) {
	if s.done {
		return 0, io.EOF
	}
	s.done = true
	n := copy(b, s.answer)
	copy(b[:n], s.id[:])
	return n, nil
}

func (s *scripted) SetDeadline(time.Time) error { return nil }
func (s *scripted) Close() error                { return nil }
