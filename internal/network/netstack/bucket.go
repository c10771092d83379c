package netstack

import (
	"errors"
	"sync"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// bucket is a token bucket in debt: what is taken is taken at once, and who took more than there was waits until it is
// there. So nobody waits for a bucket that is smaller than what he wants, and those who wait do so in turn.
type bucket struct {
	size float64
	rate float64 // tokens per second

	mu     sync.Mutex
	tokens float64
	extra  float64 // of the burst at the start: they do not come again
	at     time.Time
}

// newBucket returns nil for no bound.
func newBucket(b *sandbox.TokenBucket, now time.Time) *bucket {
	if b == nil || b.Size == 0 || b.RefillTimeMS == 0 {
		return nil
	}
	size := float64(b.Size)
	return &bucket{size: size, rate: size / (time.Duration(b.RefillTimeMS) * time.Millisecond).Seconds(), tokens: size, extra: float64(b.OneTimeBurst), at: now}
}

func (b *bucket) fillLocked(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.tokens, b.at = min(b.size, b.tokens+b.rate*d.Seconds()), now
	}
}

// take takes n tokens and returns when they are there.
func (b *bucket) take(n float64, now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fillLocked(now)
	burst := min(n, b.extra)
	b.extra -= burst
	b.tokens -= n - burst
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.rate * float64(time.Second))
}

// has reports whether there is a token.
func (b *bucket) has(now time.Time) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fillLocked(now)
	return b.tokens+b.extra >= 1
}

// limit bounds one direction in bytes and packets. Payload is counted; a packet is what an MTU holds of it.
type limit struct{ bytes, packets *bucket }

func newLimit(l *sandbox.RateLimit, now time.Time) limit {
	if l == nil {
		return limit{}
	}
	return limit{newBucket(l.Bandwidth, now), newBucket(l.Ops, now)}
}

const payloadOfPacket = MTU - 40 // TCP over IPv4 without options

var errGone = errors.New("the connection is gone")

// none reports whether there is no bound.
func (l *limit) none() bool { return l.bytes == nil && l.packets == nil }

// chunk is how much may be read at a time: so much that whoever waits for it does not wait for long.
func (l *limit) chunk() int {
	n := piece
	if l.bytes != nil {
		n = min(n, max(payloadOfPacket, int(min(l.bytes.rate/8, piece))))
	}
	if l.packets != nil {
		n = min(n, max(payloadOfPacket, int(min(l.packets.rate/8*payloadOfPacket, piece))))
	}
	return n
}

// wait returns when n bytes may pass, or an error when one of the channels is closed before.
func (l *limit) wait(down, gone <-chan struct{}, n int) error {
	if l.none() {
		return nil
	}
	now := time.Now()
	d := max(l.bytes.take(float64(n), now), l.packets.take(float64((n+payloadOfPacket-1)/payloadOfPacket), now))
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-down:
	case <-gone:
	}
	return errGone
}

// admit reports whether a datagram of n bytes may pass now; otherwise it is to be dropped.
func (l *limit) admit(n int) bool {
	if l.none() {
		return true
	}
	now := time.Now()
	if !l.bytes.has(now) || !l.packets.has(now) {
		return false
	}
	l.bytes.take(float64(n), now)
	l.packets.take(float64(max(1, (n+payloadOfPacket-1)/payloadOfPacket)), now)
	return true
}
