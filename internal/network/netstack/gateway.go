// Package netstack is the network of one sandbox: a TCP/IP stack in user space behind the sandbox's link, which ends the
// guest's connections and opens them anew from the host, as far as the policy allows. It needs no privilege, no TAP and
// no network namespace.
//
// A [Pair] is made first; the driver gets the sentry's end, [New] the other. The [Gateway] then serves until its far end
// is gone (see [Gateway.Done]) or [Gateway.Close]. It keeps nothing for later: after a restore a new gateway on a new
// pair answers segments of connections it never saw with RST, so the guest's old connections end at once and new ones work.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Dialer opens the host's side of a connection. *net.Dialer is one. Connections that offer syscall.Conn cost less memory.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says what the gateway of one sandbox is like.
type Config struct {
	Link   *os.File              // the gateway's end of a Pair
	Ends   Ends                  // default: those of slot 1
	Policy sandbox.NetworkPolicy // the zero value denies everything

	// HostAddrs are addresses besides the gateway's that count as the host's own: the rules' group "host" is about them,
	// and "public" is not. Default: none.
	HostAddrs []netip.Addr

	DNS DNSConfig

	MaxConns int // TCP connections at once, in both directions, default 256; more are refused with RST
	MaxFlows int // UDP and echo flows at once, default 256; the one longest unused makes room

	Egress, Ingress *sandbox.RateLimit // default: none

	Publish *Listeners // what Listen made; default: nothing

	Inspector    Inspector // default: none
	Strict       bool      // rules about domains count only for connections that the Inspector has
	BlockQUIC    []uint16  // UDP ports that are refused, so that TLS on TCP is used, which can be intercepted
	InterceptDoT bool      // the Inspector has DNS over TLS, so the policy may allow it

	DialTimeout time.Duration // default 30 s; the guest's own time-out is usually longer
	Dialer      Dialer        // default: a net.Dialer, so from the network namespace of this process
	DialerError error         // of the Dialer's errors, those that are this have nothing to do with the address, and are told of
	// Ping opens the host's side of echoes: a connection that carries ICMP echo messages, header included. Default: a ping
	// socket where Dialer is the default too, else none.
	Ping   func(to netip.Addr) (net.Conn, error)
	Logger *slog.Logger // default: discards

	OnFlow  func(sandbox.Flow) // told of the begin and end of flows and of refusals, these at a bounded rate; must not wait
	OnEvent func(text string)  // told, in one line, what the sandbox's owner should know, at a bounded rate; default: the Logger is
}

// DNSConfig is how names are resolved (contract msb-0.6 §2.7).
type DNSConfig struct {
	Nameservers        []netip.AddrPort // default: those of ResolvConf
	ResolvConf         string           // default: /etc/resolv.conf, read at the first query
	Timeout            time.Duration    // default 5 s
	NoRebindProtection bool
	Dialer             Dialer // to the nameservers; default: Config.Dialer
}

// Gateway is a running gateway.
type Gateway struct {
	cfg      Config
	terms    atomic.Pointer[terms]
	log      *slog.Logger
	names    *dns.Resolver
	spares   *spares // nil where another's Dialer is used
	workers  *workers
	link     *link
	stack    *stack.Stack
	tcp      [len(windows)]*tcp.Forwarder
	largest  int          // index of the largest of windows that is used
	growth   atomic.Int32 // connections that may still have a large window
	denied   denials
	limits   [2]limit // by policy.Direction
	notes    limit    // of what is told of
	lastID   atomic.Uint64
	lastTold [troubles]atomic.Int64 // when it was, in nanoseconds

	ctx    context.Context // ends when the gateway goes down
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	stats  stats

	mu    sync.Mutex
	down  bool
	open  map[io.Closer]struct{} // the host's side of connections
	flows map[flowKey]*flow
	live  map[uint64]*entry
	conns int

	dnsInFlight atomic.Int32
	asked       asked
	lingerTime  time.Duration
}

type stats struct {
	conns, flows, denied, refused atomic.Uint64
	sent, received                atomic.Uint64
}

