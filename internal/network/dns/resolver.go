// Package dns resolves names for one sandbox. The resolver sits behind the gateway's port 53, asks the host's name
// servers, and lets through only what the sandbox may know: denied names do not exist, and no name leads to an address
// that the policy does not open explicitly (rebinding). It remembers which names each address was given for, so that
// rules about domains hold for what this sandbox resolved and nothing else (contract msb-0.6 §6).
//
// A [Resolver] is made with [New], needs no starting and no closing, and runs no goroutine of its own.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// HostName is the name by which the guest knows the gateway, and with it the host.
const HostName = sandbox.HostName

const (
	internalZone = "microsandbox.internal"
	hostTTL      = 60 // seconds, contract msb-0.6 §5.6
	maxQuery     = 4096
	maxForwards  = 64 // queries waiting for name servers at once
	maxUDP       = 4096
)

// Policy is what the resolver asks of a policy.Policy.
type Policy interface {
	CheckName(name string) policy.Verdict
	AllowsAnswer(a netip.Addr) bool
}

// Config says how names are resolved.
type Config struct {
	Policy  Policy
	Gateway []netip.Addr // what HostName stands for

	Nameservers        []netip.AddrPort // default: those of ResolvConf; port 0 is 53
	ResolvConf         string           // default /etc/resolv.conf
	Timeout            time.Duration    // of one query with all its retries, default 5 s
	NoRebindProtection bool

	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // default: net.Dialer's
	Denied func(name string, v policy.Verdict)                                  // default: nobody is told
	Failed func(err error)                                                      // the same, of a query that no name server answered
	Now    func() time.Time                                                     // default time.Now
}

// Resolver answers the queries of one sandbox.
type Resolver struct {
	cfg      Config
	servers  servers
	cache    cache
	pins     pins
	forwards chan struct{}
}

// New makes a resolver. It does no I/O: resolv.conf is read when it is first wanted.
func New(cfg Config) *Resolver {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if cfg.Denied == nil {
		cfg.Denied = func(string, policy.Verdict) {}
	}
	if cfg.Failed == nil {
		cfg.Failed = func(error) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Resolver{cfg: cfg, forwards: make(chan struct{}, maxForwards), servers: servers{fixed: cfg.Nameservers, file: cfg.ResolvConf}}
}

// Names returns the names, lower case, that this sandbox was told a for and that are still valid.
func (r *Resolver) Names(a netip.Addr) []string { return r.pins.names(a.Unmap(), r.cfg.Now()) }

// Forget drops the answers that were kept: another policy may refuse them. What was pinned stays.
func (r *Resolver) Forget() { r.cache.clear() }

// Answer returns the answer to a query as it goes on the wire, or nil where none is due. Over UDP it is cut to what the
// client takes, and says so.
func (r *Resolver) Answer(ctx context.Context, query []byte, udp bool) []byte {
	var q dns.Msg
	if len(query) > maxQuery || q.Unpack(query) != nil {
		return formErr(query)
	}
	if q.Response {
		return nil
	}
	m := r.answer(ctx, &q)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, opt.Do())
	}
	if udp {
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, min(int(opt.UDPSize()), maxUDP))
		}
		m.Truncate(size)
	} else {
		m.Truncate(dns.MaxMsgSize)
	}
	b, err := m.Pack()
	if err != nil {
		b, _ = failure(&q, dns.RcodeServerFailure).Pack()
	}
	return b
}

// formErr answers what cannot be read, if at least its header can.
func formErr(query []byte) []byte {
	if len(query) < 12 || query[2]&0x80 != 0 {
		return nil
	}
	b := make([]byte, 12)
	copy(b, query[:2])
	b[2] = 0x80 | query[2]&0x79 // response; opcode and RD as asked
	b[3] = 0x80 | dns.RcodeFormatError
	return b
}

// QueryName returns the name that a query asks for, or "".
func QueryName(query []byte) string {
	var q dns.Msg
	if len(query) > maxQuery || q.Unpack(query) != nil || len(q.Question) != 1 {
		return ""
	}
	return policy.CanonicalName(q.Question[0].Name)
}

func failure(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	return m.SetRcode(q, rcode)
}

// answer decides who knows the answer: this package, nobody, or a name server.
func (r *Resolver) answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return failure(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return failure(q, dns.RcodeFormatError)
	}
	ask := q.Question[0]
	name := policy.CanonicalName(ask.Name)
	switch {
	case ask.Qclass != dns.ClassINET, ask.Qtype == dns.TypeAXFR, ask.Qtype == dns.TypeIXFR, ask.Qtype == dns.TypeANY:
		return failure(q, dns.RcodeRefused)
	case name == HostName:
		return r.local(q, r.cfg.Gateway)
	case name == "localhost" || strings.HasSuffix(name, ".localhost"): // RFC 6761: the guest's own
		return r.local(q, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()})
	case name == internalZone || strings.HasSuffix(name, "."+internalZone), isPrivateReverse(name),
		strings.HasSuffix(name, ".local"), strings.HasSuffix(name, ".onion"), isAmbiguous(name):
		return failure(q, dns.RcodeNameError)
	}
	if v := r.cfg.Policy.CheckName(name); !v.Allowed {
		r.cfg.Denied(name, v)
		return failure(q, dns.RcodeNameError)
	}
	return r.resolve(ctx, q, name)
}

