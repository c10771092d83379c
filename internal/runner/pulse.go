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

// firstLook is when a sandbox is looked at first: one that ends before costs no sample. idleLook is how often it is looked at
// for an idle timeout. busyCPU is how much CPU, of one CPU's time, is work and not the sentry's own housekeeping.
const (
	firstLook = 100 * time.Millisecond
	idleLook  = time.Second
	busyCPU   = 0.05
)

// pulse looks at the sandbox from time to time, from outside: it writes samples for readers of metrics, and ends a sandbox
// that nobody uses.
func (s *supervisor) pulse() {
	spec := s.cfg.Info.Spec
	p := &pulse{s: s, sampling: !spec.Runtime.DisableMetrics, idle: spec.Lifecycle.IdleTimeout(),
		every: time.Duration(cmp.Or(spec.Runtime.MetricsIntervalMS, sandbox.DefaultMetricsIntervalMS)) * time.Millisecond}
	p.gauge, _ = s.inst.(driver.Gauge)
	p.disks, _ = s.inst.(driver.Disks)
	p.sampling = p.sampling && p.gauge != nil
	if !p.sampling && p.idle == 0 {
		return
	}
	defer p.close()
	p.last = look{at: s.startedAt}
	p.active = time.Now()
	t := time.NewTimer(firstLook)
	defer t.Stop()
	for {
		select {
		case <-s.gone:
			return
		case <-t.C:
		}
		p.beat()
		next := p.every
		if p.idle > 0 {
			next = min(next, idleLook)
		}
		t.Reset(beat(next))
	}
}

// epoch is when this process began, or nearly.
var epoch = time.Now()

// beat is how long it is until the next multiple of an interval. All that look from time to time do so at the same times: to
// wake an idle process costs more than a look.
func beat(interval time.Duration) time.Duration { return interval - time.Since(epoch)%interval }

type pulse struct {
	s        *supervisor
	gauge    driver.Gauge
	disks    driver.Disks
	sampling bool
	every    time.Duration
	idle     time.Duration

	out     *metering.Writer
	failed  bool // out cannot be written
	written time.Time
	sample  metering.Sample
	sampled look // what the last sample was of

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

func (p *pulse) beat() {
	now := look{at: time.Now(), activity: p.s.relay.work.activity.Load(), usage: p.last.usage}
	if p.gauge != nil {
		if u, err := p.gauge.Usage(); err == nil { // else it is ending
			now.usage = u
		}
	}
	if p.s.gateway != nil {
		now.net = p.s.gateway.Stats()
	}
	if p.busy(now) {
		p.active = now.at
	}
	if p.sampling && (p.written.IsZero() || now.at.Sub(p.written) >= p.every-min(p.every, idleLook)/2) {
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
}

func (p *pulse) write() {
	p.written = p.sample.At
	if p.failed {
		return
	}
	var err error
	if p.out == nil {
		p.out, err = metering.Create(p.s.cfg.LogDir)
	}
	if err == nil {
		err = p.out.Write(&p.sample)
	}
	if err != nil {
		p.failed = true
		p.s.log.Warn("there are no metrics", "err", err)
	}
}

// close leaves the last sample of a sandbox that is kept.
func (p *pulse) close() {
	if p.sampling && !p.s.cfg.Info.Spec.Lifecycle.Ephemeral {
		if p.sample.At.IsZero() {
			p.measure(p.last)
		}
		p.sample.At, p.sample.Exited, p.sample.CPUPercent = time.Now(), true, 0
		p.write()
	}
	if p.out != nil {
		_ = p.out.Close()
	}
}
