package runner

import (
	"cmp"
	"fmt"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/driver"
	"github.com/microsandbox-go/microsandbox/internal/metering"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// firstLook is when a sandbox is looked at first for all that it uses: one that ends before costs no sample. idleLook is how
// often it is, at least. busyCPU is how much CPU, of one CPU's time, is work and not the sentry's own housekeeping.
const (
	firstLook = 100 * time.Millisecond
	idleLook  = time.Second
	busyCPU   = 0.05
)

// pulse looks at the sandbox from time to time, from outside: it holds it to its memory, writes samples for readers of metrics,
// and ends a sandbox that nobody uses. All of it is one goroutine with one alarm: to wake an idle process costs more than a
// look.
func (s *supervisor) pulse() {
	spec := s.cfg.Info.Spec
	p := &pulse{s: s, sampling: !spec.Runtime.DisableMetrics, idle: spec.Lifecycle.IdleTimeout(), looks: idleLook,
		every: time.Duration(cmp.Or(spec.Runtime.MetricsIntervalMS, sandbox.DefaultMetricsIntervalMS)) * time.Millisecond}
	p.meter, _ = s.inst.(driver.Meter)
	p.gauge, _ = s.inst.(driver.Gauge)
	p.disks, _ = s.inst.(driver.Disks)
	p.sampling = p.sampling && p.gauge != nil
	if p.sampling {
		p.looks = min(p.every, idleLook)
	}
	defer p.close()
	p.last = look{at: s.startedAt}
	p.active = time.Now()
	p.due = p.active.Add(firstLook)
	for wait := time.Duration(0); ; {
		if s.alarm.wait(wait) != nil { // it is closed
			return
		}
		var ok bool
		if wait, ok = p.beat(); !ok {
			return
		}
	}
}

// epoch is when this process began, or nearly.
var epoch = time.Now()

// beat is how long it is until the next multiple of an interval: all that is looked at from time to time is looked at
// at the same times.
func beat(interval time.Duration) time.Duration { return interval - time.Since(epoch)%interval }

type pulse struct {
	s        *supervisor
	meter    driver.Meter // nil: nobody knows what the sandbox uses
	gauge    driver.Gauge // as meter
	disks    driver.Disks // as meter
	sampling bool
	every    time.Duration // between samples
	idle     time.Duration // after which a sandbox ends that nobody uses; 0: never
	looks    time.Duration // between two looks at all
	due      time.Time     // of the next one
	dog      watchdog

	sample  metering.Sample
	sampled look         // what the last sample was of
	record  *metricsFile // nil before the first sample
	written time.Time    // when it was given one last

	last   look
	active time.Time // when something happened last
}

// look is what was seen at one time.
type look struct {
	at       time.Time
	usage    driver.Usage
	net      netstack.Stats
	activity uint64
}

// beat looks once, and says how long not to look again, and whether to.
func (p *pulse) beat() (wait time.Duration, ok bool) {
	at := time.Now()
	due := !at.Before(p.due)
	used := p.dog.used
	usage, err := p.look(at, due || p.dog.resting)
	if p.s.limits.oom() {
		p.over("")
		return 0, false
	}
	switch limit := p.s.limits.memory.Load(); {
	case p.meter == nil:
		wait = p.looks
	case err != nil:
		if p.dog.failed() {
			p.over("its memory cannot be watched: ")
			return 0, false
		}
		wait = watchCalm
	case p.dog.used > limit:
		p.over("")
		return 0, false
	default:
		wait = p.dog.next(limit, used)
		if g := p.s.limits.getGroup(); g.Memory() && g.Holds() {
			// The kernel holds what was touched since the group has the processes; what was before counts here.
			wait = beat(groupInterval)
		}
	}
	if due {
		if p.s.tooMuch() {
			return 0, false
		}
		p.consider(at, usage)
		p.due = time.Now().Add(beat(p.looks))
	}
	return min(wait, time.Until(p.due)), true
}

// look takes a look at the sandbox's memory, or at all that it uses.
func (p *pulse) look(at time.Time, all bool) (driver.Usage, error) {
	switch {
	case all && p.gauge != nil:
		u, err := p.gauge.Usage()
		if err != nil {
			return p.last.usage, err // it is ending
		}
		p.s.cpuTime.Store(int64(u.CPU))
		p.dog.sawAll(at, u)
		return u, nil
	case p.meter != nil:
		used, err := p.meter.Memory()
		if err == nil {
			p.dog.saw(used)
		}
		return p.last.usage, err
	}
	return driver.Usage{}, nil
}

// over ends the sandbox for the memory that it takes.
func (p *pulse) over(why string) {
	p.s.end(sandbox.ReasonOOM, why+oomMessage(p.s.cfg.Info.Spec))
}

// consider does what is to be done with a look at all.
func (p *pulse) consider(at time.Time, usage driver.Usage) {
	now := look{at: at, activity: p.s.relay.work.activity.Load(), usage: usage}
	if p.s.gateway != nil {
		now.net = p.s.gateway.Stats()
	}
	if p.busy(now) {
		p.active = now.at
	}
	if p.sampling && (p.sampled.at.IsZero() || now.at.Sub(p.sampled.at) >= p.every-min(p.every, idleLook)/2) {
		p.measure(now)
		p.write()
	}
	p.last = now
	if p.idle > 0 && now.at.Sub(p.active) >= p.idle {
		p.s.retire(sandbox.ReasonIdle, fmt.Sprintf("nothing happened in it for %s", p.idle))
	}
}

// busy reports whether there is work, or was since the last look: sessions, messages, traffic through the gateway, or
// a program that computes.
func (p *pulse) busy(now look) bool {
	const part = 1 / busyCPU
	cpu := now.usage.CPU - p.last.usage.CPU
	return p.s.relay.work.sessions() > 0 || now.activity != p.last.activity ||
		now.net.Sent != p.last.net.Sent || now.net.Received != p.last.net.Received ||
		cpu*uint64(part) > uint64(now.at.Sub(p.last.at))
}

// measure makes the sample of what was seen now.
func (p *pulse) measure(now look) {
	memory, cpus := p.s.limits.now()
	m := metering.Sample{
		At: now.at, Started: p.s.startedAt, Interval: p.every, CPUs: uint64(cpus), CPUTime: time.Duration(now.usage.CPU),
		Memory: now.usage.Guest, Resident: now.usage.Resident, MemoryLimit: memory,
		DiskRead: now.usage.Read, DiskWritten: now.usage.Written, Received: now.net.Received, Sent: now.net.Sent,
	}
	since := p.sampled.at
	if since.IsZero() {
		since = p.s.startedAt
	}
	if d := now.at.Sub(since); d > 0 {
		m.CPUPercent = 100 * float64(now.usage.CPU-p.sampled.usage.CPU) / float64(d)
	}
	if p.disks != nil {
		for _, d := range p.disks.Disks() {
			m.DiskRead, m.DiskWritten = m.DiskRead+d.Read, m.DiskWritten+d.Written
			if d.Target == driver.DiskTarget {
				m.Upper, m.UpperUsed = true, d.Bytes
				if d.LimitBytes > d.Bytes {
					m.UpperFree = d.LimitBytes - d.Bytes
				}
			}
		}
	}
	p.sample, p.sampled = m, now
	p.s.samples.put(m)
}

// restRecord is how old the recorded sample of a sandbox may be in which nothing happens: whoever wants a new one asks for it.
const restRecord = 15 * time.Second

// write hands the sample on to be recorded. It does not wait: where the disk hangs, the sandbox's memory is watched all the same.
func (p *pulse) write() {
	if p.dog.resting && p.sampled.at.Sub(p.written) < restRecord {
		return
	}
	if p.record == nil {
		p.record = newMetricsFile(p.s.cfg.LogDir, p.s.log)
	}
	p.record.write(p.sample)
	p.written = p.sampled.at
}

// close leaves the last sample of a sandbox that is kept.
func (p *pulse) close() {
	if p.sampling && !p.s.cfg.Info.Spec.Lifecycle.Ephemeral {
		if p.sample.At.IsZero() {
			p.measure(p.last)
		}
		p.sample.At, p.sample.Exited, p.sample.CPUPercent = time.Now(), true, 0
		if p.record == nil {
			p.record = newMetricsFile(p.s.cfg.LogDir, p.s.log)
		}
		p.record.last = &p.sample
	}
	if p.record != nil {
		p.record.close()
	}
}
