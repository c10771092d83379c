package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// inbound is a published UDP port: for each peer a socket of the gateway's towards the guest, as long as something passes.
type inbound struct {
	g    *Gateway
	port sandbox.Port
	host net.PacketConn

	mu    sync.Mutex
	peers map[netip.AddrPort]*peer
}

// peer is one of outside who sends to a published port.
type peer struct {
	in    *inbound
	addr  netip.AddrPort
	e     *entry
	guest *gonet.UDPConn

	mu   sync.Mutex
	last time.Time
}

func (g *Gateway) publishUDP(l listener) {
	defer g.tasks.Done()
	in := &inbound{g: g, port: l.port, host: l.packet, peers: map[netip.AddrPort]*peer{}}
	buf := make([]byte, 64<<10)
	for {
		n, from, err := l.packet.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.log.Warn("receive at a published port", "port", l.port.String(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-g.ctx.Done():
			}
			continue
		}
		in.receive(from, buf[:n])
	}
}

// receive passes a datagram on to the guest. One that is refused is dropped: the kernel has taken it already.
func (in *inbound) receive(from net.Addr, data []byte) {
	g := in.g
	v, addr := g.checkInbound(policy.UDP, in.port, from)
	in.mu.Lock()
	p := in.peers[addr]
	in.mu.Unlock()
	if !v.Allowed {
		if addr.IsValid() {
			g.deny(policy.Ingress, policy.UDP, addr, in.port.GuestPort, "", v)
		}
		return
	}
	if p == nil {
		if p = in.admit(addr, v); p == nil {
			return
		}
	}
	if !g.limits[policy.Ingress].admit(len(data)) {
		return
	}
	p.touch()
	if _, err := p.guest.Write(data); err == nil {
		g.count(p.e, policy.Ingress, len(data))
	}
}

// admit opens a socket towards the guest for a new peer; nil: there is no room, or the gateway is down.
func (in *inbound) admit(addr netip.AddrPort, v policy.Verdict) *peer {
	g := in.g
	in.mu.Lock()
	full := len(in.peers) >= g.cfg.MaxFlows
	in.mu.Unlock()
	if full {
		g.full("flows of datagrams", g.cfg.MaxFlows)
		return nil
	}
	a := g.guestAddrs(in.port)[0]
	local := tcpip.FullAddress{NIC: nicID, Addr: addressOf(g.gatewayFor(a))}
	remote := tcpip.FullAddress{NIC: nicID, Addr: addressOf(a), Port: in.port.GuestPort}
	conn, err := gonet.DialUDP(g.stack, &local, &remote, netProto(a))
	if err != nil {
		return nil
	}
	closeNow, ok := g.keep(conn)
	if !ok || !g.begin() {
		if ok {
			closeNow()
		}
		return nil
	}
	p := &peer{in: in, addr: addr, guest: conn, last: time.Now(), e: g.newEntry(policy.Ingress, policy.UDP, in.port.GuestPort, addr, nil, v)}
	if !g.begun(p.e, func() { _ = conn.Close() }) {
		closeNow()
		g.tasks.Done()
		return nil
	}
	g.stats.flows.Add(1)
	in.mu.Lock()
	in.peers[addr] = p
	in.mu.Unlock()
	go func() {
		defer g.tasks.Done()
		defer g.ended(p.e)
		defer closeNow()
		p.answer()
		in.mu.Lock()
		delete(in.peers, addr)
		in.mu.Unlock()
	}()
	return p
}

func (p *peer) touch() {
	p.mu.Lock()
	p.last = time.Now()
	p.mu.Unlock()
}

func (p *peer) lastUse() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// answer passes on what the guest sends to the peer, until nothing has passed for flowTimeout.
func (p *peer) answer() {
	g := p.in.g
	to := net.UDPAddrFromAddrPort(p.addr)
	buf := make([]byte, 64<<10)
	for {
		if p.guest.SetReadDeadline(p.lastUse().Add(flowTimeout)) != nil {
			return
		}
		n, err := p.guest.Read(buf)
		switch {
		case err == nil:
			p.touch()
			if !g.limits[policy.Egress].admit(n) {
				continue
			}
			if _, err := p.in.host.WriteTo(buf[:n], to); err == nil {
				g.count(p.e, policy.Egress, n)
			}
		case errors.Is(err, os.ErrDeadlineExceeded) || isTimeout(err):
			if time.Since(p.lastUse()) >= flowTimeout {
				return
			}
		case isRefused(err): // nobody listens in the guest yet
		default:
			return
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// isRefused reports whether the guest said that nobody listens; gonet has no type for it.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Err != nil && op.Err.Error() == (&tcpip.ErrConnectionRefused{}).String()
}
