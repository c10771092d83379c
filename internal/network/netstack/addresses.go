package netstack

import (
	"encoding/binary"
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

// The pools that addresses come from by default.
var (
	Pool4 = netip.MustParsePrefix("172.16.0.0/12")
	Pool6 = netip.MustParsePrefix("fd42:6d73:62::/48")
)

// Addresses returns those of network slot n in the default pools.
func Addresses(n int) (Ends, error) { return AddressesIn(Pool4, Pool6, n) }

// AddressesIn returns those of network slot n (contract msb-0.6 §5.6): of pool4 the n-th /30, of pool6 the n-th /64, and
// MACs that say the slot. A pool that has not so many begins anew. Links are not connected to each other, so every sandbox
// may have slot 1.
func AddressesIn(pool4, pool6 netip.Prefix, n int) (Ends, error) {
	if n < 1 || n > MaxSlot {
		return Ends{}, fmt.Errorf("network slot %d is not in 1-%d", n, MaxSlot)
	}
	if !pool4.Addr().Is4() || pool4.Bits() > PrefixBits4 || !pool6.Addr().Is6() || pool6.Bits() > PrefixBits6 {
		return Ends{}, fmt.Errorf("address pools %s and %s do not hold a sandbox's network", pool4, pool6)
	}
	hi, lo := byte(n>>8), byte(n)
	base4, base6 := pool4.Masked().Addr().As4(), pool6.Masked().Addr().As16()
	subnet4, subnet6 := uint64(n)&(1<<(PrefixBits4-pool4.Bits())-1), uint64(n)
	if bits := PrefixBits6 - pool6.Bits(); bits < 64 {
		subnet6 &= 1<<bits - 1
	}
	v4 := func(host uint32) netip.Addr {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base4[:])+uint32(subnet4)<<2+host)
		return netip.AddrFrom4(a)
	}
	v6 := func(host byte) netip.Addr {
		a := base6
		binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])+subnet6)
		a[15] = host
		return netip.AddrFrom16(a)
	}
	return Ends{
		Guest4: v4(2), Gateway4: v4(1),
		Guest6: v6(2), Gateway6: v6(1),
		GuestMAC:   net.HardwareAddr{0x02, 0x6d, 0x73, hi, lo, 0x02},
		GatewayMAC: net.HardwareAddr{0x02, 0x6d, 0x73, hi, lo, 0x01},
	}, nil
}
