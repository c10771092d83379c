package sandbox

import (
	"strings"
	"time"
)

// RateLimiter bounds what passes a sandbox's network link, each direction for itself; nil is no bound.
type RateLimiter struct {
	Egress  *RateLimit `json:"egress,omitempty"`
	Ingress *RateLimit `json:"ingress,omitempty"`
}

// RateLimit bounds bytes and packets.
type RateLimit struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"` // tokens are bytes
	Ops       *TokenBucket `json:"ops,omitempty"`       // tokens are packets
}

// TokenBucket holds Size tokens and is filled from empty in RefillTimeMS milliseconds, evenly. It starts full, and with
// OneTimeBurst tokens above that which do not come again.
type TokenBucket struct {
	Size         uint64 `json:"size"`
	RefillTimeMS uint64 `json:"refill_time_ms"`
	OneTimeBurst uint64 `json:"one_time_burst,omitempty"`
}

// Bounds of a TokenBucket.
const (
	maxTokens   = 1 << 50
	maxRefillMS = 24 * 60 * 60 * 1000
)

// ParseBandwidth reads SIZE[/DURATION]: bytes per duration, one second if there is none. SIZE is as in [ParseByteSize].
func ParseBandwidth(s string) (TokenBucket, error) { return parseBucket("bandwidth", s, ParseByteSize) }

// ParseOps reads N[/DURATION]: packets per duration, one second if there is none.
func ParseOps(s string) (TokenBucket, error) { return parseBucket("rate", s, ParseCount) }

func parseBucket(what, s string, parse func(string) (uint64, error)) (TokenBucket, error) {
	amount, per, timed := strings.Cut(s, "/")
	n, err := parse(amount)
	refill := time.Second
	if err == nil && timed {
		refill, err = ParseDuration(per)
	}
	b := TokenBucket{Size: n, RefillTimeMS: uint64(refill / time.Millisecond)}
	if err != nil || b.RefillTimeMS == 0 || b.RefillTimeMS > maxRefillMS {
		return TokenBucket{}, unreadable(what, s, "of the form AMOUNT[/DURATION], e.g. 10M, 512K/100ms or 1000/1s")
	}
	return b, nil
}

// ParseByteSize reads what ParseSize reads, in bytes: K is exact here.
func ParseByteSize(s string) (uint64, error) {
	if n, unit, ok := digits(s); ok && n > 0 && n <= maxTokens>>10 {
		if u := strings.ToUpper(unit); u == "K" || u == "KB" || u == "KIB" {
			return n << 10, nil
		}
	}
	mib, err := ParseSize(s)
	if err != nil || uint64(mib) > maxTokens>>20 {
		return 0, unreadable("size", s, "a size such as 64K or 10M (a bare number is MiB)")
	}
	return uint64(mib) << 20, nil
}

// ParseCount reads a number of at least 1.
func ParseCount(s string) (uint64, error) {
	n, rest, ok := digits(s)
	if !ok || rest != "" || n == 0 || n > maxTokens {
		return 0, unreadable("count", s, "a number of at least 1")
	}
	return n, nil
}

func (r *RateLimiter) validate() error {
	if r == nil {
		return nil
	}
	for _, d := range []struct {
		name string
		l    *RateLimit
	}{{Egress, r.Egress}, {Ingress, r.Ingress}} {
		if d.l == nil {
			continue
		}
		for _, b := range []struct {
			name string
			b    *TokenBucket
		}{{"bandwidth", d.l.Bandwidth}, {"ops", d.l.Ops}} {
			if b.b == nil {
				continue
			}
			if b.b.Size == 0 || b.b.Size > maxTokens || b.b.OneTimeBurst > maxTokens || b.b.RefillTimeMS == 0 || b.b.RefillTimeMS > maxRefillMS {
				return invalid("size from 1, refill_time_ms from 1 to a day", "rate limit %s %s is out of bounds", d.name, b.name)
			}
		}
	}
	return nil
}
