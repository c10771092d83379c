package dns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestHostileAnswers has a name server lead names to where the sandbox may not go, in every form that an address has. Each is refused
// and told of, and pins nothing.
func TestHostileAnswers(t *testing.T) {
	hostile := map[string]string{
		"by a CNAME":                "cname.example. 60 CNAME meta.example.|meta.example. 60 A 169.254.169.254",
		"by two":                    "two.example. 60 CNAME a.example.|a.example. 60 CNAME b.example.|b.example. 60 A 127.0.0.1",
		"by a DNAME":                "x.dname.example. 60 CNAME x.other.example.|dname.example. 60 DNAME other.example.|x.other.example. 60 A 192.168.0.1",
		"the last of many":          "many.example. 60 A 198.51.100.1|many.example. 60 A 198.51.100.2|many.example. 60 A 10.0.0.1",
		"of another name":           "owner.example. 60 A 198.51.100.1|somebody.else. 60 A 10.0.0.1",
		"IPv6 for IPv4":             "family.example. 60 A 198.51.100.1|family.example. 60 AAAA ::1",
		"compatible":                "compat.example. 60 AAAA ::a9fe:a9fe",
		"mapped":                    "mapped.example. 60 AAAA ::ffff:169.254.169.254",
		"translated (SIIT)":         "siit.example. 60 AAAA ::ffff:0:a00:1",
		"NAT64":                     "nat64.example. 60 AAAA 64:ff9b::7f00:1",
		"NAT64 of the place":        "local64.example. 60 AAAA 64:ff9b:1::a00:1",
		"6to4":                      "sixtofour.example. 60 AAAA 2002:a9fe:a9fe::1",
		"Teredo":                    "teredo.example. 60 AAAA 2001:0:a00:1::1",
		"link-local":                "link.example. 60 AAAA fe80::a9fe:a9fe",
		"unique local, of metadata": "ec2.example. 60 AAAA fd00:ec2::254",
		"nobody":                    "unspecified.example. 60 AAAA ::",
		"everybody":                 "multicast.example. 60 A 224.0.0.251",
		"the gateway":               "gateway.example. 60 AAAA fd42:6d73:62:1::1",
		"a hint":                    "hint.example. 60 HTTPS 1 . ipv6hint=64:ff9b::a00:1",
		"a hint behind another":     "hints.example. 60 SVCB 1 . ipv4hint=198.51.100.1,127.0.0.1",
	}
	z := &zone{records: map[string][]string{}}
	type question struct {
		name string
		typ  uint16
	}
	asks := map[string]question{}
	for what, text := range hostile {
		records := strings.Split(text, "|")
		first, err := mdns.NewRR(records[0])
		if err != nil {
			t.Fatal(err)
		}
		q := question{first.Header().Name, first.Header().Rrtype}
		if q.typ == mdns.TypeCNAME {
			q.typ = mdns.TypeA
		}
		asks[what] = q
		z.records[q.name+" "+mdns.TypeToString[q.typ]] = records
	}
	var denied []string
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}, Denied: func(n string, v policy.Verdict) { denied = append(denied, n) }}, sandbox.PublicPolicy())
	for what, q := range asks {
		denied = nil
		if got := summary(ask(t, r, q.name, q.typ)); got != "NXDOMAIN" {
			t.Errorf("%s: %s", what, got)
		}
		if want := strings.TrimSuffix(q.name, "."); len(denied) != 1 || denied[0] != want {
			t.Errorf("%s: told of %q", what, denied)
		}
	}
	for _, a := range []string{"198.51.100.1", "198.51.100.2", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd42:6d73:62:1::1"} {
		if n := r.Names(netip.MustParseAddr(a)); len(n) != 0 {
			t.Errorf("%s is pinned for %q", a, n)
		}
	}
}

// TestNamesOfAnAnswer has an answer say something of other names: only the name that was asked for is pinned.
func TestNamesOfAnAnswer(t *testing.T) {
	z := &zone{}
	z.reply = func(_ string, q *mdns.Msg) []byte {
		m := new(mdns.Msg).SetReply(q)
		for text, section := range map[string]*[]mdns.RR{"evil.example. 60 A 198.51.100.66": &m.Answer, "good.example. 60 A 198.51.100.67": &m.Ns, "good.example. 60 A 198.51.100.68": &m.Extra} {
			rr, _ := mdns.NewRR(text)
			*section = append(*section, rr)
		}
		rr, _ := mdns.NewRR("good.example. 60 A 198.51.100.69")
		m.Answer = append(m.Answer, rr)
		b, _ := m.Pack()
		return b
	}
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}}, sandbox.PublicPolicy())
	m := ask(t, r, "evil.example.", mdns.TypeA)
	if len(m.Extra) != 0 {
		t.Errorf("the guest was told more: %v", m.Extra)
	}
	for last := 66; last < 70; last++ {
		for _, n := range r.Names(netip.MustParseAddr(fmt.Sprint("198.51.100.", last))) {
			if n != "evil.example" {
				t.Errorf("198.51.100.%d is pinned for %s", last, n)
			}
		}
	}
	if n := z.asked.Load(); n != 1 || len(r.Names(netip.MustParseAddr("198.51.100.66"))) != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestRebinding has a name change its address, with a TTL of 0, once the guest was given the first.
func TestRebinding(t *testing.T) {
	var times atomic.Int32
	z := &zone{}
	z.reply = func(_ string, q *mdns.Msg) []byte {
		m := new(mdns.Msg).SetReply(q)
		rr, _ := mdns.NewRR("rebind.example. 0 A " + []string{"198.51.100.1", "169.254.169.254", "198.51.100.2"}[min(times.Add(1)-1, 2)])
		m.Answer = append(m.Answer, rr)
		b, _ := m.Pack()
		return b
	}
	now := time.Unix(1000, 0)
	var denied []string
	r := newResolver(t, dns.Config{Nameservers: []netip.AddrPort{z.serve(t)}, Now: func() time.Time { return now }, Denied: func(n string, _ policy.Verdict) { denied = append(denied, n) }}, sandbox.PublicPolicy())
	for i, want := range []string{"NOERROR 198.51.100.1", "NXDOMAIN", "NOERROR 198.51.100.2"} {
		if got := summary(ask(t, r, "rebind.example.", mdns.TypeA)); got != want {
			t.Errorf("time %d: %s, want %s", i, got, want)
		}
		now = now.Add(2 * time.Second)
	}
	if len(denied) != 1 || denied[0] != "rebind.example" {
		t.Errorf("told of %q", denied)
	}
	for _, a := range []string{"198.51.100.1", "169.254.169.254", "198.51.100.2"} {
		if n := r.Names(netip.MustParseAddr(a)); len(n) != 0 {
			t.Errorf("%s is still pinned for %q", a, n)
		}
	}
}
