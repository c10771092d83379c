package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TestReusedPort has a guest end connections and take the port again at once, for the same server.
func TestReusedPort(t *testing.T) {
	w := newWorld(t, Config{})
	w.net.listen(t, "198.51.100.7:80", func(c net.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) })    // the guest ends it
	w.net.listen(t, "198.51.100.7:81", func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)); _, _ = c.Write([]byte{0}) }) // the server does
	w.net.listen(t, "198.51.100.7:82", func(c net.Conn) { _, _ = c.Read([]byte{0}) })                                          // with a reset, for the byte is not read
	ends := map[string]func(ep tcpip.Endpoint){"80": tcpip.Endpoint.Abort, "81": tcpip.Endpoint.Close, "82": tcpip.Endpoint.Abort}
	for port, end := range ends {
		to, proto := full(netip.MustParseAddrPort("198.51.100.7:" + port))
		from, _ := full(netip.AddrPortFrom(w.guest.ends.Guest4, 5000))
		for i := range 100 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			c, err := gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, proto)
			for tries := 0; err != nil && strings.Contains(err.Error(), "port is in use") && tries < 1000; tries++ {
				time.Sleep(time.Millisecond) // the guest's own TIME-WAIT
				c, err = gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, proto)
			}
			cancel()
			if err != nil {
				t.Fatalf("port %s, connection %d: %v", port, i, err)
			}
			_, _ = c.Write([]byte("xx")[:1+i%2])
			if port != "82" {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatalf("port %s, connection %d: %v", port, i, err)
				}
			}
			for _, e := range w.guest.stack.RegisteredEndpoints() {
				if ep, ok := e.(tcpip.Endpoint); ok && tcp.EndpointState(ep.State()) == tcp.StateEstablished {
					end(ep)
				}
			}
			c.Close()
		}
	}
}
