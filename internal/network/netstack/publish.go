package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Listeners are the sockets of published ports. They are made before the sandbox starts, so that a port that cannot be had
// is known at once, and given to New, which closes them with the gateway.
type Listeners struct {
	list []listener
}

type listener struct {
	port   sandbox.Port // HostPort is the one that was had
	stream net.Listener
	packet net.PacketConn
}

// Listen makes the sockets for ports on this machine. Kind: InvalidConfig when a port is taken or not to be had.
func Listen(ports []sandbox.Port) (*Listeners, error) {
	ls := &Listeners{}
	for _, p := range ports {
		l, err := listen(p)
		if err != nil {
			ls.Close()
			return nil, portError(p, err)
		}
		ls.list = append(ls.list, l)
	}
	return ls, nil
}

func listen(p sandbox.Port) (listener, error) {
	l := listener{port: p}
	bind, err := netip.ParseAddr(p.Bind())
	if err != nil {
		return l, err
	}
	network, address := p.Protocol, netip.AddrPortFrom(bind, p.HostPort).String()
	if bind.Is6() {
		network += "6" // [::] is all of IPv6 and no IPv4
	} else {
		network += "4"
	}
	var own net.Addr
	if p.Protocol == sandbox.PortUDP {
		if l.packet, err = net.ListenPacket(network, address); err != nil {
			return l, err
		}
		own = l.packet.LocalAddr()
	} else {
		if l.stream, err = net.Listen(network, address); err != nil {
			return l, err
		}
		own = l.stream.Addr()
	}
	at, err := netip.ParseAddrPort(own.String())
	l.port.HostPort = at.Port()
	return l, err
}

func portError(p sandbox.Port, err error) error {
	e := &sandbox.Error{Op: "publish", Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("port %s cannot be published", p), Err: err}
	where := net.JoinHostPort(p.Bind(), strconv.Itoa(int(p.HostPort))) + "/" + p.Protocol
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		e.Message, e.Err = where+" of this machine is in use", nil
		e.Hint = "choose another port, or 0 for any that is free"
	case errors.Is(err, unix.EACCES):
		e.Message, e.Err = where+" of this machine is only for root", nil
		e.Hint = "choose a port from 1024 on, or 0 for any that is free"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		e.Message, e.Err = p.Bind()+" is no address of this machine", nil
		e.Hint = "bind to one that it has, or to 0.0.0.0 or [::] for all"
	}
	return e
}

// Ports returns what is published, with the ports that were had.
func (ls *Listeners) Ports() []sandbox.Port {
	if ls == nil {
		return nil
	}
	ports := make([]sandbox.Port, len(ls.list))
	for i, l := range ls.list {
		ports[i] = l.port
	}
	return ports
}

// Close closes the sockets. It may be called twice.
func (ls *Listeners) Close() {
	if ls == nil {
		return
	}
	for _, l := range ls.list {
		if l.stream != nil {
			_ = l.stream.Close()
		}
		if l.packet != nil {
			_ = l.packet.Close()
		}
	}
}

// publish serves the listeners until they are closed.
func (g *Gateway) publish(ls *Listeners) {
	if ls == nil {
		return
	}
	for _, l := range ls.list {
		if !g.begin() {
			return
		}
		if l.packet != nil {
			go g.publishUDP(l)
		} else {
			go g.publishTCP(l)
		}
	}
}

// acceptPause is how long nobody is accepted after that failed.
const acceptPause = 50 * time.Millisecond

func (g *Gateway) publishTCP(l listener) {
	defer g.tasks.Done()
	for {
		conn, err := l.stream.Accept()
		switch {
		case err == nil:
			if !g.begin() {
				_ = conn.Close()
				return
			}
			go func() {
				defer g.tasks.Done()
				g.serveInbound(l.port, conn)
			}()
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of file descriptors, perhaps: there will be some again
			g.log.Warn("accept at a published port", "port", l.port.String(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-g.ctx.Done():
				return
			}
		}
	}
}

// serveInbound carries one connection from outside to the guest. It was accepted before anything was asked, as the kernel
// does it; a refusal, by the policy or by the guest, is a RST.
func (g *Gateway) serveInbound(p sandbox.Port, host net.Conn) {
	closeHost, ok := g.keep(host)
	if !ok {
		return
	}
	defer closeHost()
	v, peer := g.checkInbound(policy.TCP, p, host.RemoteAddr())
	if !v.Allowed {
		g.deny(policy.Ingress, policy.TCP, peer, p.GuestPort, "", v)
		reset(host)
		return
	}
	if !g.takeConn() {
		g.full("connections", g.cfg.MaxConns)
		reset(host)
		return
	}
	defer g.freeConn()
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.DialTimeout)
	ep, queue, err := g.dialGuest(ctx, p)
	cancel()
	if err != nil {
		reset(host)
		return
	}
	e := g.newEntry(policy.Ingress, policy.TCP, p.GuestPort, peer, nil, v)
	if !g.begun(e, ep.Abort) {
		ep.Abort()
		reset(host)
		return
	}
	defer g.ended(e)
	g.stats.conns.Add(1)
	r := &relay{g: g, e: e, guest: ep, queue: queue, host: host}
	r.run()
}

// checkInbound asks the policy whether who comes from outside may.
func (g *Gateway) checkInbound(proto policy.Proto, p sandbox.Port, from net.Addr) (policy.Verdict, netip.AddrPort) {
	peer, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return policy.Verdict{Rule: policy.BuiltIn, Reason: "not an address"}, peer
	}
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	return g.terms.Load().Check(policy.Ingress, proto, netip.AddrPortFrom(peer.Addr(), p.GuestPort), nil), peer
}

// guestAddrs are the guest's addresses in the order in which a published port tries them: first that of the kind that it
// was bound to.
func (g *Gateway) guestAddrs(p sandbox.Port) [2]netip.Addr {
	e := g.cfg.Ends
	if bind, err := netip.ParseAddr(p.Bind()); err == nil && bind.Is6() {
		return [2]netip.Addr{e.Guest6, e.Guest4}
	}
	return [2]netip.Addr{e.Guest4, e.Guest6}
}

// dialGuest connects to a port of the guest from the gateway's address.
func (g *Gateway) dialGuest(ctx context.Context, p sandbox.Port) (tcpip.Endpoint, *waiter.Queue, error) {
	var err error
	for _, a := range g.guestAddrs(p) {
		var ep tcpip.Endpoint
		queue := new(waiter.Queue)
		if ep, err = g.connect(ctx, netip.AddrPortFrom(a, p.GuestPort), queue); err == nil {
			return ep, queue, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return nil, nil, err
}

func (g *Gateway) connect(ctx context.Context, to netip.AddrPort, queue *waiter.Queue) (tcpip.Endpoint, error) {
	ep, terr := g.stack.NewEndpoint(tcp.ProtocolNumber, netProto(to.Addr()), queue)
	if terr != nil {
		return nil, errors.New(terr.String())
	}
	entry, done := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	terr = ep.Bind(tcpip.FullAddress{NIC: nicID, Addr: addressOf(g.gatewayFor(to.Addr()))})
	if terr == nil {
		terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: addressOf(to.Addr()), Port: to.Port()})
	}
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-done:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		}
	}
	switch terr.(type) {
	case nil:
		return ep, nil
	case *tcpip.ErrConnectionRefused:
		ep.Close()
		return nil, syscall.ECONNREFUSED
	}
	ep.Close()
	return nil, errors.New(terr.String())
}

func netProto(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