// Stats are counters since the start, for metrics.
type Stats struct {
	Conns, Flows       uint64 // TCP connections and flows of datagrams that were let through
	Denied             uint64 // by policy
	Refused            uint64 // for want of room
	Sent, Received     uint64 // payload bytes, from the guest's view
	TxPackets, TxBytes uint64 // what left the guest on its link, as a wire with its MTU would have had it
	RxPackets, RxBytes uint64 // what came to it
	Dropped            uint64 // frames that made no sense or came too late
	Open               int    // TCP connections now
}

// New starts a gateway. It takes over cfg.Link and cfg.Publish, also when it fails.
func New(cfg Config) (*Gateway, error) {
	g, err := start(cfg)
	if err != nil {
		if g != nil && g.cancel != nil {
			g.cancel()
		}
		if g != nil && g.link != nil {
			g.link.close()
			if g.stack != nil {
				g.stack.Destroy()
			}
			g.link.port.free()
		}
		if cfg.Link != nil {
			_ = cfg.Link.Close()
		}
		cfg.Publish.Close()
		return nil, fmt.Errorf("start the network gateway: %w", err)
	}
	return g, nil
}

func start(cfg Config) (*Gateway, error) {
	if cfg.Link == nil {
		return nil, os.ErrInvalid
	}
	if !cfg.Ends.Guest4.IsValid() {
		cfg.Ends, _ = Addresses(1)
	}
	cfg.MaxConns = orDefault(cfg.MaxConns, 256)
	cfg.MaxFlows = orDefault(cfg.MaxFlows, 256)
	cfg.DialTimeout = orDefault(cfg.DialTimeout, 30*time.Second)
	if cfg.Ping == nil {
		cfg.Ping = openPing
		if cfg.Dialer != nil {
			cfg.Ping = func(netip.Addr) (net.Conn, error) { return nil, errors.ErrUnsupported }
		}
	}
	var own *spares
	if cfg.Dialer == nil {
		cfg.Dialer = &net.Dialer{}
		own = newSpares()
	}
	if cfg.DNS.Dialer == nil {
		cfg.DNS.Dialer = cfg.Dialer
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(text string) { cfg.Logger.Warn(text) }
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Logger, spares: own, workers: newWorkers(),
		open:  map[io.Closer]struct{}{},
		flows: map[flowKey]*flow{},
		live:  map[uint64]*entry{},
		notes: newLimit(noteRate, time.Now()), lingerTime: lingerTime,
	}
	g.limits = [2]limit{newLimit(cfg.Egress, time.Now()), newLimit(cfg.Ingress, time.Now())}
	gateways := []netip.Addr{cfg.Ends.Gateway4, cfg.Ends.Gateway6}
	held, err := g.compile(cfg.Policy, cfg.Strict)
	if err != nil {
		return g, err
	}
	g.terms.Store(held)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.names = dns.New(dns.Config{
		Policy: livePolicy{g}, Gateway: gateways,
		Nameservers: cfg.DNS.Nameservers, ResolvConf: cfg.DNS.ResolvConf, Timeout: cfg.DNS.Timeout,
		NoRebindProtection: cfg.DNS.NoRebindProtection,
		Dial:               cfg.DNS.Dialer.DialContext,
		Denied:             g.denyName,
		Failed:             func(err error) { g.tellTrouble(noNameserver, "no nameserver answers: "+err.Error()) },
	})
	if g.link, err = newLink(cfg.Link, cfg.Ends); err != nil {
		return g, err
	}
	g.link.onDown, g.link.refuse, g.link.judge = g.goDown, g.refuseSpecial, g.judge
	if err := g.startStack(); err != nil {
		return g, err
	}
	g.publish(cfg.Publish)
	return g, nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Done is closed when the gateway serves no more: its far end is gone, or Close was called.
func (g *Gateway) Done() <-chan struct{} { return g.ctx.Done() }

// Close ends every connection and returns when all that the gateway started is gone. It may be called twice.
func (g *Gateway) Close() error {
	g.cancel()
	g.link.close() // first: what waits for the far end may have the host's sockets in use, and closing these waits for that
	g.goDown()
	g.stack.Close()
	g.tasks.Wait()
	g.workers.close()
	if g.spares != nil {
		g.spares.close()
	}
	g.stack.Wait()
	g.link.port.free()
	return nil
}

// goDown closes the host's side of every connection and lets nothing new start.
func (g *Gateway) goDown() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = true
	g.cancel()
	g.cfg.Publish.Close()
	for c := range g.open {
		_ = c.Close()
	}
	clear(g.open)
}

