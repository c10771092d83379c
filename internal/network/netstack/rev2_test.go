package netstack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestBrokenWhileHostReadsNothing breaks connections whose server takes nothing and says nothing, so that it is up to the gateway to notice.
func TestBrokenWhileHostReadsNothing(t *testing.T) {
	for _, how := range []string{"the guest resets", "the policy denies"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, Config{})
			told := make(chan error, 1)
			stop := make(chan struct{})
			w.net.listen(t, "198.51.100.7:80", func(c net.Conn) {
				<-stop
				_, err := io.Copy(io.Discard, c)
				told <- err
			})
			c := w.mustDial(t, "198.51.100.7:80")
			defer c.Close()
			_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second)) // by then there is no room anywhere
			var err error
			for err == nil {
				_, err = c.Write(make([]byte, 256<<10))
			}
			if how == "the guest resets" {
				for _, e := range w.guest.stack.RegisteredEndpoints() {
					e.Abort()
				}
			} else if err := w.gw.SetPolicy(sandbox.DenyAllPolicy(), false); err != nil {
				t.Fatal(err)
			}
			for i := 0; w.gw.Stats().Open > 0 || len(w.gw.Flows()) > 0; i++ {
				if i == 500 {
					t.Error("the connection to the host is still there")
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			close(stop)
			if err := <-told; err == nil {
				t.Error("the server was not told of the reset")
			}
		})
	}
}

// TestSizes sends datagrams of all sizes where the link's ways of receiving change.
func TestSizes(t *testing.T) {
	e, _ := Addresses(1)
	for _, v6 := range []bool{false, true} {
		fake := &fakeNet{}
		got := make(chan []byte, 1)
		fake.listenUDP(t, "198.51.100.7:99", func(b []byte) []byte { got <- slices.Clone(b); return nil })
		fake.listenUDP(t, "[2001:db8::7]:99", func(b []byte) []byte { got <- slices.Clone(b); return nil })
		_, pair := rawWorld(t, Config{Dialer: fake, Policy: sandbox.AllowAllPolicy()})
		for _, options := range []int{0, 40} {
			var sizes []int
			for i := range 80 {
				sizes = append(sizes, i, 1400+i-70, 2048-120+i, 2048-40+i, 32768-80+i, 32768+i, 65535-8-60-i)
			}
			for _, n := range sizes {
				if n < 0 {
					continue
				}
				u := make([]byte, header.UDPMinimumSize+n)
				header.UDP(u).Encode(&header.UDPFields{SrcPort: 1000, DstPort: 99, Length: uint16(len(u))})
				for i := range n {
					u[8+i] = byte(i*31 + n)
				}
				var m []byte
				if v6 {
					m = frame6(e.Guest6, netip.MustParseAddr("2001:db8::7"), 17, u)
				} else {
					m = frame4(e.Guest4, netip.MustParseAddr("198.51.100.7"), 17, u)
					if options > 0 {
						ip := m[vnetHdrLen+ethHdrLen:]
						o := make([]byte, options)
						for i := range o {
							o[i] = 1
						}
						m = slices.Concat(m[:vnetHdrLen+ethHdrLen+20], o, ip[20:])
						h := header.IPv4(m[vnetHdrLen+ethHdrLen:])
						h[0] = 0x40 | byte((20+options)/4)
						h.SetTotalLength(uint16(20 + options + len(u)))
						h.SetChecksum(0)
						h.SetChecksum(^h.CalculateChecksum())
					}
				}
				m[1], m[4], m[5] = vnetGSOTCPv4, 0xdc, 5
				if _, err := pair.Sentry.Write(m); err != nil {
					t.Fatal(err)
				}
				select {
				case b := <-got:
					if !slices.Equal(b, u[8:]) {
						t.Errorf("v6 %v, options %d, %d bytes: others came, %d", v6, options, n, len(b))
					}
				case <-time.After(3 * time.Second):
					t.Errorf("v6 %v, options %d, %d bytes: nothing came", v6, options, n)
				}
			}
			if v6 {
				break
			}
		}
	}
}

// BenchmarkUp uploads over both versions of IP.
func BenchmarkUp(b *testing.B) {
	for _, at := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		b.Run(fmt.Sprint(at[0] == '['), func(b *testing.B) {
			w := newWorld(b, Config{Policy: sandbox.AllowAllPolicy()})
			done := make(chan struct{}, 1)
			w.net.listen(b, at, func(c net.Conn) {
				_, _ = io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
				done <- struct{}{}
			})
			c := w.mustDial(b, at)
			buf := make([]byte, 1<<20)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			b.SetBytes(1 << 20)
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			c.CloseWrite()
			<-done
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/1024, "KiB-alloc/MiB")
			c.Close()
		})
	}
}
