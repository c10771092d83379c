package socks

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a SOCKS server that leads every connection to an echo, and answers as answer says.
type server struct {
	mu     sync.Mutex
	asked  []string // what it was asked for
	user   string
	pass   string
	answer []byte // in place of "granted"
}

func (s *server) serve(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				if to, ok := s.hello(in, c); ok {
					s.mu.Lock()
					s.asked = append(s.asked, to)
					s.mu.Unlock()
					_, _ = io.Copy(c, in)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (s *server) hello(in *bufio.Reader, out io.Writer) (string, bool) {
	take := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(in, b)
		return b
	}
	switch take(1)[0] {
	case 4:
		b := take(7)
		user, _ := in.ReadString(0)
		to := fmt.Sprintf("4 %s:%d %s", netip.AddrFrom4([4]byte(b[3:])), binary.BigEndian.Uint16(b[1:]), strings.TrimRight(user, "\x00"))
		granted := []byte{0, 0x5a, 0, 0, 0, 0, 0, 0}
		if s.answer != nil {
			granted = s.answer
		}
		_, _ = out.Write(granted)
		return to, s.answer == nil
	case 5:
		methods := take(int(take(1)[0]))
		_, _ = out.Write([]byte{5, methods[0]})
		who := ""
		if methods[0] == 2 {
			take(1)
			user := string(take(int(take(1)[0])))
			pass := string(take(int(take(1)[0])))
			if user != s.user || pass != s.pass {
				_, _ = out.Write([]byte{1, 1})
				return "", false
			}
			_, _ = out.Write([]byte{1, 0})
			who = user
		}
		size := 4
		if take(4)[3] == 4 {
			size = 16
		}
		a, _ := netip.AddrFromSlice(take(size))
		to := fmt.Sprintf("5 %s %s", netip.AddrPortFrom(a, binary.BigEndian.Uint16(take(2))), who)
		granted := append([]byte{5, 0, 0, 3, 3}, "a.b\x00\x01"...)
		if s.answer != nil {
			granted = s.answer
		}
		_, _ = out.Write(granted)
		return to, s.answer == nil
	}
	return "", false
}

func TestDial(t *testing.T) {
	for _, x := range []struct {
		proxy    sandbox.OutboundProxy
		password string
		to       string
		asked    string
		err      string
	}{
		{sandbox.OutboundProxy{Protocol: "socks5"}, "", "93.184.216.34:443", "5 93.184.216.34:443 ", ""},
		{sandbox.OutboundProxy{Protocol: "socks5"}, "", "[2001:db8::1]:80", "5 [2001:db8::1]:80 ", ""},
		{sandbox.OutboundProxy{Protocol: "socks5", Username: "me", PasswordEnv: "P"}, "pass", "93.184.216.34:443", "5 93.184.216.34:443 me", ""},
		{sandbox.OutboundProxy{Protocol: "socks5", Username: "me", PasswordEnv: "P"}, "wrong", "93.184.216.34:443", "", "does not know the user"},
		{sandbox.OutboundProxy{Protocol: "socks4", UserID: "me"}, "", "93.184.216.34:443", "4 93.184.216.34:443 me", ""},
		{sandbox.OutboundProxy{Protocol: "socks4"}, "", "[2001:db8::1]:80", "", "no IPv6"},
	} {
		s := &server{user: "me", pass: "pass"}
		x.proxy.Address = s.serve(t).String()
		d := Dialer{Proxy: x.proxy, Password: x.password}
		c, err := d.DialContext(context.Background(), "tcp", x.to)
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) || x.password != "" && strings.Contains(err.Error(), x.password) || errors.Is(err, ErrServer) != (x.proxy.Protocol == "socks5") {
				t.Errorf("%+v: %v, want %q", x, err, x.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", x, err)
			continue
		}
		fmt.Fprint(c, "hello")
		buf := make([]byte, 5)
		_, err = io.ReadFull(c, buf)
		c.Close()
		s.mu.Lock()
		if string(buf) != "hello" || len(s.asked) != 1 || s.asked[0] != x.asked {
			t.Errorf("%+v: %q %v, asked for %q", x, buf, err, s.asked)
		}
		s.mu.Unlock()
	}
}

func TestRefusals(t *testing.T) {
	for what, x := range map[string]struct {
		protocol string
		answer   []byte
	}{
		"refused":           {"socks5", []byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0}},
		"an unknown reason": {"socks5", []byte{5, 99, 0, 1, 0, 0, 0, 0, 0, 0}},
		"another version":   {"socks5", []byte{4, 0, 0, 1, 0, 0, 0, 0, 0, 0}},
		"no such address":   {"socks5", []byte{5, 0, 0, 7, 0, 0}},
		"cut off":           {"socks5", []byte{5, 0}},
		"4 refused":         {"socks4", []byte{0, 0x5b, 0, 0, 0, 0, 0, 0}},
		"4 nonsense":        {"socks4", []byte{1, 0x5a, 0, 0, 0, 0, 0, 0}},
		"4 cut off":         {"socks4", []byte{0}},
	} {
		s := &server{answer: x.answer}
		d := Dialer{Proxy: sandbox.OutboundProxy{Protocol: x.protocol, Address: s.serve(t).String()}}
		if c, err := d.DialContext(context.Background(), "tcp", "93.184.216.34:1"); err == nil {
			c.Close()
			t.Errorf("%s: no error", what)
		} else if errors.Is(err, ErrServer) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWhatGoesElsewhere dials what a SOCKS server has no part in.
func TestWhatGoesElsewhere(t *testing.T) {
	s := &server{}
	d := Dialer{Proxy: sandbox.OutboundProxy{Protocol: "socks5", Address: s.serve(t).String()}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := d.DialContext(context.Background(), "tcp", l.Addr().String()); err != nil {
		t.Errorf("the host's loopback: %v", err)
	} else {
		c.Close()
	}
	l.Close()
	if _, err := (&Dialer{Proxy: sandbox.OutboundProxy{Protocol: "socks5", Address: l.Addr().String()}}).DialContext(context.Background(), "tcp", "93.184.216.34:1"); !errors.Is(err, ErrServer) {
		t.Errorf("nobody is there: %v", err)
	}
	if _, err := d.DialContext(context.Background(), "udp", "93.184.216.34:53"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("UDP: %v", err)
	}
	if len(s.asked) > 0 {
		t.Errorf("the server was asked for %q", s.asked)
	}
}

// TestSilence has a server that says nothing.
func TestSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	d := Dialer{Proxy: sandbox.OutboundProxy{Protocol: "socks5", Address: l.Addr().String()}}
	if _, err := d.DialContext(ctx, "tcp", "93.184.216.34:1"); err == nil {
		t.Error("no error")
	}
}
