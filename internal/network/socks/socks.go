// Package socks opens a sandbox's connections through a SOCKS server (SOCKS 4; SOCKS 5, RFC 1928, with RFC 1929).
package socks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Dialer opens TCP connections to addresses through a SOCKS server. Addresses of this machine's loopback, which no server
// could reach, it dials itself; nothing but TCP goes through it, so nothing else goes anywhere.
type Dialer struct {
	Proxy    sandbox.OutboundProxy
	Password string
	Direct   net.Dialer
}

var errOnlyTCP = fmt.Errorf("only TCP goes through a SOCKS server: %w", errors.ErrUnsupported)

// ErrServer is an error of the server itself, whatever the address: nobody answers there, or it does not take this user.
var ErrServer = errors.New("the SOCKS server cannot be used")

// DialContext opens a connection to address, an IP and a port. It fails with [ErrServer] if every other would, too.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if to.Addr().IsLoopback() {
		return d.Direct.DialContext(ctx, network, address)
	}
	if !strings.HasPrefix(network, "tcp") {
		return nil, errOnlyTCP
	}
	conn, err := d.Direct.DialContext(ctx, "tcp", d.Proxy.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if d.Proxy.Protocol == sandbox.ProxySOCKS4 {
		err = d.socks4(conn, to)
	} else {
		err = d.socks5(conn, to)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, ErrServer) {
			return nil, err
		}
		return nil, fmt.Errorf("open a connection through the SOCKS server: %w", err)
	}
	return conn, nil
}

const (
	version4, version5 = 4, 5
	connect            = 1
	noAuth, password   = 0, 2
	granted4           = 0x5a
	ipv4, name, ipv6   = 1, 3, 4
)

func (d *Dialer) socks4(conn net.Conn, to netip.AddrPort) error {
	if !to.Addr().Is4() {
		return errors.New("SOCKS4 knows no IPv6")
	}
	b := binary.BigEndian.AppendUint16([]byte{version4, connect}, to.Port())
	b = append(append(append(b, to.Addr().AsSlice()...), d.Proxy.UserID...), 0)
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var answer [8]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 0 || answer[1] != granted4 {
		return fmt.Errorf("it refused (%#x)", answer[1])
	}
	return nil
}

// refusals are the reasons of RFC 1928, section 6.
var refusals = [...]string{1: "it failed", 2: "its rules forbid it", 3: "the network is unreachable", 4: "the host is unreachable",
	5: "the connection was refused", 6: "the time to live expired", 7: "it does not know the command", 8: "it does not know the kind of address"}

func (d *Dialer) socks5(conn net.Conn, to netip.AddrPort) error {
	if err := d.greet(conn); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, err)
	}
	kind := byte(ipv4)
	if to.Addr().Is6() {
		kind = ipv6
	}
	b := append([]byte{version5, connect, 0, kind}, to.Addr().AsSlice()...)
	if _, err := conn.Write(binary.BigEndian.AppendUint16(b, to.Port())); err != nil {
		return err
	}
	return answer5(conn)
}

// greet makes this side known to a SOCKS5 server.
func (d *Dialer) greet(conn net.Conn) error {
	method := byte(noAuth)
	if d.Proxy.Username != "" {
		method = password
	}
	if _, err := conn.Write([]byte{version5, 1, method}); err != nil {
		return err
	}
	var choice [2]byte
	if _, err := io.ReadFull(conn, choice[:]); err != nil {
		return err
	}
	if choice[0] != version5 || choice[1] != method {
		return errors.New("it does not take this kind of authentication")
	}
	if method == noAuth {
		return nil
	}
	return d.authenticate(conn)
}

func (d *Dialer) authenticate(conn net.Conn) error {
	if len(d.Proxy.Username) > 255 || len(d.Password) > 255 || d.Password == "" {
		return errors.New("the user or the password has no length that SOCKS5 knows")
	}
	b := append([]byte{1, byte(len(d.Proxy.Username))}, d.Proxy.Username...)
	b = append(append(b, byte(len(d.Password))), d.Password...)
	_, err := conn.Write(b)
	clear(b)
	if err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return errors.New("it does not know the user or the password")
	}
	return nil
}

// answer5 reads the answer to a request, and exactly that: what follows is the connection's.
func answer5(conn net.Conn) error {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	switch code := int(head[1]); {
	case head[0] != version5:
		return errors.New("it does not speak SOCKS5")
	case code == 0:
	case code < len(refusals):
		return errors.New(refusals[code])
	default:
		return fmt.Errorf("it refused (%d)", code)
	}
	size := 0
	switch head[3] {
	case ipv4:
		size = 4
	case ipv6:
		size = 16
	case name:
		var n [1]byte
		if _, err := io.ReadFull(conn, n[:]); err != nil {
			return err
		}
		size = int(n[0])
	default:
		return errors.New("its answer makes no sense")
	}
	_, err := io.ReadFull(conn, make([]byte, size+2))
	return err
}
