package netstack

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// entry is a flow in the table: what is known of it, and how to end it.
type entry struct {
	id        uint64
	dir       policy.Direction
	proto     policy.Proto
	guestPort uint16
	peer      netip.AddrPort
	names     []string // what the policy went by
	began     time.Time
	inspected bool // the Inspector has it, and
	strict    bool // held it to showing its name

	sent, received atomic.Uint64

	mu      sync.Mutex
	name    string
	shown   string // the host that it said itself it speaks to
	verdict policy.Verdict
	abort   func() // nil until it began
}

// newEntry makes an entry that is not in the table yet.
func (g *Gateway) newEntry(d policy.Direction, p policy.Proto, guestPort uint16, peer netip.AddrPort, names []string, v policy.Verdict) *entry {
	e := &entry{id: g.lastID.Add(1), dir: d, proto: p, guestPort: guestPort, peer: peer, names: names, verdict: v, began: time.Now()}
	if len(names) > 0 {
		e.name = names[0]
	}
	return e
}

func (e *entry) setName(name string) {
	name = printable(name)
	e.mu.Lock()
	e.name, e.shown = name, name
	e.mu.Unlock()
}

func (e *entry) nameNow() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.name
}

func (e *entry) refuse(v policy.Verdict) {
	e.mu.Lock()
	e.verdict = v
	e.mu.Unlock()
}

