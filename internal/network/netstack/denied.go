package netstack

import (
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Denial is one destination that was refused.
type Denial struct {
	First, Last time.Time
	Count       int
	Direction   policy.Direction
	Proto       string         // tcp, udp, icmpv4, icmpv6 or dns
	To          netip.AddrPort // the far end; invalid for dns
	GuestPort   uint16
	Name        string // the name that was asked for, or one that the address was resolved from
	Rule        int    // see policy.Verdict
	Reason      string // the policy's, e.g. "rule 2: deny@private"
}

// String is the event's text, e.g. "denied by policy: 10.0.0.1:80".
func (d Denial) String() string { return d.Flow().Denied() }

// Flow is the refusal in the flow log's form.
func (d Denial) Flow() sandbox.Flow {
	f := sandbox.Flow{Time: d.Last.UTC(), Event: sandbox.FlowDeny, Protocol: d.Proto, Direction: d.Direction.String(), GuestPort: d.GuestPort,
		Name: d.Name, Verdict: sandbox.Deny, Rule: d.Rule, Reason: d.Reason, Count: d.Count}
	switch {
	case d.To.Port() == 0 && d.To.IsValid():
		f.Peer = d.To.Addr().String()
	case d.To.IsValid():
		f.Peer = d.To.String()
	}
	return f
}

// maxDenials is how many destinations are remembered, and logEvery how often a new one may be logged: the guest
// decides how many it tries.
const (
	maxDenials = 64
	logEvery   = 100 * time.Millisecond
)

// denials is a ring of the latest refusals, one entry per destination.
type denials struct {
	mu         sync.Mutex
	ring       []Denial
	next       int
	lastLog    time.Time
	suppressed int
	untold     atomic.Int64 // to Config.OnFlow
}

// add reports whether the refusal is the first of its kind and worth a line in the log, how many were not since the last
// that was, and the refusal with its count.
func (ds *denials) add(d Denial, now time.Time) (log bool, suppressed int, counted Denial) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for i := range ds.ring {
		if e := &ds.ring[i]; e.Proto == d.Proto && e.To == d.To && e.Name == d.Name {
			e.Count++
			e.Last = now
			return false, 0, *e
		}
	}
	d.First, d.Last, d.Count = now, now, 1
	if len(ds.ring) < maxDenials {
		ds.ring = append(ds.ring, d)
	} else {
		ds.ring[ds.next] = d
		ds.next = (ds.next + 1) % maxDenials
	}
	if now.Sub(ds.lastLog) < logEvery && len(ds.ring) > maxDenials/4 {
		ds.suppressed++
		return false, 0, d
	}
	suppressed, ds.suppressed, ds.lastLog = ds.suppressed, 0, now
	return true, suppressed, d
}

// Denied returns the latest destinations that were refused, oldest first, 64 at most.
func (g *Gateway) Denied() []Denial {
	ds := &g.denied
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return append(append([]Denial(nil), ds.ring[ds.next:]...), ds.ring[:ds.next]...)
}

func (g *Gateway) deny(dir policy.Direction, p policy.Proto, peer netip.AddrPort, guestPort uint16, name string, v policy.Verdict) {
	if name == "" && dir == policy.Egress && g.isGateway(peer.Addr()) {
		name = sandbox.HostName
	}
	g.report(Denial{Direction: dir, Proto: p.String(), To: peer, GuestPort: guestPort, Name: printable(name), Rule: v.Rule, Reason: v.Reason})
}

func (g *Gateway) denyName(name string, v policy.Verdict) {
	g.report(Denial{Proto: "dns", Name: printable(name), Rule: v.Rule, Reason: v.Reason})
}

// The guest decides how often it is refused: so many are told of per second, and so many at once.
var noteRate = &sandbox.RateLimit{Ops: &sandbox.TokenBucket{Size: 20, RefillTimeMS: 1000, OneTimeBurst: 200}}

func (g *Gateway) report(d Denial) {
	g.stats.denied.Add(1)
	log, suppressed, d := g.denied.add(d, time.Now())
	if log {
		line := d.line()
		if suppressed > 0 {
			line += ", and " + strconv.Itoa(suppressed) + " other destinations before"
		}
		g.cfg.OnEvent(line)
	}
	if g.cfg.OnFlow == nil {
		return
	}
	if !g.notes.admit(1) {
		g.denied.untold.Add(1)
		return
	}
	f := d.Flow()
	f.Suppressed = int(g.denied.untold.Swap(0))
	g.tell(f)
}

// line is the refusal for the system log: "denied by policy: example.org (tcp 93.184.216.34:443, rule 2: deny@any)".
func (d Denial) line() string {
	what := d.Proto
	if f := d.Flow(); f.Peer != "" && (d.Name != "" || d.Direction == policy.Ingress) {
		what += " " + f.Peer
	}
	if d.Direction == policy.Ingress {
		what = "from outside to port " + strconv.Itoa(int(d.GuestPort)) + ", " + what
	}
	return d.String() + " (" + what + ", " + d.Reason + ")"
}
