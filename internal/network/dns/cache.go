package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxCached   = 512
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
}

// cache keeps answers as long as their TTL says.
type cache struct {
	mu      sync.Mutex
	entries map[cacheKey]cached
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

// put keeps a copy of m, unless the cache was cleared since age. A full cache loses what has expired, else any one entry.
func (c *cache) put(k cacheKey, m *dns.Msg, age int, now time.Time) {
	ttl := lifetime(m)
	if ttl == 0 {
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
	if len(c.entries) >= maxCached {
		for k, e := range c.entries {
			if !now.Before(e.expires) {
				delete(c.entries, k)
			}
		}
		for k := range c.entries {
			if len(c.entries) < maxCached {
				break
			}
			delete(c.entries, k)
		}
	}
	c.entries[k] = cached{m.Copy(), now, now.Add(time.Duration(ttl) * time.Second)}
}

// clear forgets everything.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
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