// begin asks to run a task that Close waits for; done ends it.
func (g *Gateway) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return false
	}
	g.tasks.Add(1)
	return true
}

// keep has c closed when the gateway goes down; the function that it returns closes it now. ok is false, and c closed,
// when the gateway is down already.
func (g *Gateway) keep(c io.Closer) (closeNow func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		_ = c.Close()
		return nil, false
	}
	g.open[c] = struct{}{}
	return func() {
		g.mu.Lock()
		delete(g.open, c)
		g.mu.Unlock()
		_ = c.Close()
	}, true
}

// dial opens the host's side of a connection to to. What is open on the gateway's own address is the host's loopback.
func (g *Gateway) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return g.cfg.Dialer.DialContext(ctx, network, g.onHost(to).String())
}

// onHost is where to is on this machine's side.
func (g *Gateway) onHost(to netip.AddrPort) netip.AddrPort {
	switch to.Addr() {
	case g.cfg.Ends.Gateway4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port())
	case g.cfg.Ends.Gateway6:
		return netip.AddrPortFrom(netip.IPv6Loopback(), to.Port())
	}
	return to
}

// terms are what the sandbox's traffic is held to at a time.
type terms struct {
	*policy.Policy
	strict bool // rules about domains count only for connections that the Inspector has
}

// check asks the policy about what the guest wants, and returns the names that it went by.
func (g *Gateway) check(t *terms, p policy.Proto, to netip.AddrPort) (policy.Verdict, []string) {
	names := g.names.Names(to.Addr())
	v := t.Check(policy.Egress, p, to, names)
	if v.Allowed && p == policy.UDP && slices.Contains(g.cfg.BlockQUIC, to.Port()) {
		return quicRefused, names
	}
	return g.refine(t, p, v), names
}

var quicRefused = policy.Verdict{Rule: policy.BuiltIn, Reason: "QUIC is refused where TLS is intercepted"}

// refine makes of a verdict what it is where names must be shown.
func (g *Gateway) refine(t *terms, p policy.Proto, v policy.Verdict) policy.Verdict {
	if v.Allowed && v.ByName && t.strict && (p != policy.TCP || g.cfg.Inspector == nil) {
		v.Allowed = false
		v.Reason += ", but strict: this traffic does not show its name"
	}
	return v
}

// allows asks the policy, and remembers a refusal.
func (g *Gateway) allows(p policy.Proto, guestPort uint16, to netip.AddrPort) bool {
	v, names := g.check(g.terms.Load(), p, to)
	if !v.Allowed {
		g.deny(policy.Egress, p, to, guestPort, first(names), v)
	}
	return v.Allowed
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// isDNS reports whether the resolver is to answer for to. With rules about domains it answers for every server, or a
// denied name could be had from another and an allowed one would not be known here.
func (g *Gateway) isDNS(to netip.AddrPort) bool {
	return to.Port() == 53 && (g.isGateway(to.Addr()) || g.terms.Load().UsesNames())
}

func (g *Gateway) isGateway(a netip.Addr) bool {
	return a == g.cfg.Ends.Gateway4 || a == g.cfg.Ends.Gateway6
}

// Stats returns the counters.
func (g *Gateway) Stats() Stats {
	g.mu.Lock()
	open := g.conns
	g.mu.Unlock()
	return Stats{
		Conns: g.stats.conns.Load(), Flows: g.stats.flows.Load(),
		Denied: g.stats.denied.Load(), Refused: g.stats.refused.Load(),
		Sent: g.stats.sent.Load(), Received: g.stats.received.Load(),
		TxPackets: g.link.in.packets.Load(), TxBytes: g.link.in.bytes.Load(),
		RxPackets: g.link.out.packets.Load(), RxBytes: g.link.out.bytes.Load(),
		Dropped: g.link.rxDropped.Load() + g.link.txDropped.Load(), Open: open,
	}
}

// farEnd is the address that the guest speaks to.
func farEnd(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
}

// addrOf converts an address, IPv4-mapped ones to what they stand for.
func addrOf(a tcpip.Address) netip.Addr {
	if a.Len() == 4 {
		return netip.AddrFrom4(a.As4())
	}
	return netip.AddrFrom16(a.As16()).Unmap()
}
