package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// told collects what a gateway tells of.
type told struct {
	mu     sync.Mutex
	flows  []sandbox.Flow
	events []string
}

func (l *told) flow(f sandbox.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flows = append(l.flows, f)
}

func (l *told) event(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, s)
}

func policyWith(t testing.TB, rules string) sandbox.NetworkPolicy {
	t.Helper()
	rs, err := sandbox.ParseNetworkRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.NetworkPolicy{Rules: rs}
}

// TestSetPolicy changes the policy under connections that go on: what the new one denies is cut off, the rest stays.
func TestSetPolicy(t *testing.T) {
	var log told
	w := newWorld(t, Config{Policy: policyWith(t, "allow@198.51.100.7,allow@198.51.100.8"), OnFlow: log.flow, OnEvent: log.event})
	for _, a := range []string{"198.51.100.7:80", "198.51.100.8:80", "198.51.100.9:80"} {
		w.net.listen(t, a, echo)
	}
	w.net.listenUDP(t, "198.51.100.7:81", func(b []byte) []byte { return b })
	exchange := func(c net.Conn) error {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	cut, kept, datagrams := w.mustDial(t, "198.51.100.7:80"), w.mustDial(t, "198.51.100.8:80"), w.dialUDP(t, "198.51.100.7:81")
	defer cut.Close()
	defer kept.Close()
	for _, c := range []net.Conn{cut, kept, datagrams} {
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
	}
	mustRefuse(t, w.guest, "198.51.100.9:80")
	if err := w.gw.SetPolicy(sandbox.NetworkPolicy{DefaultEgress: "maybe"}, false); err == nil {
		t.Error("a policy that makes no sense is taken")
	}
	if err := exchange(cut); err != nil {
		t.Errorf("after a policy that was not taken: %v", err)
	}
	if err := w.gw.SetPolicy(policyWith(t, "allow@198.51.100.8,allow@198.51.100.9"), false); err != nil {
		t.Fatal(err)
	}
	if err := exchange(cut); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection that is denied now: %v, want a reset", err)
	}
	if err := exchange(kept); err != nil {
		t.Errorf("the connection that is still allowed: %v", err)
	}
	untilRefused(datagrams)
	mustRefuse(t, w.guest, "198.51.100.7:80")
	w.mustDial(t, "198.51.100.9:80").Close()

	log.mu.Lock()
	defer log.mu.Unlock()
	if e := strings.Join(log.events, "\n"); !strings.Contains(e, "denied by policy: 198.51.100.9:80 (tcp, default egress: deny)") || !strings.Contains(e, "denied by policy: 198.51.100.7:80") {
		t.Errorf("events:\n%s", e)
	}
}

// TestSetPolicyByName changes rules about names under connections: those that nobody has looked into, and those that showed
// their name before that was asked for, are not left to go on unseen.
func TestSetPolicyByName(t *testing.T) {
	var log told
	looks := false
	w := newWorld(t, Config{Policy: policyWith(t, "allow@198.51.100.7"), OnFlow: log.flow, OnEvent: log.event,
		Inspector: inspector{wants: func(*Conn) bool { return looks }, serve: func(_ context.Context, c *Conn, guest GuestConn) {
			name := make([]byte, len("x.example"))
			if _, err := io.ReadFull(guest, name); err == nil {
				c.SetName(string(name))
				c.Splice(name)
			}
		}}})
	w.net.listen(t, "198.51.100.7:80", echo)
	say := func(c net.Conn, name string) error {
		if _, err := io.WriteString(c, name); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, len(name)))
		return err
	}
	const x, y = "x.example", "y.example"
	open := func(name string) net.Conn {
		c := w.mustDial(t, "198.51.100.7:80")
		t.Cleanup(func() { c.Close() })
		if err := say(c, name); err != nil {
			t.Fatal(err)
		}
		return c
	}
	set := func(rules string, strict bool) {
		if err := w.gw.SetPolicy(policyWith(t, rules), strict); err != nil {
			t.Fatal(err)
		}
	}
	goesOn := func(c net.Conn, name string, want bool) {
		t.Helper()
		if err := say(c, name); (err == nil) != want {
			t.Errorf("after the change: %v, want it to go on: %v", err, want)
		}
	}
	unseen := open(x)
	looks = true
	seenX, seenY := open(x), open(y)
	set("allow@198.51.100.7,deny@"+x, false)
	goesOn(unseen, x, true) // the denial comes after what allows it
	goesOn(seenX, x, true)
	set("deny@"+x+",allow@198.51.100.7", false)
	goesOn(unseen, x, false)
	goesOn(seenX, x, false)
	goesOn(seenY, y, true)
	// Strict is for what a name allows: an address rule is none.
	set("allow@198.51.100.7", true)
	goesOn(seenY, y, true)

	log.mu.Lock()
	defer log.mu.Unlock()
	events := strings.Join(log.events, "\n")
	for _, want := range []string{"rule 0: deny@x.example, and nobody saw whom this connection speaks to", "denied by policy: x.example (tcp 198.51.100.7:80, rule 0: deny@x.example)"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event says %q:\n%s", want, events)
		}
	}
}