// printable makes of what the guest said a name that can be shown.
func printable(s string) string {
	if len(s) > 253 {
		s = s[:253]
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}

// begun puts e in the table and tells of it. It is false when the policy that allowed e has changed and now denies it.
func (g *Gateway) begun(e *entry, abort func()) bool {
	g.mu.Lock()
	e.abort = abort
	g.live[e.id] = e
	g.mu.Unlock()
	// A policy that was set before this is seen here; one that is set from now on finds e in the table.
	if v := g.recheck(e); !v.Allowed {
		g.mu.Lock()
		delete(g.live, e.id)
		g.mu.Unlock()
		g.deny(e.dir, e.proto, e.peer, e.guestPort, e.nameNow(), v)
		return false
	}
	g.tell(e.flow(sandbox.FlowOpen))
	return true
}

// ended takes e out of the table and tells of it.
func (g *Gateway) ended(e *entry) {
	g.mu.Lock()
	delete(g.live, e.id)
	g.mu.Unlock()
	g.tell(e.flow(sandbox.FlowClose))
}

// recheck asks today's policy about e, by the names of when it began and the one that it showed since. What rules about names
// may deny and nobody has looked into, or not as strictly as is asked for now, is denied: nobody can say what it is.
func (g *Gateway) recheck(e *entry) policy.Verdict {
	held := g.terms.Load()
	v := g.refine(held, e.proto, held.Check(e.dir, e.proto, e.target(), e.names))
	if !v.Allowed || e.dir != policy.Egress || e.proto != policy.TCP || g.cfg.Inspector == nil {
		return v
	}
	e.mu.Lock()
	shown := policy.CanonicalName(e.shown)
	e.mu.Unlock()
	if shown != "" {
		v = held.CheckAuthority(e.proto, e.peer, shown, slices.Contains(e.names, shown))
	}
	switch deny, may := held.MayDenyName(e.proto, e.peer, v); {
	case !v.Allowed:
	case v.ByName && held.strict && !e.strict:
		v.Allowed, v.Reason = false, v.Reason+", but strict: it began before that"
	case may && !e.inspected:
		v = deny
		v.Reason += ", and nobody saw whom this connection speaks to"
	}
	return v
}

// target is what the policy is asked about: the far end, with the sandbox's own port if that is where it comes in.
func (e *entry) target() netip.AddrPort {
	if e.dir == policy.Ingress {
		return netip.AddrPortFrom(e.peer.Addr(), e.guestPort)
	}
	return e.peer
}

func (e *entry) flow(event string) sandbox.Flow {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := flowOf(e.dir, e.proto, e.guestPort, e.peer, e.name, e.verdict)
	f.Event, f.ID, f.Time = event, e.id, e.began
	f.Sent, f.Received = e.sent.Load(), e.received.Load()
	if event != sandbox.FlowOpen {
		now := time.Now()
		f.DurationMS = now.Sub(e.began).Milliseconds()
		if event == sandbox.FlowClose {
			f.Time = now
		}
	}
	f.Time = f.Time.UTC()
	return f
}

func flowOf(d policy.Direction, p policy.Proto, guestPort uint16, peer netip.AddrPort, name string, v policy.Verdict) sandbox.Flow {
	f := sandbox.Flow{Protocol: p.String(), Direction: d.String(), GuestPort: guestPort, Name: name, Verdict: sandbox.Deny, Rule: v.Rule, Reason: v.Reason}
	if v.Allowed {
		f.Verdict = sandbox.Allow
	}
	if peer.IsValid() {
		f.Peer = peer.String()
		if p == policy.ICMPv4 || p == policy.ICMPv6 {
			f.Peer, f.GuestPort = peer.Addr().String(), 0
		}
	}
	return f
}

// Flows returns what goes on now, the oldest first.
func (g *Gateway) Flows() []sandbox.Flow {
	g.mu.Lock()
	entries := make([]*entry, 0, len(g.live))
	for _, e := range g.live {
		entries = append(entries, e)
	}
	g.mu.Unlock()
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	flows := make([]sandbox.Flow, len(entries))
	for i, e := range entries {
		flows[i] = e.flow(sandbox.FlowLive)
	}
	return flows
}

// count adds n payload bytes to a flow and the totals.
func (g *Gateway) count(e *entry, d policy.Direction, n int) {
	if n <= 0 {
		return
	}
	if d == policy.Egress {
		g.stats.sent.Add(uint64(n))
		e.sent.Add(uint64(n))
		return
	}
	g.stats.received.Add(uint64(n))
	e.received.Add(uint64(n))
}

func (g *Gateway) tell(f sandbox.Flow) {
	if g.cfg.OnFlow != nil {
		g.cfg.OnFlow(f)
	}
}

// note tells of something in one line, unless too much is told of already.
func (g *Gateway) note(text string) {
	if g.notes.admit(1) {
		g.cfg.OnEvent(text)
	}
}

// trouble is what goes wrong and is not the policy's doing. The guest decides how often, so of each kind one is told of in a minute.
type trouble int

const (
	noRoom trouble = iota
	noPing
	noNameserver
	noDialer
	troubles
)

// tellAgain is how long after a trouble was told of it is not told of again.
const tellAgain = int64(time.Minute)

func (g *Gateway) tellTrouble(t trouble, text string) {
	now, last := time.Now().UnixNano(), g.lastTold[t].Load()
	if (last == 0 || now-last > tellAgain) && g.lastTold[t].CompareAndSwap(last, now) {
		g.note(text)
	}
}

// full counts a refusal for want of room, and tells of it now and then.
func (g *Gateway) full(what string, most int) {
	g.stats.refused.Add(1)
	g.tellTrouble(noRoom, fmt.Sprintf("no room for more than %d %s at the same time; more with --max-connections", most, what))
}

// SetPolicy puts p in the place of the policy and strict in that of Config.Strict, for what begins from now on and for what
// goes on: what they deny is cut off. Names that were resolved stay known. Kind: InvalidConfig, and then nothing changes.
func (g *Gateway) SetPolicy(p sandbox.NetworkPolicy, strict bool) error {
	held, err := g.compile(p, strict)
	if err != nil {
		return err
	}
	g.terms.Store(held)
	g.names.Forget()
	g.mu.Lock()
	entries := make([]*entry, 0, len(g.live))
	for _, e := range g.live {
		entries = append(entries, e)
	}
	g.mu.Unlock()
	for _, e := range entries {
		if v := g.recheck(e); !v.Allowed {
			e.refuse(v)
			g.deny(e.dir, e.proto, e.peer, e.guestPort, e.nameNow(), v)
			e.abort()
		}
	}
	return nil
}

func (g *Gateway) compile(p sandbox.NetworkPolicy, strict bool) (*terms, error) {
	c, err := policy.New(p, append([]netip.Addr{g.cfg.Ends.Gateway4, g.cfg.Ends.Gateway6}, g.cfg.HostAddrs...)...)
	if err != nil {
		return nil, err
	}
	if g.cfg.InterceptDoT {
		c = c.WithDoT()
	}
	return &terms{c, strict}, nil
}

// livePolicy is the gateway's policy as the resolver asks it.
type livePolicy struct{ g *Gateway }

func (p livePolicy) CheckName(name string) policy.Verdict { return p.g.terms.Load().CheckName(name) }
func (p livePolicy) AllowsAnswer(a netip.Addr) bool       { return p.g.terms.Load().AllowsAnswer(a) }
