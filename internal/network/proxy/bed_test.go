package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/microsandbox-go/microsandbox/internal/network/ca"
	"github.com/microsandbox-go/microsandbox/internal/network/netstack"
	"github.com/microsandbox-go/microsandbox/internal/network/secret"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is a guest behind a real gateway with a proxy, and an outside in which every address is a listener of the test's.
type bed struct {
	t       testing.TB
	stack   *stack.Stack
	ends    netstack.Ends
	gateway *netstack.Gateway
	proxy   *Proxy
	roots   *x509.CertPool // what the guest trusts
	servers *issuer        // makes the servers' certificates

	mu     sync.Mutex
	at     map[string]string   // IP:port → address on loopback
	names  map[string][]string // what the name server knows
	events []string
	ended  []string // what Terminate was told
}

// opts are what a test wants of its bed.
type opts struct {
	policy  *sandbox.NetworkPolicy // default: all that is public
	rules   string                 // in place of it, before a default of deny, as in --net-rule
	tls     *sandbox.TLS
	secrets *sandbox.Secrets
	values  []string
	strict  bool
	scoped  []Authority
	names   map[string][]string
}

// The outside.
const (
	goodIP, evilIP, otherIP = "93.184.216.34", "203.0.113.66", "198.51.100.7"
	good, evil, other       = "api.good.test", "evil.test", "other.test"
)

func newBed(t testing.TB, o opts) *bed {
	t.Helper()
	certPEM, keyPEM, err := ca.Open(t.TempDir())
	must(t, err)
	outCert, outKey, err := ca.Open(t.TempDir())
	must(t, err)
	b := &bed{t: t, at: map[string]string{}, roots: x509.NewCertPool(),
		names: map[string][]string{good: {goodIP}, evil: {evilIP}, other: {otherIP}, "shared.test": {goodIP}, "sub." + good: {goodIP}}}
	for n, a := range o.names {
		b.names[n] = a
	}
	b.roots.AppendCertsFromPEM(certPEM)
	b.servers, err = newIssuer(outCert, outKey, 100, time.Hour)
	must(t, err)
	outside := x509.NewCertPool()
	outside.AppendCertsFromPEM(outCert)

	set, err := secret.New(o.secrets, o.values)
	must(t, err)
	p, err := New(Config{TLS: o.tls, CACert: certPEM, CAKey: keyPEM, Roots: outside, Upstream: o.scoped, Secrets: set,
		Terminate: func(why string) { b.mu.Lock(); b.ended = append(b.ended, why); b.mu.Unlock() }})
	must(t, err)

	b.proxy = p

	policy := sandbox.PublicPolicy()
	if o.policy != nil {
		policy = *o.policy
	}
	if o.rules != "" {
		rules, err := sandbox.ParseNetworkRules(o.rules)
		must(t, err)
		policy = sandbox.NetworkPolicy{DefaultEgress: sandbox.Deny, DefaultIngress: sandbox.Deny, Rules: rules}
	}
	pair, err := netstack.NewPair()
	must(t, err)
	b.ends, err = netstack.Addresses(1)
	must(t, err)
	b.gateway, err = netstack.New(netstack.Config{
		Link: pair.Gateway, Policy: policy, Dialer: b, Inspector: p, Strict: o.strict, InterceptDoT: o.tls != nil,
		DNS:     netstack.DNSConfig{Nameservers: []netip.AddrPort{b.nameserver()}, Dialer: &net.Dialer{}},
		OnEvent: func(text string) { b.mu.Lock(); b.events = append(b.events, text); b.mu.Unlock() },
	})
	must(t, err)
	ep, err := fdbased.New(&fdbased.Options{FDs: []int{int(pair.Sentry.Fd())}, MTU: netstack.MTU, EthernetHeader: true,
		Address: tcpip.LinkAddress(b.ends.GuestMAC), GSOMaxSize: 65536, RXChecksumOffload: true, TXChecksumOffload: true, ProcessorsPerChannel: 1})
	must(t, err)
	b.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	wait := tcpip.TCPTimeWaitTimeoutOption(10 * time.Millisecond)
	b.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &wait)
	if terr := b.stack.CreateNIC(1, ep); terr != nil {
		t.Fatal(terr)
	}
	b.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(b.ends.Guest4.As4()), PrefixLen: netstack.PrefixBits4}}, stack.AddressProperties{})
	b.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(b.ends.Gateway4.As4()), NIC: 1}})
	t.Cleanup(func() {
		_ = b.gateway.Close()
		must(t, p.Close())
		b.stack.Close()
		_ = pair.Sentry.Close()
		ep.Wait()
		b.stack.Wait()
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// DialContext is how the gateway reaches the outside.
func (b *bed) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	b.mu.Lock()
	to := b.at[address]
	b.mu.Unlock()
	if to == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
	}
	if network == "tcp" {
		return netstack.DialTCP(netip.MustParseAddrPort(to), time.Now().Add(10*time.Second))
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

// nameserver starts one that knows b.names.
func (b *bed) nameserver() netip.AddrPort {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(b.t, err)
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, a := range b.names[strings.TrimSuffix(q.Question[0].Name, ".")] {
			if q.Question[0].Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(a)})
			}
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan struct{})
	up := make(chan struct{})
	s.NotifyStartedFunc = func() { close(up) }
	go func() { defer close(done); _ = s.ActivateAndServe() }()
	<-up
	b.t.Cleanup(func() { _ = s.Shutdown(); <-done })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// resolve asks the gateway's resolver, as the guest's libc does.
