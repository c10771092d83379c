package policy

import "net/netip"

// Class says what kind of address a destination is. Every address has exactly one, found in the order of the constants:
// an address that is the host's and private is Host, the metadata service is not LinkLocal (contract msb-0.6 §6).
type Class uint8

// The classes, in the order in which they are tried.
const (
	Host      Class = iota // the gateway, and what the caller named as the host's own
	Metadata               // a cloud's instance metadata service
	Loopback               // 127.0.0.0/8, ::1
	Private                // RFC 1918, RFC 6598, fc00::/7
	LinkLocal              // 169.254.0.0/16, fe80::/10
	Multicast              // 224.0.0.0/4, ff00::/8
	Public                 // all that is not listed elsewhere, the documentation ranges included
	Reserved               // unspecified, broadcast, class E and forms that hide another address: nothing ever allows it
)

var classNames = [...]string{"host", "metadata", "loopback", "private", "link_local", "multicast", "public", "reserved"}

// String is the name of the group of a rule that matches the class.
func (c Class) String() string { return classNames[c] }

// metadata lists the addresses of metadata services and of those that give out credentials. The first two are the contract's;
// the others are services of the same kind, in ranges that a policy may well open (100.64.0.0/10, fc00::/7, link-local) or that
// are open by default. Sources are the documents of each: "Metadata" of Alibaba's ECS, "Azure IP address 168.63.129.16", "Query VM
// metadata" of Compute Engine, the OCI SDK's instance principals and Oracle's "Retrieving Instance Metadata" for Compute Classic,
// "Set up the Amazon EKS Pod Identity Agent", "Task IAM role" of Amazon ECS, cloud-init's data source of Scaleway, and "Metadata
// service API" of Akamai.
var metadata = [...]netip.Addr{
	netip.AddrFrom4([4]byte{169, 254, 169, 254}),
	netip.MustParseAddr("fd00:ec2::254"),
	netip.AddrFrom4([4]byte{100, 100, 100, 200}), // Alibaba Cloud
	netip.MustParseAddr("fd00:100::100:200"),
	netip.AddrFrom4([4]byte{168, 63, 129, 16}),  // Azure's wire server
	netip.MustParseAddr("fd20:ce::254"),         // Google Cloud
	netip.AddrFrom4([4]byte{192, 0, 0, 192}),    // Oracle Cloud Classic
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"),   // Oracle Cloud
	netip.AddrFrom4([4]byte{169, 254, 170, 2}),  // credentials of Amazon ECS
	netip.AddrFrom4([4]byte{169, 254, 170, 23}), // and of EKS
	netip.MustParseAddr("fd00:ec2::23"),
	netip.AddrFrom4([4]byte{169, 254, 42, 42}), // Scaleway
	netip.MustParseAddr("fd00:42::42"),
	netip.MustParseAddr("fd00:a9fe:a9fe::1"), // Akamai
	netip.MustParseAddr("fe80::a9fe:a9fe"),   // and OpenStack
}

// Embedded returns the IPv4 address that an IPv6 address is a wrapping of: IPv4-mapped (RFC 4291), SIIT
// (::ffff:0:0:0/96, RFC 2765), NAT64 (64:ff9b::/96, RFC 6052) and 6to4 (2002::/16, RFC 3056).
func Embedded(a netip.Addr) (netip.Addr, bool) {
	if a.Is4() {
		return netip.Addr{}, false
	}
	if a.Is4In6() {
		return a.Unmap(), true
	}
	b := a.As16()
	if b[0] == 0x20 && b[1] == 0x02 {
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	if p := [12]byte(b[:12]); p == nat64Prefix || p == siitPrefix {
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.Addr{}, false
}

var (
	nat64Prefix = [12]byte{0: 0, 1: 0x64, 2: 0xff, 3: 0x9b}
	siitPrefix  = [12]byte{8: 0xff, 9: 0xff}
)

// classify returns the class of a where nothing is known of the host's addresses. A zone is ignored.
func classify(a netip.Addr) Class {
	if a.Is4() {
		return classify4(a)
	}
	if e, ok := Embedded(a); ok {
		return classify4(e)
	}
	for _, m := range metadata {
		if a == m {
			return Metadata
		}
	}
	b := a.As16()
	switch {
	case a.IsLoopback():
		return Loopback
	case b[0]&0xfe == 0xfc, // fc00::/7
		b[0] == 0xfe && b[1]&0xc0 == 0xc0, // fec0::/10, site-local of old (RFC 3879)
		b[0] == 0 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b && b[4] == 0 && b[5] == 1: // 64:ff9b:1::/48, a NAT64 of the place (RFC 8215)
		return Private
	case b[0] == 0xfe && b[1]&0xc0 == 0x80:
		return LinkLocal
	case b[0] == 0xff:
		return Multicast
	case [8]byte(b[:8]) == [8]byte{}, // ::/64 holds :: and the IPv4-compatible form, neither is a destination
		b[0] == 0x20 && b[1] == 0x01 && b[2] == 0 && b[3] == 0: // Teredo: two IPv4 addresses inside, refused
		return Reserved
	}
	return Public
}

func classify4(a netip.Addr) Class {
	b := a.As4()
	for _, m := range metadata {
		if a == m {
			return Metadata
		}
	}
	switch {
	case b[0] == 127:
		return Loopback
	case b[0] == 10,
		b[0] == 172 && b[1]&0xf0 == 16,
		b[0] == 192 && b[1] == 168,
		b[0] == 100 && b[1]&0xc0 == 64:
		return Private
	case b[0] == 169 && b[1] == 254:
		return LinkLocal
	case b[0]&0xf0 == 224:
		return Multicast
	case b[0] == 0, b[0]&0xf0 == 240: // Linux takes a connection to 0.0.0.0 for one to itself; 240/4 holds broadcast
		return Reserved
	}
	return Public
}