// TestSetStrict makes a policy strict under connections that a name allows: what began before did not have to show one.
func TestSetStrict(t *testing.T) {
	rules := policyWith(t, "allow@x.example")
	w := newWorld(t, Config{Policy: rules, Inspector: inspector{wants: func(*Conn) bool { return true },
		serve: func(_ context.Context, c *Conn, _ GuestConn) { c.Splice(nil) }},
		DNS: DNSConfig{Nameservers: []netip.AddrPort{netip.MustParseAddrPort("198.51.100.53:53")}}})
	w.net.listen(t, "198.51.100.7:80", echo)
	w.net.listenUDP(t, "198.51.100.53:53", answering("198.51.100.7"))
	if rc := ask(t, w, "172.16.0.5:53", "x.example."); rc != dns.RcodeSuccess {
		t.Fatalf("rcode %d", rc)
	}
	exchange := func(c net.Conn) error {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	before := w.mustDial(t, "198.51.100.7:80")
	defer before.Close()
	if err := errors.Join(exchange(before), w.gw.SetPolicy(rules, false), exchange(before), w.gw.SetPolicy(rules, true)); err != nil {
		t.Fatal(err)
	}
	if err := exchange(before); err == nil {
		t.Error("a connection from before goes on")
	}
	after := w.mustDial(t, "198.51.100.7:80")
	defer after.Close()
	if err := errors.Join(exchange(after), w.gw.SetPolicy(rules, true), exchange(after)); err != nil {
		t.Errorf("one that began strict: %v", err)
	}
}

// untilRefused sends until the guest's socket has heard that nobody listens; gonet's does not wake a reader for that, nor always a writer
// whose buffer was full.
func untilRefused(c net.Conn) {
	for ; ; time.Sleep(time.Millisecond) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		var late net.Error
		if _, err := c.Write([]byte("x")); err != nil && !(errors.As(err, &late) && late.Timeout()) {
			return
		}
	}
}

// TestPolicyChangesWhileConnectionsBegin races both; whatever wins, nothing may live on that the last policy denies.
func TestPolicyChangesWhileConnectionsBegin(t *testing.T) {
	open, shut := policyWith(t, "allow@198.51.100.7"), policyWith(t, "deny@any")
	w := newWorld(t, Config{Policy: open})
	w.net.listen(t, "198.51.100.7:80", echo)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 25 {
				if c, err := w.dial("198.51.100.7:80"); err == nil {
					defer c.Close()
				}
			}
		})
	}
	for range 20 {
		if err := w.gw.SetPolicy(shut, false); err != nil {
			t.Error(err)
		}
		if err := w.gw.SetPolicy(open, false); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if err := w.gw.SetPolicy(shut, false); err != nil {
		t.Fatal(err)
	}
	for len(w.gw.Flows()) > 0 { // they end by themselves, or the test hangs
	}
}

func TestFlows(t *testing.T) {
	var log told
	w := newWorld(t, Config{OnFlow: log.flow})
	w.net.listen(t, "198.51.100.7:80", echo)
	c := w.mustDial(t, "198.51.100.7:80")
	_, _ = c.Write([]byte("hello"))
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	live := w.gw.Flows()
	if len(live) != 1 || live[0].Event != "live" || live[0].Peer != "198.51.100.7:80" || live[0].Sent != 5 || live[0].Verdict != "allow" || live[0].Rule != 1 || live[0].GuestPort == 0 {
		t.Errorf("%+v", live)
	}
	_ = c.CloseWrite()
	_, _ = io.ReadAll(c)
	c.Close()
	mustRefuse(t, w.guest, "10.0.0.1:80")
	for len(w.gw.Flows()) > 0 {
	}
	s := w.gw.Stats()
	if s.TxPackets < 5 || s.RxPackets < 4 || s.TxBytes < 5*40 || s.Sent != 5 || s.Received != 5 || s.Denied != 1 {
		t.Errorf("%+v", s)
	}
	w.gw.Close()
	log.mu.Lock()
	defer log.mu.Unlock()
	var events []string
	for _, f := range log.flows {
		events = append(events, f.Event+" "+f.Peer+" "+f.Verdict)
	}
	if got := strings.Join(events, ", "); !strings.Contains(got, "open 198.51.100.7:80 allow") || !strings.Contains(got, "close 198.51.100.7:80 allow") || !strings.Contains(got, "deny 10.0.0.1:80 deny") {
		t.Error(got)
	}
	for _, f := range log.flows {
		if f.Event == "close" && (f.Sent != 5 || f.Received != 5 || f.ID != live[0].ID) {
			t.Errorf("%+v", f)
		}
	}
}

