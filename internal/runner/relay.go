package runner

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
	"github.com/microsandbox-go/microsandbox/internal/execlog"
)

// clientQueue is how many frames may wait for one client before the agent has to (contract msb-0.6 §4.3), queueBytes how
// many bytes of them: a hostile guest chooses their size.
const (
	clientQueue = 64
	queueBytes  = 1 << 20
)

// relay multiplexes clients onto the one connection to the agent (contract msb-0.6 §4.3). It looks into a frame only where
// a flag says that a session begins.
type relay struct {
	agent      io.ReadWriter
	in         *agentproto.Reader // positioned behind core.ready
	ready      []byte             // the frame core.ready
	onShutdown func()             // a client asked for the sandbox's end
	holdBack   func() bool        // the sandbox is ending for another reason than the one that a session is about to give
	out        *execlog.Writer    // takes what sessions print; nil: nobody does
	work       work               // what the sandbox has been asked to do

	writeMu sync.Mutex // one frame at a time to the agent

	ending chan struct{} // closed by end

	mu       sync.Mutex
	clients  [agentproto.SlotCount]*client
	next     int           // the slot to look at first
	freed    chan struct{} // closed when a slot is free again; nil while nobody waits
	startup  net.Conn      // the client whose output nobody reads but the log
	closed   bool
	attended bool // there were clients when it was closed
	wg       sync.WaitGroup
}

// client is one connection to the relay.
type client struct {
	conn  net.Conn
	whole bool // nobody but the log reads its output
	slot  int
	start uint32
	end   uint32
	out   chan *agentproto.Frame
	bytes atomic.Int64  // in out
	room  chan struct{} // told when there are fewer
	gone  chan struct{} // closed when the client is done with
	once  sync.Once
	mu    sync.Mutex
	open  map[uint32]*session // its sessions
	left  bool                // it has left; its slot is free when the agent has answered to that
}

// leave ends the client's connection; its sessions follow.
func (c *client) leave() {
	c.once.Do(func() { close(c.gone); c.conn.Close() })
}

// run routes the agent's frames until the agent is gone.
func (r *relay) run() error {
	for {
		f, err := r.in.Next()
		if err != nil {
			return err
		}
		r.route(f)
	}
}

func (r *relay) route(f *agentproto.Frame) {
	slot := agentproto.SlotOf(f.ID)
	r.mu.Lock()
	var c *client
	if slot < agentproto.SlotCount {
		c = r.clients[slot]
	}
	r.mu.Unlock()
	if c == nil || f.ID < c.start || f.ID >= c.end {
		f.Release() // id 0, or of a client that has left
		return
	}
	if r.departed(c, f) {
		f.Release()
		return
	}
	if f.Flags&agentproto.Terminal != 0 {
		if r.holdBack != nil && r.holdBack() {
			f.Release()
			return
		}
	}
	r.observe(c, f)
	if !c.put(f, r.ending) {
		f.Release()
	}
}

// put queues a frame. The agent has to wait until there is room, and with it all other clients: for a while, not for ever.
func (c *client) put(f *agentproto.Frame, ending <-chan struct{}) bool {
	size := int64(len(f.Raw()))
	if c.bytes.Load() < queueBytes {
		c.bytes.Add(size)
		select {
		case c.out <- f:
			return true
		default:
			c.bytes.Add(-size)
		}
	}
	patience := time.NewTimer(stall)
	defer patience.Stop()
	for {
		out := c.out
		if c.bytes.Load() >= queueBytes {
			out = nil
		} else {
			c.bytes.Add(size)
		}
		select {
		case out <- f:
			return true
		case <-c.room:
			if out != nil {
				c.bytes.Add(-size)
			}
			continue
		case <-c.gone:
		case <-ending:
		case <-patience.C:
			c.leave()
		}
		return false
	}
}

// departed reports whether the client of a frame has left, and frees its slot if the frame is the agent's answer to that:
// what the agent still had to say to the old client must not reach a new one.
func (r *relay) departed(c *client, f *agentproto.Frame) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.left && f.ID == c.start && agentproto.TypeOf(f.Body()) == agentproto.TypePong {
		r.clients[c.slot] = nil
		if r.freed != nil {
			close(r.freed)
			r.freed = nil
		}
	}
	return c.left
}

// serve takes over a new connection.
func (r *relay) serve(conn net.Conn) {
	c, wait := r.admit(conn)
	if c != nil {
		r.begin(c)
		return
	}
	if wait == nil {
		conn.Close()
		return
	}
	r.wg.Go(func() {
		late := time.NewTimer(farewell)
		defer late.Stop()
		for c == nil && wait != nil {
			select {
			case <-wait:
				c, wait = r.admit(conn)
			case <-late.C:
				wait = nil
			case <-r.ending:
				wait = nil
			}
		}
		if c == nil {
			conn.Close()
			return
		}
		r.begin(c)
	})
}

