package netstack

import (
	"fmt"
	"net"
	"net/netip"
)

// Ends says what the two ends of one sandbox's link are called.
type Ends struct {
	Guest4, Gateway4 netip.Addr // in a /30
	Guest6, Gateway6 netip.Addr // in a /64
	GuestMAC         net.HardwareAddr
	GatewayMAC       net.HardwareAddr
}

// The prefixes that a slot's addresses are in, and the MTU of every link.
const (
	PrefixBits4 = 30
	PrefixBits6 = 64
	MTU         = 1500
)

// MaxSlot is the highest slot; the lowest is 1.
const MaxSlot = 65535

// Addresses returns those of network slot n (contract msb-0.6 §5.6): of 172.16.0.0/12 the n-th /30, of
// fd42:6d73:62::/48 the n-th /64, and MACs that say the slot. Links are not connected to each other, so every
// sandbox may have slot 1.
func Addresses(n int) (Ends, error) {
	if n < 1 || n > MaxSlot {
		return Ends{}, fmt.Errorf("network slot %d is not in 1-%d", n, MaxSlot)
	}
	hi, lo := byte(n>>8), byte(n)
	v4 := func(host int) netip.Addr {
		x := 4*n + host
		return netip.AddrFrom4([4]byte{172, 16 + byte(x>>16), byte(x >> 8), byte(x)})
	}
	v6 := func(host byte) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x42, 2: 0x6d, 3: 0x73, 4: 0x00, 5: 0x62, 6: hi, 7: lo, 15: host})
	}
	return Ends{
		Guest4: v4(2), Gateway4: v4(1),
		Guest6: v6(2), Gateway6: v6(1),
		GuestMAC:   net.HardwareAddr{0x02, 0x6d, 0x73, hi, lo, 0x02},
		GatewayMAC: net.HardwareAddr{0x02, 0x6d, 0x73, hi, lo, 0x01},
	}, nil
}
