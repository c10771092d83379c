package netstack

import (
	"net/netip"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// Denial is one destination that was refused.
type Denial struct {
	First, Last time.Time
	Count       int
	Proto       string         // tcp, udp, icmpv4, icmpv6 or dns
	To          netip.AddrPort // invalid for dns
	Name        string         // the name that was asked for, or one that the address was resolved from
	Rule        int            // see policy.Verdict
	Reason      string         // the policy's, e.g. "rule 2: deny@private"
}

// String is the event's text, e.g. "denied by policy: 10.0.0.1:80".
func (d Denial) String() string {
	if d.Name != "" {
		return "denied by policy: " + d.Name
	}
	return "denied by policy: " + d.To.String()
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
}

// add reports whether the refusal is worth a line in the log, and how many were not since the last that was.
func (ds *denials) add(d Denial, now time.Time) (log bool, suppressed int) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for i := range ds.ring {
		if e := &ds.ring[i]; e.Proto == d.Proto && e.To == d.To && e.Name == d.Name {
			e.Count++
			e.Last = now
			return false, 0
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
		return false, 0
	}
	suppressed, ds.suppressed, ds.lastLog = ds.suppressed, 0, now
	return true, suppressed
}

// Denied returns the latest destinations that were refused, oldest first, 64 at most.
func (g *Gateway) Denied() []Denial {
	ds := &g.denied
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return append(append([]Denial(nil), ds.ring[ds.next:]...), ds.ring[:ds.next]...)
}

func (g *Gateway) deny(p policy.Proto, to netip.AddrPort, name string, v policy.Verdict) {
	g.report(Denial{Proto: p.String(), To: to, Name: name, Rule: v.Rule, Reason: v.Reason})
}

func (g *Gateway) denyName(name string, v policy.Verdict) {
	g.report(Denial{Proto: "dns", Name: name, Rule: v.Rule, Reason: v.Reason})
}

func (g *Gateway) report(d Denial) {
	g.stats.denied.Add(1)
	if log, suppressed := g.denied.add(d, time.Now()); log {
		g.log.Warn("connection refused", "reason", d.String(), "proto", d.Proto, "rule", d.Rule, "because", d.Reason, "suppressed", suppressed)
	}
}
