package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/microsandbox-go/microsandbox/internal/network/policy"
)

// relay copies between the guest's side of a connection and the host's until both directions have ended. Each end of a
// direction is passed on as it came: FIN as FIN while the other direction goes on, RST as RST for both.
type relay struct {
	g     *Gateway
	e     *entry
	guest tcpip.Endpoint
	queue *waiter.Queue // of guest
	host  net.Conn
	sent  uint64 // bytes from the guest
	grown bool   // it may have a large window

	broken sync.Once
	gone   chan struct{} // closed when it broke
}

// copyBuffers are taken when there is something to read and given back when it is written: an idle connection has none.
var copyBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// lastWrites is how long the host may take for what a guest sent before it broke the connection.
const lastWrites = time.Second

var errAborted = errors.New("connection aborted")

func (r *relay) run() {
	r.gone = make(chan struct{})
	var up sync.WaitGroup
	up.Add(1)
	r.g.workers.run(func() {
		defer up.Done()
		r.end(r.toHost())
	})
	r.end(r.toGuest())
	up.Wait()
	if c, ok := r.host.(*hostConn); ok && !r.isBroken() {
		c.finished()
	}
	_ = r.host.Close()
	if r.grown {
		r.g.growth.Add(1)
	}
	r.g.linger(r.guest, r.queue)
}

// lingerTime is how long the guest may take nothing of what is still to be sent to it when its connection was closed here.
const lingerTime = 2 * time.Minute

// lingerLook is when it is first looked whether there is nothing to wait for. Mostly the guest has said so before, and a timer of less
// makes each wait of the process dearer.
const lingerLook = 16 * time.Millisecond

// linger closes the guest's side of a connection and returns when the guest has received all that was sent to it, or will not:
// until then it is memory here, which the connection's place among MaxConns is for.
func (g *Gateway) linger(ep tcpip.Endpoint, queue *waiter.Queue) {
	entry, gone := waiter.NewChannelEntry(waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	patience := tcpip.TCPUserTimeoutOption(g.lingerTime)
	_ = ep.SetSockOpt(&patience)
	ep.Close()
	for pause := lingerLook; ; pause = min(2*pause, time.Second) { // nothing tells of FIN-WAIT-2
		switch tcp.EndpointState(ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateTimeWait, tcp.StateFinWait2:
			return
		}
		look := time.NewTimer(pause)
		select {
		case <-gone:
		case <-look.C:
		case <-g.ctx.Done():
			ep.Abort()
			return
		}
		look.Stop() // or it would wake us for nothing
	}
}

// grow lets the window follow the rate, if this connection is one that may.
func (r *relay) grow(n int) {
	r.sent += uint64(n)
	if !r.grown && r.sent > growAfter && r.g.growth.Load() > 0 {
		if r.grown = r.g.growth.Add(-1) >= 0; !r.grown {
			r.g.growth.Add(1)
		}
	}
	if r.grown {
		r.guest.ModerateRecvBuf(n)
	}
}

func (r *relay) isBroken() bool {
	select {
	case <-r.gone:
		return true
	default:
		return false
	}
}

// end breaks the connection if a direction ended otherwise than by its FIN.
func (r *relay) end(err error) {
	if err == nil {
		return
	}
	r.broken.Do(func() { close(r.gone) })
	r.guest.Abort()
	reset(r.host)
	_ = r.host.Close()
}

// toHost copies what the guest sends. It returns nil after the guest's FIN was passed on.
func (r *relay) toHost() error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	// The host may take nothing for ever, and then only this tells of the guest's reset, or of ours. What came before it may still go.
	look := func(waiter.EventMask) {
		if tcp.EndpointState(r.guest.State()) == tcp.StateError {
			_ = r.host.SetWriteDeadline(time.Now().Add(lastWrites))
		}
	}
	broken := waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, look)
	r.queue.EventRegister(&broken)
	defer r.queue.EventUnregister(&broken)
	look(0)
	pass := r.copyToHost
	if raw := rawConn(r.host); raw != nil && r.g.limits[policy.Egress].none() {
		d := newDrain(raw, r.guest)
		defer d.close()
		pass = d.pass
	}
	for {
		n, terr, err := pass()
		r.grow(n)
		r.g.count(r.e, policy.Egress, n)
		if err != nil {
			return err
		}
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := r.await(ready); err != nil {
				return err
			}
		case *tcpip.ErrClosedForReceive:
			if c, ok := r.host.(interface{ CloseWrite() error }); ok {
				return c.CloseWrite()
			}
			return nil
		default:
			return errAborted
		}
	}
}