func (b *bed) resolve(name string) (string, error) {
	if _, err := netip.ParseAddr(name); err == nil {
		return name, nil
	}
	c, err := gonet.DialUDP(b.stack, nil, &tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(b.ends.Gateway4.As4()), Port: 53}, ipv4.ProtocolNumber)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	q, _ := new(dns.Msg).SetQuestion(name+".", dns.TypeA).Pack()
	if _, err := c.Write(q); err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	var m dns.Msg
	if err := m.Unpack(buf[:n]); err != nil {
		return "", err
	}
	if len(m.Answer) == 0 {
		return "", fmt.Errorf("no such host: %s", name)
	}
	return m.Answer[0].(*dns.A).A.String(), nil
}

// dial connects as the guest, to host:port, where host is resolved as the guest would.
func (b *bed) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ip, err := b.resolve(host)
	if err != nil {
		return nil, err
	}
	var p uint16
	_, _ = fmt.Sscan(port, &p)
	return gonet.DialContextTCP(ctx, b.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(netip.MustParseAddr(ip).As4()), Port: p}, ipv4.ProtocolNumber)
}

// client is an HTTP client in the guest that resolves every name as at says, if it does.
func (b *bed) client(at map[string]string) *http.Client {
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.roots}, ForceAttemptHTTP2: true, DisableCompression: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, port, _ := net.SplitHostPort(address)
			if to := at[host]; to != "" {
				address = net.JoinHostPort(to, port)
			}
			return b.dial(ctx, address)
		}}
	b.t.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// put has an address of the outside lead to a listener.
func (b *bed) put(address, to string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at[address] = to
}

// listen serves raw connections at an address of the outside.
func (b *bed) listen(address string, serve func(net.Conn)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b.t, err)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { defer c.Close(); serve(c) })
		}
	})
	b.t.Cleanup(func() { l.Close(); served.Wait() })
	b.put(address, l.Addr().String())
}

// site is a web server of the outside, and what it was sent.
type site struct {
	*httptest.Server
	mu  sync.Mutex
	got bytes.Buffer // every byte that came, decrypted
}

// saw reports whether the server was sent something with text in it.
func (s *site) saw(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.got.Bytes(), []byte(text))
}

// serve starts a web server at an address of the outside; with TLS if names are given, which its certificate is for.
func (b *bed) serve(address string, h http.Handler, names ...string) *site {
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.note(fmt.Sprintf("%s %s %s\n", r.Method, r.RequestURI, r.Host))
		for k, vs := range r.Header {
			s.note(k + ": " + strings.Join(vs, "|") + "\n")
		}
		r.Body = &noted{r.Body, s}
		h.ServeHTTP(w, r)
		for k, vs := range r.Trailer {
			s.note(k + ": " + strings.Join(vs, "|") + "\n")
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if len(names) > 0 {
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := h.ServerName
			if !slices.Contains(names, name) {
				name = names[0]
			}
			return b.servers.certificate(name)
		}}
		cert, err := b.servers.certificate(names[0])
		must(b.t, err)
		s.TLS.Certificates = []tls.Certificate{*cert}
		s.StartTLS()
	} else {
		s.Start()
	}
	b.t.Cleanup(s.Close)
	b.put(address, s.Listener.Addr().String())
	return s
}

func (s *site) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.got.Len() < 4<<20 {
		s.got.WriteString(text)
	}
}

// noted is a body that is written down.
type noted struct {
	io.ReadCloser
	s *site
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.ReadCloser.Read(p)
	n.s.note(string(p[:k]))
	return k, err
}

// said reports whether an event with text in it was told.
func (b *bed) said(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.events, func(e string) bool { return strings.Contains(e, text) })
}

// says waits for an event with one of texts in it.
func (b *bed) says(texts ...string) bool {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if slices.ContainsFunc(texts, b.said) {
			return true
		}
	}
	return false
}

// hello answers with what it was asked.
var helloHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	w.Header().Set("X-Proto", r.Proto)
	fmt.Fprintf(w, "%s %s %s %d", r.Method, r.Host, r.URL.Path, n)
})

// get returns the body of an answer, or the error's text.
func get(c *http.Client, req *http.Request) (status int, body string) {
	res, err := c.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, string(all) + " " + err.Error()
	}
	return res.StatusCode, string(all)
}

func request(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	must(t, err)
	return r
}

var on = &sandbox.TLS{Enabled: true}

// own is an authority that nobody knows.
type own struct {
	issuer *issuer
	pem    []byte
}

func newOwn(t testing.TB) own {
	t.Helper()
	cert, key, err := ca.Open(t.TempDir())
	must(t, err)
	i, err := newIssuer(cert, key, 10, time.Hour)
	must(t, err)
	return own{i, cert}
}
