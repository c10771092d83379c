package gvisor

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"gvisor.dev/gvisor/pkg/control/client"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// vnetGSOMaxSize is the largest frame on the link. With it set and gVisor's own segmentation off, the sentry puts a
// virtio-net header before each frame and leaves segmentation to the peer: seven times the throughput of plain frames.
const vnetGSOMaxSize = 65536

// networkArgs describes the sandbox's interfaces to the sentry.
func networkArgs(l *driver.Link) *boot.CreateLinksAndRoutesArgs {
	args := &boot.CreateLinksAndRoutesArgs{LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink}}
	if l == nil {
		return args
	}
	link := boot.FDBasedLink{
		Name:                 "eth0",
		InterfaceIndex:       2,
		MTU:                  int(l.MTU),
		LinkAddress:          l.MAC,
		NumChannels:          1,
		ProcessorsPerChannel: 1,
		GSOMaxSize:           vnetGSOMaxSize,
		TXChecksumOffload:    true,
		RXChecksumOffload:    true,
		QDisc:                config.QDiscNone,
	}
	add := func(p netip.Prefix, gw netip.Addr, dst *boot.DefaultRoute) {
		if !p.IsValid() {
			return
		}
		bits := p.Addr().BitLen()
		link.Addresses = append(link.Addresses, boot.IPWithPrefix{Address: p.Addr().AsSlice(), PrefixLen: p.Bits()})
		link.Routes = append(link.Routes, boot.Route{Destination: net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), bits)}})
		link.Neighbors = append(link.Neighbors, boot.Neighbor{IP: gw.AsSlice(), HardwareAddr: l.GatewayMAC})
		zero := netip.IPv4Unspecified()
		if bits == 128 {
			zero = netip.IPv6Unspecified()
		}
		*dst = boot.DefaultRoute{Name: link.Name, Route: boot.Route{
			Destination: net.IPNet{IP: zero.AsSlice(), Mask: net.CIDRMask(0, bits)}, Gateway: gw.AsSlice()}}
	}
	add(l.IPv4, l.Gateway4, &args.Defaultv4Gateway)
	add(l.IPv6, l.Gateway6, &args.Defaultv6Gateway)
	args.FDBasedLinks = []boot.FDBasedLink{link}
	args.FilePayload.Files = []*os.File{l.File}
	return args
}

// startRoot gives the sentry its network and starts the agent. gVisor's own Start would scrape a host namespace.
func startRoot(socket, id string, l *driver.Link) error {
	conn, err := client.ConnectTo(socket)
	if err != nil {
		return fmt.Errorf("connect to the sentry: %w", err)
	}
	defer conn.Close()
	if err := conn.Call(boot.ContMgrSetNetworkArgs, networkArgs(l), nil); err != nil {
		return fmt.Errorf("set up the sandbox's network: %w", err)
	}
	if err := conn.Call(boot.ContMgrRootContainerStart, &id, nil); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	return nil
}
