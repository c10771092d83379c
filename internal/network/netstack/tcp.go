package netstack

import (
	"context"
	"errors"
	"net"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// handleTCP gets the segments that belong to no connection. What it does not take, the stack answers with RST: that is
// how a denied connection is refused, and how the guest learns that one from before a restore is gone.
// It runs in the link's reader and must not wait.
func (g *Gateway) handleTCP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize {
		return true
	}
	if f := h.Flags(); !f.Contains(header.TCPFlagSyn) || f.Contains(header.TCPFlagAck) {
		return false
	}
	if !g.allows(policy.TCP, id.RemotePort, farEnd(id)) {
		return false
	}
	g.mu.Lock()
	open := g.conns
	g.mu.Unlock()
	for i := g.largest; i < len(windows); i++ {
		if open < windows[i].below {
			return g.tcp[i].HandlePacket(id, pkt)
		}
	}
	return false
}

// forward has a worker take the connection that is asked for; a forwarder calls it in a goroutine of its own.
func (g *Gateway) forward(req *tcp.ForwarderRequest, buffer int) {
	if !g.begin() {
		req.Complete(false)
		return
	}
	g.workers.run(func() {
		defer g.tasks.Done()
		g.acceptTCP(req, buffer)
	})
}

// acceptTCP opens the host's side of a connection, then completes the handshake with the guest: a refusal there is one here.
// buffer is the size, in bytes, of what is received.
func (g *Gateway) acceptTCP(req *tcp.ForwarderRequest, buffer int) {
	if !g.takeConn() {
		g.full("connections", g.cfg.MaxConns)
		req.Complete(true)
		return
	}
	defer g.freeConn()

	to := farEnd(req.ID())
	if g.isDNS(to) {
		g.serveDNS(req)
		return
	}
	held := g.terms.Load()
	v, names := g.check(held, policy.TCP, to)
	if !v.Allowed { // by a policy that was set since the SYN
		req.Complete(true)
		return
	}
	e := g.newEntry(policy.Egress, policy.TCP, req.ID().RemotePort, to, names, v)
	c := g.toInspect(held, e, names, v)
	if c == nil && g.cfg.Inspector != nil && (v.ByName && held.strict || to.Port() == 853) {
		v.Allowed, v.Reason = false, v.Reason+", but nobody looks into it"
		g.deny(policy.Egress, policy.TCP, to, e.guestPort, first(names), v)
		req.Complete(true)
		return
	}
	var host net.Conn
	if c == nil || to.Port() != 853 {
		var closeHost func()
		var err error
		host, closeHost, err = g.dialTCP(to)
		if err != nil {
			// After a time-out the guest's next SYN tries again.
			req.Complete(!errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, net.ErrClosed))
			return
		}
		defer closeHost()
	}

	var queue waiter.Queue
	ep, terr := req.CreateEndpoint(&queue)
	req.Complete(terr != nil && !wasAsked(terr))
	if terr != nil {
		reset(host)
		return
	}
	ep.SocketOptions().SetReceiveBufferSize(int64(buffer), false)
	if g.spares != nil {
		g.spares.prepare(to.Addr().Is6())
	}
	g.stats.conns.Add(1)
	if !g.begun(e, ep.Abort) {
		reset(host)
		ep.Abort()
		return
	}
	defer g.ended(e)
	if c != nil {
		c.Host, c.ep, c.queue = host, ep, &queue
		g.inspect(c)
		return
	}
	r := &relay{g: g, e: e, guest: ep, queue: &queue, host: host}
	r.run()
}

// toInspect returns the connection as the inspector gets it, or nil if there is none who wants it.
func (g *Gateway) toInspect(held *terms, e *entry, names []string, v policy.Verdict) *Conn {
	if g.cfg.Inspector == nil {
		return nil
	}
	c := &Conn{To: e.peer, Names: names, Verdict: v, Strict: held.strict, g: g, e: e}
	if !g.cfg.Inspector.Wants(c) {
		return nil
	}
	e.inspected, e.strict = true, held.strict
	return c
}

func (g *Gateway) takeConn() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns >= g.cfg.MaxConns {
		return false
	}
	g.conns++
	return true
}

func (g *Gateway) freeConn() {
	g.mu.Lock()
	g.conns--
	g.mu.Unlock()
}

// wasAsked reports whether a connection could not be made because there is one: the guest, which waited, asked again, and its first request
// was the other forwarder's. A reset would hit that.
func wasAsked(err tcpip.Error) bool {
	_, ok := err.(*tcpip.ErrPortInUse)
	return ok
}

// serveDNS answers queries over TCP.
func (g *Gateway) serveDNS(req *tcp.ForwarderRequest) {
	var queue waiter.Queue
	ep, terr := req.CreateEndpoint(&queue)
	req.Complete(terr != nil && !wasAsked(terr))
	if terr != nil {
		return
	}
	conn := gonet.NewTCPConn(&queue, ep)
	defer g.linger(ep, &queue)
	stop := context.AfterFunc(g.ctx, ep.Abort)
	defer stop()
	g.names.Serve(g.ctx, conn)
}

// reset makes closing conn send RST, where it can.
func reset(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
}
