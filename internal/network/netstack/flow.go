package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

const (
	flowTimeout = 60 * time.Second // contract msb-0.6 §5.6
	maxEarly    = 16               // datagrams kept while the host's socket is being opened
)

// flowKey names a flow of datagrams: the guest's port (of echoes, their identifier) and the far end.
type flowKey struct {
	proto policy.Proto
	port  uint16
	to    netip.AddrPort
}

// flow is a connected socket of the host's for one of the guest's, as long as something passes.
type flow struct {
	g   *Gateway
	e   *entry
	key flowKey

	mu    sync.Mutex
	last  time.Time
	conn  net.Conn // nil while being opened
	raw   syscall.RawConn
	early [][]byte
	gone  bool // made room for another
}

// flow returns the flow of key, if there is one.
func (g *Gateway) flow(key flowKey) *flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flows[key]
}

// addFlow starts a flow; the one longest unused makes room. nil: the gateway is down. Only the link's reader calls it.
func (g *Gateway) addFlow(key flowKey, names []string, v policy.Verdict) *flow {
	if !g.begin() {
		return nil
	}
	f := &flow{g: g, e: g.newEntry(policy.Egress, key.proto, key.port, key.to, names, v), key: key, last: time.Now()}
	g.mu.Lock()
	var oldest *flow
	if len(g.flows) >= g.cfg.MaxFlows {
		for _, o := range g.flows {
			if oldest == nil || o.lastUse().Before(oldest.lastUse()) {
				oldest = o
			}
		}
		delete(g.flows, oldest.key)
	}
	g.flows[key] = f
	g.mu.Unlock()
	if oldest != nil {
		g.full("flows of datagrams", g.cfg.MaxFlows)
		oldest.close()
	}
	g.stats.flows.Add(1)
	go f.run()
	return f
}

func (f *flow) lastUse() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *flow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
	if f.conn != nil {
		_ = f.conn.Close()
	}
}

// send passes a datagram on, or drops it: it does not wait where the connection is a socket.
func (f *flow) send(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = time.Now()
	if !f.g.limits[policy.Egress].admit(len(data)) {
		return
	}
	f.g.count(f.e, policy.Egress, len(data))
	switch {
	case f.conn == nil:
		if len(f.early) < maxEarly {
			f.early = append(f.early, data)
		}
	default:
		f.passLocked(data)
	}
}

func (f *flow) pass(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passLocked(data)
}

func (f *flow) passLocked(data []byte) {
	if f.raw == nil {
		_, _ = f.conn.Write(data)
		return
	}
	_ = f.raw.Write(func(fd uintptr) bool {
		_, _ = unix.Write(int(fd), data)
		return true
	})
}

// run opens the host's socket and passes on what it receives until nothing has passed for flowTimeout.
func (f *flow) run() {
	g := f.g
	defer g.tasks.Done()
	defer f.forget()
	if !g.begun(f.e, func() { f.forget(); f.close() }) {
		f.unreachable()
		return
	}
	defer g.ended(f.e)
	conn, err := f.dial()
	if err != nil {
		if f.key.proto != policy.UDP && errors.Is(err, os.ErrPermission) {
			g.tellTrouble(noPing, "this machine lets its user send no pings; who may is in net.ipv4.ping_group_range")
		}
		f.unreachable()
		return
	}
	closeConn, ok := g.keep(conn)
	if !ok {
		return
	}
	defer closeConn()
	if f.opened(conn) {
		f.receive(conn)
	}
}

// forget takes the flow out of the way of the datagrams that come from now on.
func (f *flow) forget() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	if f.g.flows[f.key] == f {
		delete(f.g.flows, f.key)
	}
}

func (f *flow) receive(conn net.Conn) {
	in := newReader(conn)
	for {
		if conn.SetReadDeadline(f.lastUse().Add(flowTimeout)) != nil {
			return
		}
		buf, n, err := in.read()
		switch {
		case n > 0:
			f.reply(buf[:n])
			copyBuffers.Put(buf)
		case err == nil || errors.Is(err, io.EOF): // an empty datagram
			f.reply(nil)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(f.lastUse()) >= flowTimeout {
				return
			}
		case errors.Is(err, unix.ECONNREFUSED): // of one datagram; the next may be welcome
			f.unreachable()
		default:
			return
		}
	}
}

// opened makes conn the flow's and sends what came early. It is false when the flow is no longer wanted.
func (f *flow) opened(conn net.Conn) bool {
	f.mu.Lock()
	if f.gone {
		f.mu.Unlock()
		return false
	}
	f.conn = conn
	if sc, ok := conn.(syscall.Conn); ok {
		f.raw, _ = sc.SyscallConn()
	}
	early := f.early
	f.early = nil
	f.mu.Unlock()
	for _, d := range early {
		f.pass(d)
	}
	return true
}

func (f *flow) dial() (net.Conn, error) {
	if f.key.proto == policy.UDP {
		ctx, cancel := context.WithTimeout(f.g.ctx, f.g.cfg.DialTimeout)
		defer cancel()
		return f.g.dial(ctx, "udp", f.key.to)
	}
	return f.g.cfg.Ping(f.key.to.Addr())
}

func (f *flow) reply(data []byte) {
	f.mu.Lock()
	f.last = time.Now()
	f.mu.Unlock()
	if f.g.limits[policy.Ingress].wait(f.g.ctx.Done(), nil, len(data)) != nil {
		return
	}
	f.g.count(f.e, policy.Ingress, len(data))
	if f.key.proto == policy.UDP {
		f.g.writeUDP(f.key, data)
		return
	}
	f.g.writeEcho(f.key, data)
}

func (f *flow) unreachable() {
	if f.key.proto == policy.UDP {
		f.g.portUnreachable(f.key)
	}
}
