package agent

import (
	"fmt"
	"sync"

	"github.com/microsandbox-go/microsandbox/internal/agentproto"
)

// cell is one run of some code, from its request to its x.msb.kernel.done. To its client it is a session of the connection.
type cell struct {
	a      *Agent
	id     uint32
	req    agentproto.KernelRun
	kernel *kernel
	number uint32 // once it runs

	window window
	stop   chan stopReason // has room for one

	mu      sync.Mutex
	left    uint64 // bytes that may still be sent
	dropped uint64 // bytes that were not
	muted   bool   // nothing is sent any more, but the end
	gone    bool   // nor that
	over    bool

	begun bool // a value was, and its end was not sent; of the goroutine that sends results
}

// stopReason says why a cell is to stop.
type stopReason int

const (
	stopAsked stopReason = iota + 1 // by a client
	stopGone                        // its own client has left
)

// message takes acknowledgements; there is nothing else to say to a cell.
func (c *cell) message(t agentproto.Type, payload []byte, f *agentproto.Frame) error {
	defer f.Release()
	if t != agentproto.TypeAck {
		return &agentproto.Error{Kind: agentproto.InvalidSession, Message: "the session is a cell of an interpreter"}
	}
	return c.window.ack(payload)
}

// drop is the end of the client. The interpreter stays.
func (c *cell) drop() {
	c.mu.Lock()
	c.muted, c.gone = true, true
	c.mu.Unlock()
	c.window.close()
	c.interrupt(stopGone)
}

func (c *cell) terminate() { c.interrupt(stopAsked) }

func (c *cell) interrupt(why stopReason) {
	select {
	case c.stop <- why:
	default: // once is enough
	}
}

// mute makes nobody wait any more for the client to read. It reports whether somebody may have.
func (c *cell) mute() bool {
	c.mu.Lock()
	again := c.muted
	c.muted = true
	c.mu.Unlock()
	full := c.window.full()
	c.window.close()
	return full && !again
}

// take returns how many of n bytes may be sent, and counts the others as dropped.
func (c *cell) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	take := int(min(uint64(n), c.left))
	if c.muted {
		take = 0
	}
	c.left -= uint64(take)
	c.dropped += uint64(n - take)
	return take
}

// output sends what the interpreter has written. It waits for the client to read.
func (c *cell) output(t agentproto.Type, buf *agentproto.DataBuffer, n int) {
	c.window.wait()
	if n = c.take(n); n == 0 {
		return
	}
	c.window.sent(n)
	c.a.out.count(t)
	_ = c.a.out.write(buf.Frame(c.id, t, n))
}

// resultCost is what a piece of a value counts as output beyond its data, so that empty ones are not for free. In bytes.
const resultCost = 64

// result sends a piece of a value. What there is no room for is left out; a value that was begun is still ended.
func (c *cell) result(r *agentproto.KernelResult) {
	c.window.wait()
	room := c.take(len(r.Data)+resultCost) - resultCost
	if room < len(r.Data) {
		r.Data = r.Data[:max(0, room)]
		if room <= 0 && (!c.begun || r.More) {
			return
		}
	}
	c.begun = r.More
	c.window.sent(len(r.Data))
	c.say(agentproto.TypeKernelResult, r)
}

func (c *cell) say(t agentproto.Type, p agentproto.Payload) {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if !gone {
		_ = c.a.out.send(c.id, t, p)
	}
}

// end ends the cell, once: first its id is free, then the client hears of it.
func (c *cell) end(t agentproto.Type, p agentproto.Payload) {
	c.mu.Lock()
	over := c.over
	c.over = true
	c.mu.Unlock()
	if over {
		return
	}
	c.a.forget(c.id)
	c.say(t, p)
	c.a.running.Done()
}

func (c *cell) fail(kind agentproto.KernelFailure, message string) {
	c.end(agentproto.TypeKernelFailed, &agentproto.KernelFailed{Kind: kind, Message: message})
}

// notice says at the end of the output how much is missing.
func (c *cell) notice() (dropped uint64) {
	c.mu.Lock()
	dropped = c.dropped
	gone := c.gone
	c.mu.Unlock()
	if dropped > 0 && !gone {
		text := fmt.Appendf(nil, "[output truncated: %d bytes more were dropped]\n", dropped)
		_ = c.a.out.write(agentproto.AppendData(nil, c.id, agentproto.TypeKernelStderr, text))
	}
	return dropped
}

func (c *cell) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}
