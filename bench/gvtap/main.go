// Command gvtap is the peer that the network gateway is compared with: gvisor-tap-vsock on a link that it inherits as file
// descriptor 3, one Ethernet frame per message. It has a module of its own, because it needs another version of gVisor.
package main

import (
	"context"
	"log"
	"net"
	"os"
	"strconv"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
)

func main() {
	mtu, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	n, err := virtualnetwork.New(&types.Configuration{
		MTU: mtu, Subnet: "192.168.127.0/24", GatewayIP: "192.168.127.1", GatewayMacAddress: "5a:94:ef:e4:0c:dd",
		NAT: map[string]string{"192.168.127.254": "127.0.0.1"}, Protocol: types.BessProtocol,
	})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.FileConn(os.NewFile(3, "link"))
	if err != nil {
		log.Fatal(err)
	}
	_ = n.AcceptBess(context.Background(), conn) // until the far end is gone
}
