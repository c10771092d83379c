package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxCached   = 512
	maxBytes    = 4 << 20 // of all answers in memory, as cost reckons
	maxTTL      = uint32(24 * 60 * 60)
	maxNegative = uint32(300) // how long, in seconds, a name's absence is believed
)

type cacheKey struct {
	name string
	typ  uint16
	do   bool
}

type cached struct {
	msg     *dns.Msg
	stored  time.Time
	expires time.Time
	cost    int
}

// cache keeps answers as long as their TTL says.
type cache struct {
	mu      sync.Mutex
	entries map[cacheKey]cached
	bytes   int // of entries
	cleared int // how often
}

// get returns the answer with its TTLs counted down; it is the caller's.
func (c *cache) get(k cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	e, ok := c.entries[k]
	c.mu.Unlock()
	if !ok || !now.Before(e.expires) {
		return nil
	}
	m := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(age, h.Ttl)
		}
	}
	return m
}

// age is to be had before a name server is asked, for put: what was asked under another policy is not kept.
func (c *cache) age() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cleared
}

// put keeps a copy of m, unless the cache was cleared since age. A full cache loses what has expired, else any entries. An answer
// that would take much of it is not kept.
func (c *cache) put(k cacheKey, m *dns.Msg, age int, now time.Time) {
	ttl, size := lifetime(m), cost(k, m)
	if ttl == 0 || size > maxBytes/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cleared != age {
		return
	}
	if c.entries == nil {
		c.entries = map[cacheKey]cached{}
	}
	c.drop(k)
	full := func() bool { return len(c.entries) >= maxCached || c.bytes+size > maxBytes }
	if full() {
		for k, e := range c.entries {
			if !now.Before(e.expires) {
				c.drop(k)
			}
		}
	}
	for k := range c.entries {
		if !full() {
			break
		}
		c.drop(k)
	}
	c.bytes += size
	c.entries[k] = cached{m.Copy(), now, now.Add(time.Duration(ttl) * time.Second), size}
}

func (c *cache) drop(k cacheKey) {
	c.bytes -= c.entries[k].cost
	delete(c.entries, k)
}

// cost is about how many bytes an answer takes in memory: names are text there, in which a byte may be four, and whole.
func cost(k cacheKey, m *dns.Msg) int {
	n := 256 + len(k.name)
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			n += 128 + 4*dns.Len(rr)
		}
	}
	return n
}

// clear forgets everything.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
	c.bytes = 0
	c.cleared++
}

// lifetime is for how many seconds m may be kept: its shortest TTL, or the zone's word on absence (RFC 2308).
func lifetime(m *dns.Msg) uint32 {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(m.Answer) == 0 {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(soa.Hdr.Ttl, soa.Minttl, maxNegative)
			}
		}
		return 0
	}
	ttl := maxTTL
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	return ttl
}