func (r *relay) begin(c *client) {
	go c.writeLoop(r.ready, &r.wg)
	go func() {
		defer r.wg.Done()
		r.readLoop(c)
		c.leave()
		r.dismiss(c)
	}()
}

// admit gives the connection a free slot, as long unused as can be. If there is none, wait is closed when one may be, and
// nil when none is about to be.
func (r *relay) admit(conn net.Conn) (c *client, wait <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil
	}
	leaving := false
	for i := range r.clients {
		slot := (r.next + i) % len(r.clients)
		if old := r.clients[slot]; old != nil {
			leaving = leaving || old.left
			continue
		}
		r.next = slot + 1
		c = &client{conn: conn, whole: conn == r.startup, slot: slot, out: make(chan *agentproto.Frame, clientQueue), gone: make(chan struct{}), room: make(chan struct{}, 1), open: map[uint32]*session{}}
		c.start, c.end = agentproto.IDRange(slot)
		r.clients[slot] = c
		r.wg.Add(2)
		return c, nil
	}
	if !leaving {
		return nil, nil
	}
	if r.freed == nil {
		r.freed = make(chan struct{})
	}
	return nil, r.freed
}

// dismiss ends a client's sessions in the guest. Its slot is free when the agent answers to the ping behind that.
func (r *relay) dismiss(c *client) {
	var b []byte
	for id, x := range r.endAll(c) {
		if x.kind == execSession {
			b = agentproto.Append(b, id, agentproto.TypeExecSignal, &agentproto.ExecSignal{Signal: 9})
		}
	}
	b = agentproto.Append(b, 0, agentproto.TypeClientDisconnected, &agentproto.ClientDisconnected{IDStart: c.start, IDEnd: c.end})
	b = agentproto.Append(b, c.start, agentproto.TypePing, nil)
	r.mu.Lock()
	c.left = true
	r.mu.Unlock()
	_ = r.toAgent(b) // if the agent is gone, so are the sessions
}

// writeLoop greets the client and hands it its frames, several in one write where they wait.
func (c *client) writeLoop(ready []byte, wg *sync.WaitGroup) {
	defer wg.Done()
	defer c.leave()
	b := agentproto.AppendWords(nil, c.start, c.end)
	if _, err := c.conn.Write(append(b, ready...)); err != nil {
		return
	}
	for {
		select {
		case f, ok := <-c.out:
			if !ok {
				return
			}
			bufs := net.Buffers{f.Raw()}
			frames := []*agentproto.Frame{f}
			for more := true; more && len(frames) < clientQueue; {
				select {
				case f, ok := <-c.out:
					if more = ok; ok {
						frames, bufs = append(frames, f), append(bufs, f.Raw())
					}
				default:
					more = false
				}
			}
			var size int64
			for _, f := range frames {
				size += int64(len(f.Raw()))
			}
			_, err := bufs.WriteTo(c.conn)
			for _, f := range frames {
				f.Release()
			}
			c.bytes.Add(-size)
			select {
			case c.room <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		case <-c.gone:
			return
		}
	}
}

var errForeignID = errors.New("frame with an id outside the client's range")

// readLoop forwards a client's frames to the agent until it leaves or breaks the rules.
func (r *relay) readLoop(c *client) error {
	in := agentproto.NewReader(c.conn)
	for {
		f, err := in.Next()
		if err != nil {
			return err
		}
		err = r.forward(c, f)
		f.Release()
		if err != nil {
			return err
		}
	}
}

func (r *relay) forward(c *client, f *agentproto.Frame) error {
	if f.Flags&agentproto.Shutdown != 0 {
		if f.ID != 0 && (f.ID < c.start || f.ID >= c.end) {
			return errForeignID
		}
		r.onShutdown()
		return r.toAgent(f.Raw())
	}
	if f.ID < c.start || f.ID >= c.end {
		return errForeignID
	}
	if !r.begun(c, f) {
		return nil
	}
	return r.toAgent(f.Raw())
}

func (r *relay) toAgent(b []byte) error {
	r.writeMu.Lock()
	defer r.writeMu.Unlock()
	_, err := r.agent.Write(b)
	return err
}

// busy reports whether there are clients, or were when the agent ended.
func (r *relay) busy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attended || r.anyLocked()
}

func (r *relay) anyLocked() bool {
	for _, c := range r.clients {
		if c != nil && !c.left {
			return true
		}
	}
	return false
}

// end makes the relay give up on clients that do not read: the agent is gone, or about to be.
func (r *relay) end() { close(r.ending) }

// stall is how long one client that does not read may hold up the agent.
const stall = 30 * time.Second

// farewell is how long a client may take to read its last frames.
const farewell = time.Second

// close ends all clients once they have read what is queued for them, and waits for that. It comes after run.
func (r *relay) close() {
	r.mu.Lock()
	r.closed, r.attended = true, r.anyLocked()
	for _, c := range r.clients {
		if c != nil {
			_ = c.conn.SetDeadline(time.Now().Add(farewell))
			close(c.out)
		}
	}
	r.mu.Unlock()
	r.wg.Wait()
}
