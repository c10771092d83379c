package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

func itoa(i int) string { return strconv.Itoa(i) }

var (
	errNoServer = errors.New("no name server")
	errStrange  = errors.New("the name server's answer is not to the question")
)

// maxServers is how many name servers of resolv.conf are used, as in libc.
const maxServers = 3

// servers knows whom to ask.
type servers struct {
	fixed []netip.AddrPort
	file  string

	mu    sync.Mutex
	known []netip.AddrPort
	read  time.Time
}

// reread is how old what was read from resolv.conf may get: a laptop changes its network while a sandbox runs.
const reread = 30 * time.Second

func (s *servers) list(now time.Time) []netip.AddrPort {
	if len(s.fixed) > 0 {
		return s.fixed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read.IsZero() || now.Sub(s.read) > reread {
		s.known, s.read = readResolvConf(s.file), now
	}
	return s.known
}

// readResolvConf returns the name servers of a resolv.conf(5); none when it cannot be read.
func readResolvConf(path string) []netip.AddrPort {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var list []netip.AddrPort
	for lines := bufio.NewScanner(f); lines.Scan() && len(list) < maxServers; {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(words[1]); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}

// forward asks the name servers in turn, twice each, until one gives an answer or the time is up.
func (r *Resolver) forward(ctx context.Context, ask dns.Question, do bool) (*dns.Msg, error) {
	list := r.servers.list(r.cfg.Now())
	if len(list) == 0 {
		return nil, errNoServer
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	select {
	case r.forwards <- struct{}{}:
		defer func() { <-r.forwards }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q := new(dns.Msg)
	q.Id = dns.Id()
	q.RecursionDesired = true
	q.Question = []dns.Question{ask}
	q.SetEdns0(1232, do) // what passes every path unfragmented
	err := errNoServer
	var last *dns.Msg
	patience := r.cfg.Timeout / time.Duration(2*len(list))
	for range 2 {
		for _, s := range list {
			var m *dns.Msg
			if m, err = r.exchange(ctx, s, q, patience); err != nil {
				continue
			}
			if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
				return m, nil
			}
			last = m // SERVFAIL, REFUSED: another server may know better
		}
		if last != nil {
			break
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// exchange asks one server over UDP, and over TCP when the answer did not fit.
func (r *Resolver) exchange(ctx context.Context, s netip.AddrPort, q *dns.Msg, patience time.Duration) (*dns.Msg, error) {
	if s.Port() == 0 {
		s = netip.AddrPortFrom(s.Addr(), 53)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := r.exchangeOver(ctx, "udp", s, q)
	if err == nil && m.Truncated {
		return r.exchangeOver(ctx, "tcp", s, q)
	}
	return m, err
}

func (r *Resolver) exchangeOver(ctx context.Context, network string, s netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	conn, err := r.cfg.Dial(ctx, network, s.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := readMsg(conn, network, buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) == nil && answers(m, q) {
			return m, nil
		}
		if network == "tcp" {
			return nil, errStrange
		}
	}
}

func readMsg(conn net.Conn, network string, buf []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	if !readFull(conn, buf[:2]) {
		return 0, errStrange
	}
	n := int(binary.BigEndian.Uint16(buf))
	if !readFull(conn, buf[:n]) {
		return 0, errStrange
	}
	return n, nil
}

func answers(m, q *dns.Msg) bool {
	return m.Response && m.Id == q.Id && len(m.Question) == 1 &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
}
