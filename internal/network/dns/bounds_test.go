package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestCacheIsBoundedInBytes fills the cache with answers that are small on the wire, where a name is sent once, and large here.
func TestCacheIsBoundedInBytes(t *testing.T) {
	var c cache
	now := time.Now()
	long := strings.Repeat(strings.Repeat(`\200`, 60)+".", 4)
	answer := func(records int) *dns.Msg {
		m := new(dns.Msg)
		for range records {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 3600}, Ptr: long})
		}
		return m
	}
	for n := range 2 * maxCached {
		c.put(cacheKey{name: fmt.Sprint(n)}, answer(50), 0, now)
		held, text := 0, 0
		for _, e := range c.entries {
			held += e.cost
			text += len(e.msg.Answer) * len(long)
		}
		if held != c.bytes || held > maxBytes || text > held {
			t.Fatalf("after %d answers: %d bytes, of which %d are names, counted as %d", n+1, held, text, c.bytes)
		}
	}
	if len(c.entries) < 10 {
		t.Errorf("%d answers are kept", len(c.entries))
	}
	k := cacheKey{name: "large"}
	if c.put(k, answer(4500), 0, now); c.get(k, now) != nil {
		t.Error("an answer as large as the cache is kept")
	}
	before := len(c.entries)
	k = cacheKey{name: fmt.Sprint(2*maxCached - 1)}
	if c.put(k, answer(1), 0, now); c.get(k, now) == nil || len(c.entries) != before {
		t.Errorf("%d answers after one took another's place, %d before", len(c.entries), before)
	}
	if c.clear(); c.bytes != 0 || len(c.entries) != 0 {
		t.Errorf("%d bytes are left", c.bytes)
	}
}

// TestFullPinsMakeRoomForMany adds to pins that are full: the whole of them is looked through only now and then.
func TestFullPinsMakeRoomForMany(t *testing.T) {
	var p pins
	now := time.Now()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{20, 1, byte(i >> 8), byte(i)}) }
	for i := range maxPinned + 1 {
		p.add(addr(i), "a.test", now.Add(time.Hour), now)
	}
	if n := len(p.byAddr); n > maxPinned*3/4+1 || n < maxPinned/2 {
		t.Errorf("%d of %d are left", n, maxPinned)
	}
	if len(p.names(addr(maxPinned), now)) != 1 {
		t.Error("the new one is not there")
	}
}

// TestLabelsWithDots asks for names with a dot or a backslash within a label, which must not pass for others.
func TestLabelsWithDots(t *testing.T) {
	rules, err := sandbox.ParseNetworkRules("allow@*.example.com,allow@public")
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(sandbox.NetworkPolicy{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	r := New(Config{Policy: p, Nameservers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, Timeout: time.Second})
	for _, labels := range [][]string{{"x.example", "com"}, {"a", ".example", "com"}, {`a\`, "example", "com"}, {`a\.example`, "com"}} {
		query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
		for _, l := range labels {
			query = append(append(query, byte(len(l))), l...)
		}
		query = append(query, 0, 0, 1, 0, 1)
		var m dns.Msg
		if err := m.Unpack(r.Answer(context.Background(), query, true)); err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%q: %v, %v", labels, &m, err)
		}
		asked = append(asked, m.Question[0].Name)
	}
	if asked[0] != `x\.example.com.` {
		t.Errorf("asked for %q", asked)
	}
}