// TestRefusalsAreToldAtABoundedRate floods the gateway with refusals.
func TestRefusalsAreToldAtABoundedRate(t *testing.T) {
	var log told
	w := newWorld(t, Config{OnFlow: log.flow, OnEvent: log.event})
	const tries = 2000
	for i := range tries {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		w.gw.deny(policy.Egress, policy.TCP, netip.AddrPortFrom(a, 80), 1, "", policy.Verdict{Reason: "r"})
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := len(log.flows); n < 200 || n > tries/2 {
		t.Errorf("%d of %d refusals are in the flow log", n, tries)
	}
	if n := len(log.events); n == 0 || n > tries/2 {
		t.Errorf("%d of %d refusals are events", n, tries)
	}
	if w.gw.Stats().Denied != tries || len(w.gw.Denied()) != maxDenials {
		t.Errorf("%d denied, %d remembered", w.gw.Stats().Denied, len(w.gw.Denied()))
	}
}

// inspector does as its functions do.
type inspector struct {
	wants func(*Conn) bool
	serve func(ctx context.Context, c *Conn, guest GuestConn)
}

func (i inspector) Wants(c *Conn) bool                                  { return i.wants(c) }
func (i inspector) Serve(ctx context.Context, c *Conn, guest GuestConn) { i.serve(ctx, c, guest) }

func TestInspector(t *testing.T) {
	names := make(chan []string, 1)
	w := newWorld(t, Config{Strict: true, Inspector: inspector{func(*Conn) bool { return true }, func(ctx context.Context, c *Conn, guest GuestConn) {
		names <- c.Names
		head := make([]byte, 5)
		if _, err := io.ReadFull(guest, head); err != nil {
			t.Error(err)
			return
		}
		if string(head) == "false" {
			c.Deny("evil.example", policy.Verdict{Rule: 3, Reason: "rule 3: deny@evil.example"})
			return
		}
		c.SetName("good.example")
		c.Splice(head)
	}}})
	w.net.listen(t, "198.51.100.7:80", echo)
	c := w.mustDial(t, "198.51.100.7:80")
	_, _ = c.Write([]byte("hello, world"))
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello, world" {
		t.Errorf("%q, %v", b, err)
	}
	if f := w.gw.Flows(); len(f) != 1 || f[0].Name != "good.example" || f[0].Sent != 12 || f[0].Received != 12 {
		t.Errorf("%+v", f)
	}
	_ = c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	c.Close()
	<-names
	c = w.mustDial(t, "198.51.100.7:80")
	_, _ = c.Write([]byte("false"))
	if _, err := c.Read(b); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("%v, want a reset", err)
	}
	c.Close()
	<-names
	if d := w.gw.Denied(); len(d) != 1 || d[0].String() != "denied by policy: evil.example" || d[0].Rule != 3 {
		t.Errorf("%+v", d)
	}
	// A host that refuses is not inspected: the guest's connection is refused, too.
	mustRefuse(t, w.guest, "198.51.100.7:81")
}

func TestStrictWithoutInspector(t *testing.T) {
	g, _ := rawWorld(t, Config{Strict: true})
	by := policy.Verdict{Allowed: true, ByName: true, Reason: "rule 0: allow@a.example"}
	for _, p := range []policy.Proto{policy.TCP, policy.UDP, policy.ICMPv4} {
		if v := g.refine(g.terms.Load(), p, by); v.Allowed || !strings.Contains(v.Reason, "strict") {
			t.Errorf("%v: %+v", p, v)
		}
	}
	if v := g.refine(g.terms.Load(), policy.UDP, policy.Verdict{Allowed: true}); !v.Allowed {
		t.Error("an address rule is refused")
	}
}

func TestQUICIsRefused(t *testing.T) {
	w := newWorld(t, Config{BlockQUIC: []uint16{443}})
	w.net.listenUDP(t, "198.51.100.7:443", func(b []byte) []byte { return b })
	w.net.listenUDP(t, "198.51.100.7:444", func(b []byte) []byte { return b })
	untilRefused(w.dialUDP(t, "198.51.100.7:443"))
	c := w.dialUDP(t, "198.51.100.7:444")
	_, _ = c.Write([]byte("x"))
	if n, err := c.Read(make([]byte, 1)); n != 1 {
		t.Error(err)
	}
	if d := w.gw.Denied(); len(d) != 1 || !strings.Contains(d[0].Reason, "QUIC") {
		t.Errorf("%+v", d)
	}
}

// TestMany refuses TCP and UDP to many at once, which a stack would drop.
func TestMany(t *testing.T) {
	w := newWorld(t, Config{Policy: sandbox.NetworkPolicy{DefaultEgress: "allow"}})
	for _, to := range []string{"255.255.255.255:80", "172.16.0.7:80", "224.0.0.1:80", "[ff02::1]:80"} {
		mustRefuse(t, w.guest, to)
	}
	if d := w.gw.Denied(); len(d) != 1 || d[0].To.Addr().String() != "255.255.255.255" {
		t.Errorf("%v", d) // the others the policy allows, but nobody is there
	}
}
