package dns

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	maxPinned = 4096 // addresses
	maxNames  = 32   // per address
)

type pin struct {
	name  string
	until time.Time
}

// pins says which names each address was given to this sandbox for, and until when.
type pins struct {
	mu     sync.Mutex
	byAddr map[netip.Addr][]pin
}

func (p *pins) add(a netip.Addr, name string, until, now time.Time) {
	if !a.IsValid() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byAddr == nil {
		p.byAddr = map[netip.Addr][]pin{}
	}
	list := live(p.byAddr[a], now)
	if i := slices.IndexFunc(list, func(e pin) bool { return e.name == name }); i >= 0 {
		if list[i].until.Before(until) {
			list[i].until = until
		}
	} else {
		if len(list) >= maxNames {
			list = slices.Delete(list, 0, 1)
		}
		list = append(list, pin{name, until})
	}
	if _, known := p.byAddr[a]; !known && len(p.byAddr) >= maxPinned {
		p.shrink(now)
	}
	p.byAddr[a] = list
}

// shrink makes room: expired addresses go, else any one. Losing a pin denies, it does not allow.
func (p *pins) shrink(now time.Time) {
	for a, list := range p.byAddr {
		if list = live(list, now); len(list) == 0 {
			delete(p.byAddr, a)
		} else {
			p.byAddr[a] = list
		}
	}
	for a := range p.byAddr {
		if len(p.byAddr) < maxPinned*3/4 { // so that the next is long in coming
			return
		}
		delete(p.byAddr, a)
	}
}

func live(list []pin, now time.Time) []pin {
	return slices.DeleteFunc(list, func(e pin) bool { return !now.Before(e.until) })
}

func (p *pins) names(a netip.Addr, now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, e := range p.byAddr[a] {
		if now.Before(e.until) {
			names = append(names, e.name)
		}
	}
	return names
}