// isAmbiguous reports whether a label has a dot or a backslash in it: as text, which rules are compared with, it would look like
// two labels, or end like another name.
func isAmbiguous(name string) bool {
	return strings.Contains(name, `\.`) || strings.Contains(name, `\\`)
}

// local answers from addrs.
func (r *Resolver) local(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	m := failure(q, dns.RcodeSuccess)
	h := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: hostTTL, Rrtype: q.Question[0].Qtype}
	for _, a := range addrs {
		switch {
		case a.Is4() && h.Rrtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && h.Rrtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return m
}

// resolve answers from the cache or a name server.
func (r *Resolver) resolve(ctx context.Context, q *dns.Msg, name string) *dns.Msg {
	opt := q.IsEdns0()
	key := cacheKey{name, q.Question[0].Qtype, opt != nil && opt.Do()}
	now := r.cfg.Now()
	known := r.cache.get(key, now)
	if known == nil {
		age := r.cache.age()
		var err error
		if known, err = r.forward(ctx, q.Question[0], key.do); err != nil {
			if !errors.Is(err, context.Canceled) { // which is the sandbox's end
				r.cfg.Failed(err)
			}
			return failure(q, dns.RcodeServerFailure)
		}
		if a, ok := r.refusedAddr(known); ok {
			r.cfg.Denied(name, policy.Verdict{Rule: policy.BuiltIn, Reason: "rebinding protection: the name leads to " + a.String()})
			return failure(q, dns.RcodeNameError)
		}
		now = r.cfg.Now()
		r.cache.put(key, known, age, now)
	}
	m := failure(q, known.Rcode)
	m.Answer, m.Ns = known.Answer, known.Ns
	for a, ttl := range addrsOf(known) {
		r.pins.add(a, name, now.Add(max(time.Second, time.Duration(ttl)*time.Second)), now)
	}
	return m
}

// refusedAddr returns an address in m that the sandbox must not be led to.
func (r *Resolver) refusedAddr(m *dns.Msg) (netip.Addr, bool) {
	if r.cfg.NoRebindProtection {
		return netip.Addr{}, false
	}
	for a := range addrsOf(m) {
		if !r.cfg.Policy.AllowsAnswer(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// addrsOf yields every address that m's answer gives, with its TTL in seconds.
func addrsOf(m *dns.Msg) func(yield func(netip.Addr, uint32) bool) {
	return func(yield func(netip.Addr, uint32) bool) {
		for _, rr := range m.Answer {
			var ips []net.IP
			switch rr := rr.(type) {
			case *dns.A:
				ips = []net.IP{rr.A}
			case *dns.AAAA:
				ips = []net.IP{rr.AAAA}
			case *dns.HTTPS:
				ips = hints(&rr.SVCB)
			case *dns.SVCB:
				ips = hints(rr)
			}
			for _, ip := range ips {
				a, _ := netip.AddrFromSlice(ip)
				if !yield(a.Unmap(), rr.Header().Ttl) {
					return
				}
			}
		}
	}
}

func hints(rr *dns.SVCB) []net.IP {
	var ips []net.IP
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			ips = append(ips, v.Hint...)
		case *dns.SVCBIPv6Hint:
			ips = append(ips, v.Hint...)
		}
	}
	return ips
}

// Serve answers the queries that come over a TCP connection, one after the other, until the client ends or dawdles.
func (r *Resolver) Serve(ctx context.Context, conn net.Conn) {
	const patience, most = 10 * time.Second, 256
	var size [2]byte
	for range most {
		if conn.SetDeadline(time.Now().Add(patience)) != nil || !readFull(conn, size[:]) {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n < 12 || n > maxQuery {
			return
		}
		query := make([]byte, n)
		if !readFull(conn, query) {
			return
		}
		answer := r.Answer(ctx, query, false)
		if answer == nil || conn.SetDeadline(time.Now().Add(patience)) != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func readFull(conn net.Conn, b []byte) bool {
	for len(b) > 0 {
		n, err := conn.Read(b)
		b = b[n:]
		if err != nil && len(b) > 0 {
			return false
		}
	}
	return true
}

// isPrivateReverse reports whether name is in a reverse zone of addresses that are nobody's in public (RFC 6303). Asking
// for them outside tells of the inside.
func isPrivateReverse(name string) bool {
	if !strings.HasSuffix(name, ".arpa") {
		return false
	}
	for _, z := range privateReverse() {
		if name == z || strings.HasSuffix(name, "."+z) {
			return true
		}
	}
	return false
}

var privateReverse = sync.OnceValue(func() []string {
	zones := []string{
		"0.in-addr.arpa", "10.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "168.192.in-addr.arpa", "255.255.255.255.in-addr.arpa",
		"c.f.ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa",
		strings.Repeat("0.", 31) + "0.ip6.arpa", "1." + strings.Repeat("0.", 31) + "ip6.arpa",
	}
	for i := 16; i < 32; i++ {
		zones = append(zones, itoa(i)+".172.in-addr.arpa")
	}
	for i := 64; i < 128; i++ {
		zones = append(zones, itoa(i)+".100.in-addr.arpa")
	}
	return zones
})
