package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/microsandbox-go/microsandbox/internal/network/dns"
	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

const (
	flowTimeout  = 60 * time.Second // contract msb-0.6 §5.6
	maxEarly     = 16               // datagrams kept while the host's socket is being opened
	maxDNSFlight = 64               // queries over UDP being answered; the rest is dropped, and asked again by the guest
)

// flowKey names a UDP flow: the guest's port and the far end.
type flowKey struct {
	port uint16
	to   netip.AddrPort
}

// udpFlow is a connected socket of the host's for one of the guest's, as long as something passes.
type udpFlow struct {
	g   *Gateway
	key flowKey

	mu    sync.Mutex
	last  time.Time
	conn  net.Conn // nil while being opened
	raw   syscall.RawConn
	early [][]byte
	gone  bool // made room for another
}

// handleUDP gets every datagram. Those it does not take, the stack answers with "port unreachable". It runs in the link's
// reader and must not wait.
func (g *Gateway) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	key := flowKey{port: id.RemotePort, to: farEnd(id)}
	g.mu.Lock()
	f := g.flows[key]
	g.mu.Unlock()
	if f == nil {
		v, name := g.check(policy.UDP, key.to)
		isDNS := g.isDNS(key.to)
		if !v.Allowed {
			if isDNS { // more telling than that the resolver was refused
				name = dns.QueryName(pkt.Data().AsRange().ToSlice())
			}
			g.deny(policy.UDP, key.to, name, v)
			return false
		}
		if isDNS {
			g.answerDNS(key, pkt.Data().AsRange().ToSlice())
			return true
		}
		if f = g.addFlow(key); f == nil {
			return true
		}
	}
	data := pkt.Data().AsRange().ToSlice()
	g.stats.sent.Add(uint64(len(data)))
	f.send(data)
	return true
}

// addFlow starts a flow; the one longest unused makes room. nil: the gateway is down.
func (g *Gateway) addFlow(key flowKey) *udpFlow {
	if !g.begin() {
		return nil
	}
	f := &udpFlow{g: g, key: key, last: time.Now()}
	g.mu.Lock()
	var oldest *udpFlow
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
		g.stats.refused.Add(1)
		oldest.close()
	}
	g.stats.flows.Add(1)
	go f.run()
	return f
}

func (f *udpFlow) lastUse() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *udpFlow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = true
	if f.conn != nil {
		_ = f.conn.Close()
	}
}

// send passes a datagram on, or drops it: it never waits.
func (f *udpFlow) send(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = time.Now()
	switch {
	case f.conn == nil:
		if len(f.early) < maxEarly {
			f.early = append(f.early, data)
		}
	case f.raw != nil:
		_ = f.raw.Write(func(fd uintptr) bool {
			_, _ = unix.Write(int(fd), data)
			return true
		})
	default:
		_, _ = f.conn.Write(data)
	}
}

// run opens the host's socket and passes on what it receives until nothing has passed for flowTimeout.
func (f *udpFlow) run() {
	g := f.g
	defer g.tasks.Done()
	defer func() {
		g.mu.Lock()
		if g.flows[f.key] == f {
			delete(g.flows, f.key)
		}
		g.mu.Unlock()
	}()
	conn, err := g.dial(g.ctx, "udp", f.key.to)
	if err != nil {
		g.unreachable(f.key)
		return
	}
	closeConn, ok := g.keep(conn)
	if !ok {
		return
	}
	defer closeConn()
	if !f.opened(conn) {
		return
	}
	in := newReader(conn)
	for {
		if conn.SetReadDeadline(f.lastUse().Add(flowTimeout)) != nil {
			return
		}
		buf, n, err := in.read()
		switch {
		case n > 0:
			f.touch()
			g.stats.received.Add(uint64(n))
			g.writeUDP(f.key, buf[:n])
			copyBuffers.Put(buf)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(f.lastUse()) >= flowTimeout {
				return
			}
		case errors.Is(err, unix.ECONNREFUSED): // of one datagram; the next may be welcome
			g.unreachable(f.key)
		case err == nil || errors.Is(err, io.EOF): // an empty datagram
			f.touch()
			g.writeUDP(f.key, nil)
		default:
			return
		}
	}
}

func (f *udpFlow) touch() {
	f.mu.Lock()
	f.last = time.Now()
	f.mu.Unlock()
}

// opened makes conn the flow's and sends what came early. It is false when the flow is no longer wanted.
func (f *udpFlow) opened(conn net.Conn) bool {
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
		f.send(d)
	}
	return true
}

// answerDNS answers a query in a goroutine of its own.
func (g *Gateway) answerDNS(key flowKey, query []byte) {
	if g.dnsInFlight.Add(1) > maxDNSFlight || !g.begin() {
		g.dnsInFlight.Add(-1)
		return
	}
	go func() {
		defer g.tasks.Done()
		defer g.dnsInFlight.Add(-1)
		if answer := g.names.Answer(g.ctx, query, true); answer != nil {
			g.writeUDP(key, answer)
		}
	}()
}

// writeUDP sends a datagram to the guest as if from the far end.
func (g *Gateway) writeUDP(key flowKey, data []byte) {
	route, terr := g.route(key.to.Addr())
	if terr != nil {
		return
	}
	defer route.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(data),
	})
	defer pkt.DecRef()
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = udp.ProtocolNumber
	length := uint16(pkt.Size())
	h.Encode(&header.UDPFields{SrcPort: key.to.Port(), DstPort: key.port, Length: length})
	sum := route.PseudoHeaderChecksum(udp.ProtocolNumber, length)
	sum = ^h.CalculateChecksum(checksum.Combine(sum, pkt.Data().Checksum()))
	if sum == 0 {
		sum = 0xffff // 0 would mean: none (RFC 768)
	}
	h.SetChecksum(sum)
	_ = route.WritePacket(stack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: route.DefaultTTL()}, pkt)
}

// route leads to the guest, from an address that it believes to speak to.
func (g *Gateway) route(from netip.Addr) (*stack.Route, tcpip.Error) {
	proto, to := header.IPv4ProtocolNumber, g.cfg.Ends.Guest4
	if from.Is6() {
		proto, to = header.IPv6ProtocolNumber, g.cfg.Ends.Guest6
	}
	return g.stack.FindRoute(nicID, addressOf(from), addressOf(to), proto, false)
}
