package netstack

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestBucketAgainstModel: in no time span does more pass than the bucket held at its begin and got meanwhile, and whoever
// asks again at once when he was let through is never starved.
func TestBucketAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tb := sandbox.TokenBucket{
			Size: uint64(rapid.IntRange(1, 1<<20).Draw(t, "size")), RefillTimeMS: uint64(rapid.IntRange(1, 5000).Draw(t, "refill")),
			OneTimeBurst: uint64(rapid.IntRange(0, 1<<20).Draw(t, "burst")),
		}
		start := time.Unix(1000, 0)
		now, passed := start, 0.0
		b := newBucket(&tb, now)
		rate := float64(tb.Size) / (float64(tb.RefillTimeMS) / 1000)
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			now = now.Add(time.Duration(rapid.IntRange(0, int(time.Second)).Draw(t, "pause")))
			n := float64(rapid.IntRange(1, 1<<17).Draw(t, "take"))
			wait := b.take(n, now)
			now = now.Add(wait)
			passed += n
			most := float64(tb.Size) + float64(tb.OneTimeBurst) + rate*now.Sub(start).Seconds()
			if passed > most*1.000001+1 {
				t.Fatalf("%v passed by %v, at most %v may", passed, now.Sub(start), most)
			}
			if wait > time.Duration(n/rate*float64(time.Second))+time.Microsecond {
				t.Fatalf("%v tokens at %v per second: wait of %v", n, rate, wait)
			}
		}
	})
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimit(&sandbox.RateLimit{Bandwidth: &sandbox.TokenBucket{Size: 1000, RefillTimeMS: 1000}, Ops: &sandbox.TokenBucket{Size: 4, RefillTimeMS: 1000, OneTimeBurst: 2}}, time.Now())
		never := make(chan struct{})
		for i, want := range []time.Duration{0, 0, 500 * time.Millisecond, 500 * time.Millisecond} {
			begin := time.Now()
			if err := l.wait(never, never, 500); err != nil || time.Since(begin).Round(time.Millisecond) != want {
				t.Errorf("%d: waited %v, %v; want %v", i, time.Since(begin), err, want)
			}
		}
		if l.admit(1) {
			t.Error("an empty bucket admits")
		}
		time.Sleep(time.Second)
		for i := range 4 {
			if !l.admit(1) {
				t.Errorf("packet %d of 4 is dropped", i)
			}
		}
		if l.admit(1) {
			t.Error("the fifth of 4 packets is admitted")
		}
		gone := make(chan struct{})
		close(gone)
		if l.wait(never, gone, 1000) == nil {
			t.Error("a connection that is gone waits on")
		}
	})
	if l := newLimit(nil, time.Now()); !l.admit(1<<30) || l.wait(nil, nil, 1<<30) != nil || l.chunk() != piece {
		t.Error("no limit limits")
	}
}

// TestLimitedConnection moves more than the bucket holds, both ways; that it takes as long as it must is TestLimit's.
func TestLimitedConnection(t *testing.T) {
	const size = 300 << 10
	limit := &sandbox.RateLimit{Bandwidth: &sandbox.TokenBucket{Size: 100 << 10, RefillTimeMS: 20}}
	w := newWorld(t, Config{Egress: limit, Ingress: limit})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
		b, _ := io.ReadAll(c)
		_, _ = c.Write(b)
	})
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	begin := time.Now()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(b, data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	// Each way 100 KiB at once and the rest at 5 MiB/s: this is a bound from below, which no slow machine breaks.
	if took, least := time.Since(begin), 2*(size-100<<10)*20*time.Millisecond/(100<<10); took < least {
		t.Errorf("%v for what must take %v", took, least)
	}
}

// TestLimitedConnectionEnds: a connection that waits for tokens it will not have for hours ends when its far end is gone.
func TestLimitedConnectionEnds(t *testing.T) {
	w := newWorld(t, Config{Egress: &sandbox.RateLimit{Bandwidth: &sandbox.TokenBucket{Size: 1, RefillTimeMS: 3_600_000}}}, gatewayFirst)
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	c := w.mustDial(t, "198.51.100.7:80")
	defer c.Close()
	_, _ = c.Write(make([]byte, 10<<10))
	if err := w.gw.Close(); err != nil {
		t.Error(err)
	}
}
