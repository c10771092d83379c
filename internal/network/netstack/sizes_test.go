package netstack

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

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