// copyToHost passes on one piece of what the guest has sent, if there is some. terr is of the guest's side, err of the host's.
func (r *relay) copyToHost() (n int, terr tcpip.Error, err error) {
	limit := &r.g.limits[policy.Egress]
	buf := copyBuffers.Get().(*[64 << 10]byte)
	defer copyBuffers.Put(buf)
	w := tcpip.SliceWriter(buf[:limit.chunk()])
	res, terr := r.guest.Read(&w, tcpip.ReadOptions{})
	if terr != nil {
		return 0, terr, nil
	}
	if err = limit.wait(r.g.ctx.Done(), r.gone, res.Count); err != nil {
		return 0, nil, err
	}
	n, err = r.host.Write(buf[:res.Count])
	return n, nil, err
}

// toGuest copies what the host's side sends. It returns nil after its FIN was passed on.
func (r *relay) toGuest() error {
	entry, room := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	in := newReader(r.host)
	limit := &r.g.limits[policy.Ingress]
	in.chunk = limit.chunk()
	var much *fill
	if limit.none() && isTCP(in.raw) {
		much = newFill(in.raw, r.guest)
	}
	var data bytes.Reader
	for {
		buf, n, err := in.read()
		if n > 0 {
			data.Reset(buf[:n])
			werr := limit.wait(r.g.ctx.Done(), r.gone, n)
			if werr == nil {
				werr = r.write(&data, room)
			}
			copyBuffers.Put(buf)
			if werr != nil {
				return werr
			}
			r.g.count(r.e, policy.Ingress, n)
			if n == in.chunk && much != nil {
				err = r.fill(much, room)
			}
		}
		if errors.Is(err, io.EOF) {
			if terr := r.guest.Shutdown(tcpip.ShutdownWrite); terr != nil {
				return errAborted
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill passes on what the host has sent until there is little of it left.
func (r *relay) fill(f *fill, room <-chan struct{}) error {
	for {
		n, terr, err := f.pass()
		r.g.count(r.e, policy.Ingress, n)
		if err != nil {
			return err
		}
		switch terr.(type) {
		case nil:
			if n == 0 {
				return nil
			}
		case *tcpip.ErrWouldBlock:
			if err := r.await(room); err != nil {
				return err
			}
		default:
			return errAborted
		}
	}
}

// await waits for what the guest's side tells of.
func (r *relay) await(told <-chan struct{}) error {
	select {
	case <-told:
		return nil
	case <-r.g.ctx.Done():
		return errAborted
	}
}

func (r *relay) write(data *bytes.Reader, room <-chan struct{}) error {
	for data.Len() > 0 {
		_, terr := r.guest.Write(data, tcpip.WriteOptions{})
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := r.await(room); err != nil {
				return err
			}
		default:
			return errAborted
		}
	}
	return nil
}

// reader reads a connection into copyBuffers, taken only when there is something to read.
type reader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil when conn has none: then a buffer is held while waiting
	chunk int             // how much is read at a time
	buf   *[64 << 10]byte
	n     int
	err   error
	try   func(fd uintptr) bool
}

func newReader(conn net.Conn) *reader {
	r := &reader{conn: conn, chunk: len(new([64 << 10]byte))}
	r.try = r.tryRead
	r.raw = rawConn(conn)
	return r
}

// rawConn returns the socket of conn, or nil if it is more than one.
func rawConn(conn net.Conn) syscall.RawConn {
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// read returns a buffer with n bytes, for the caller to put back, or no buffer and why. The end of a stream is io.EOF; of
// datagrams, n may be 0 with no error.
func (r *reader) read() (buf *[64 << 10]byte, n int, err error) {
	if r.raw == nil {
		buf = copyBuffers.Get().(*[64 << 10]byte)
		n, err = r.conn.Read(buf[:r.chunk])
		if n == 0 {
			copyBuffers.Put(buf)
			buf = nil
		}
		return buf, n, err
	}
	r.buf, r.n, r.err = nil, 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return nil, 0, err
	}
	return r.buf, r.n, r.err
}

func (r *reader) tryRead(fd uintptr) bool {
	buf := copyBuffers.Get().(*[64 << 10]byte)
	for {
		n, errno := rawRead(fd, buf[:r.chunk])
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			copyBuffers.Put(buf)
			return false
		case errno == 0 && n > 0:
			r.buf, r.n = buf, n
			return true
		case errno == 0:
			r.err = io.EOF
		default:
			r.err = errno
		}
		copyBuffers.Put(buf)
		return true
	}
}
