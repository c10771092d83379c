package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// Inspector looks into TCP connections that the policy allowed so far.
type Inspector interface {
	// Wants reports whether Serve is to have the connection. It is called before anything is dialled for it, and must not wait.
	Wants(c *Conn) bool
	// Serve has the connection until it returns. Both sides are open: a host that refuses did so before. What is still open
	// then is closed, the guest's side with a FIN unless Conn.Abort came before.
	Serve(ctx context.Context, c *Conn, guest GuestConn)
}

// GuestConn is the guest's side of a connection.
type GuestConn interface {
	net.Conn
	CloseWrite() error
}

// Conn is one TCP connection of the guest in the hands of an Inspector.
type Conn struct {
	To      netip.AddrPort // where the guest wants to go
	Names   []string       // what this sandbox was told that To's address is for, lower case
	Verdict policy.Verdict // the policy's by these names: it allows
	Strict  bool           // a rule about a domain counts only for names that the connection itself shows
	Host    net.Conn       // to To; nil before Serve, and for DNS over TLS

	g     *Gateway
	e     *entry
	ep    tcpip.Endpoint
	queue *waiter.Queue
}

// inspect gives a connection to the inspector. It owns nothing of c.
func (g *Gateway) inspect(c *Conn) {
	stop := context.AfterFunc(g.ctx, c.ep.Abort)
	defer stop()
	conn := &guestConn{TCPConn: gonet.NewTCPConn(c.queue, c.ep), g: g, e: c.e}
	defer g.linger(c.ep, c.queue)
	host := c.Host
	g.cfg.Inspector.Serve(g.ctx, c, conn)
	if host != nil {
		_ = host.Close()
	}
}

// Policy is today's policy, to ask it more than Check does.
func (c *Conn) Policy() *policy.Policy { return c.g.terms.Load().Policy }

// Check asks today's policy about the connection under other names, e.g. one that it showed itself.
func (c *Conn) Check(names ...string) policy.Verdict {
	canonical := make([]string, len(names))
	for i, n := range names {
		canonical[i] = policy.CanonicalName(n)
	}
	return c.g.terms.Load().Check(policy.Egress, policy.TCP, c.To, canonical)
}

// Deny tells of the connection as one that was refused, and aborts it.
func (c *Conn) Deny(name string, v policy.Verdict) {
	c.SetName(name)
	c.e.refuse(v)
	c.g.deny(policy.Egress, policy.TCP, c.To, c.e.guestPort, c.e.nameNow(), v)
	c.Abort()
}

// SetName says what the connection is to be called where it is shown.
func (c *Conn) SetName(name string) {
	if name != "" {
		c.e.setName(name)
	}
}

// Note tells of something that the inspector saw, in one line.
func (c *Conn) Note(text string) { c.g.note(text) }

// Abort sends the guest a RST.
func (c *Conn) Abort() { c.ep.Abort() }

// ServeDNS answers the queries on conn, framed as over TCP.
func (c *Conn) ServeDNS(ctx context.Context, conn net.Conn) { c.g.names.Serve(ctx, conn) }

// Splice sends head, which was read from the guest, to the host, and then copies both ways until both have ended. The end
// of each direction is passed on as it came.
func (c *Conn) Splice(head []byte) {
	for len(head) > 0 {
		n, err := c.Host.Write(head)
		if head = head[n:]; err != nil {
			c.Abort()
			return
		}
	}
	r := &relay{g: c.g, e: c.e, guest: c.ep, queue: c.queue, host: c.Host}
	r.run()
}

// guestConn counts what passes, and holds it to the limits.
type guestConn struct {
	*gonet.TCPConn
	g *Gateway
	e *entry
}

func (c *guestConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.g.count(c.e, policy.Egress, n)
	if n > 0 && c.g.limits[policy.Egress].wait(c.g.ctx.Done(), nil, n) != nil {
		return n, net.ErrClosed
	}
	if errors.Is(err, io.EOF) { // gonet wraps nothing, but callers compare
		err = io.EOF
	}
	return n, err
}

func (c *guestConn) Write(b []byte) (int, error) {
	for sent := 0; ; {
		part := b[sent:min(len(b), sent+largeView)]
		if len(part) == 0 {
			return sent, nil
		}
		if err := c.g.limits[policy.Ingress].wait(c.g.ctx.Done(), nil, len(part)); err != nil {
			return sent, net.ErrClosed
		}
		n, err := c.TCPConn.Write(part)
		c.g.count(c.e, policy.Ingress, n)
		if sent += n; err != nil {
			return sent, err
		}
	}
}

// Refuse tells of something on the connection as Deny does, and leaves the connection to the inspector.
func (c *Conn) Refuse(name string, v policy.Verdict) {
	c.g.deny(policy.Egress, policy.TCP, c.To, c.e.guestPort, name, v)
}
