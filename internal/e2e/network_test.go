package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the network that the tests make. All of them are on one machine, so that only policy keeps a guest from any.
const (
	public4 = "93.184.216.34"
	public6 = "2606:2800:220:1::34"
)

var addresses = []string{
	public4 + "/32", public6 + "/128",
	"169.254.169.254/32", "10.0.0.1/8", "172.20.0.1/16", "192.168.1.1/24", "100.64.0.1/10", "fd00::1/64",
}

// nameserver is where names are looked for, on the loopback of the host as with systemd-resolved.
const nameserver = "127.0.0.53"

// space is a network namespace and a mount namespace that a test made, with servers in them.
type space struct {
	w     *world
	calls chan func()
	done  chan struct{}
	web   *http.Server
	dns   []*dns.Server
	udp   net.PacketConn

	files files

	mu    sync.Mutex
	asked []string // names that the nameserver was asked for
}

// files are what web servers have, by host and path.
type files map[string]string

// serve answers a request to a host that has files.
func (f files) serve(w http.ResponseWriter, r *http.Request) bool {
	body, ok := f[r.Host+strings.ReplaceAll(r.URL.Path, "/./", "/")]
	if ok {
		_, _ = io.WriteString(w, body)
		return true
	}
	for path := range f {
		if strings.HasPrefix(path, r.Host+"/") {
			http.NotFound(w, r)
			return true
		}
	}
	return false
}

// inPrivate runs a test again in a user namespace where it may make networks, if it may not here. It reports whether it is
// there.
func inPrivate(t *testing.T) bool {
	if os.Geteuid() == 0 || os.Getenv(privateVar) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), privateVar+"=1", "MSB_BIN="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE},
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in a user namespace:\n%s", out)
	if err != nil {
		t.Fail()
	}
	return false
}

const privateVar = "MSB_E2E_PRIVATE"

// space makes the namespaces on a thread of their own, which starts what is to be in them.
func (w *world) space() *space {
	s := &space{w: w, calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine (see init)
		ready <- s.make()
		for f := range s.calls {
			f()
		}
	}()
	err := <-ready
	w.t.Cleanup(func() {
		s.close()
		close(s.calls)
		<-s.done
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// do calls f on the space's thread.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() { f(); close(done) }
	<-done
}

func (s *space) make() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_FS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	conf := filepath.Join(s.w.top, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+nameserver+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount a resolv.conf: %w", err)
	}
	if err := s.addresses(); err != nil {
		return err
	}
	if err := s.serve(); err != nil {
		return err
	}
	// What is started from here on has no more rights than its user.
	return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
}

// addresses brings up the loopback and gives it all addresses.
func (s *space) addresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up the loopback: %w", err)
	}
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return fmt.Errorf("add the address %s: %w", a, err)
		}
	}
	return nil
}

// serve starts a web server and a UDP echo on every address, and a nameserver.
func (s *space) serve() error {
	ctx := context.Background()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "[::]:80")
	if err != nil {
		return err
	}
	s.web = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if s.files.serve(w, r) {
			return
		}
		if r.URL.Path == "/large" {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 10<<20))
			return
		}
		fmt.Fprintf(w, "%s %s for %s, %d bytes", r.Method, r.URL.Path, r.Host, len(body))
	})}
	go func() { _ = s.web.Serve(l) }()
	if s.udp, err = new(net.ListenConfig).ListenPacket(ctx, "udp", "[::]:7"); err != nil {
		return err
	}
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := s.udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = s.udp.WriteTo(append([]byte("echo "), b[:n]...), from)
		}
	}()
	packets, err := new(net.ListenConfig).ListenPacket(ctx, "udp", nameserver+":53")
	if err != nil {
		return err
	}
	stream, err := new(net.ListenConfig).Listen(ctx, "tcp", nameserver+":53")
	if err != nil {
		return err
	}
	s.dns = []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: stream, Handler: s}}
	for _, d := range s.dns {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go func() { _ = d.ActivateAndServe() }()
		<-started
	}
	return nil
}

func (s *space) close() {
	if s.web != nil {
		_ = s.web.Close()
	}
	if s.udp != nil {
		_ = s.udp.Close()
	}
	for _, d := range s.dns {
		_ = d.Shutdown()
	}
}

// names are what the nameserver knows.
var names = map[string][]string{
	"public.test.":   {public4, public6},
	"rebind.test.":   {"10.0.0.1"},
	"loopback.test.": {"127.0.0.1", "::1"},
	"metadata.test.": {"169.254.169.254"},
	"mapped.test.":   {"::ffff:10.0.0.1"},
	"mixed.test.":    {public4, "192.168.1.1"},
}

// ServeDNS answers from names.
func (s *space) ServeDNS(to dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	for _, question := range q.Question {
		s.mu.Lock()
		s.asked = append(s.asked, question.Name)
		s.mu.Unlock()
		list, known := names[strings.ToLower(question.Name)]
		if !known {
			m.Rcode = dns.RcodeNameError
		}
		for _, a := range list {
			ip := net.ParseIP(a)
			head := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: 60}
			switch is6 := strings.Contains(a, ":"); {
			case !is6 && question.Qtype == dns.TypeA:
				head.Rrtype = dns.TypeA
				m.Answer = append(m.Answer, &dns.A{Hdr: head, A: ip})
			case is6 && question.Qtype == dns.TypeAAAA:
				head.Rrtype = dns.TypeAAAA
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: ip})
			}
		}
	}
	_ = to.WriteMsg(m)
}

// run runs msb in the space.
func (s *space) run(args ...string) result {
	s.w.t.Helper()
	cmd := s.w.msb(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	begin := time.Now()
	var err error
	s.do(func() { err = cmd.Start() })
	s.w.must(err)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.w.t.Fatal(err)
	}
	return result{code: exitCode(cmd), out: out.String(), err: errs.String(), took: time.Since(begin)}
}

// attempt is what became of one try of a guest to reach something.
type attempt struct {
	Said  string
	Error string
	Took  float64 // in seconds
}

// probe tries, in the guest, all that its arguments name, and prints the attempts as JSON. Each is at once or not at all.
const probe = `
import json, socket, sys, time, urllib.request
def web(arg): return urllib.request.urlopen(arg, timeout=5).read().decode()
def post(arg): return urllib.request.urlopen(arg, data=b"x" * (1 << 20), timeout=5).read().decode()
def large(arg): return str(len(urllib.request.urlopen(arg, timeout=10).read()))
def tcp(arg):
    host, port = arg.rsplit(" ", 1)
    socket.create_connection((host, int(port)), 5).close()
    return "connected"
def udp(arg):
    host, port = arg.rsplit(" ", 1)
    family, _, _, _, addr = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(1); s.connect(addr); s.send(b"hello")
    return s.recv(100).decode()
def name(arg): return " ".join(sorted({a[4][0] for a in socket.getaddrinfo(arg, 80)}))
def links(arg): return " ".join(n for _, n in socket.if_nameindex())
done = {}
for a in sys.argv[1:]:
    how, _, arg = a.partition(" ")
    begin = time.time(); said = error = ""
    try: said = globals()[how](arg)
    except Exception as e: error = "%s: %s" % (type(e).__name__, e)
    done[a] = dict(Said=said, Error=error, Took=time.time() - begin)
print(json.dumps(done))
`

// attempts makes a guest with those flags try.
func (s *space) attempts(flags []string, tries ...string) map[string]attempt {
	s.w.t.Helper()
	r := s.run(append(append(append([]string{"run"}, flags...), "host", "--", "python3", "-c", probe), tries...)...)
	var all map[string]attempt
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || r.code != 0 {
		s.w.t.Fatalf("exit code %d, %v, stdout %q, stderr %q", r.code, err, r.out, r.err)
	}
	return all
}

// reached checks that a try was answered with those words.
func (w *world) reached(all map[string]attempt, try, want string) {
	w.t.Helper()
	if a := all[try]; a.Said != want {
		w.t.Errorf("%s: %q, %s after %.2f s; want %q", try, a.Said, a.Error, a.Took, want)
	}
}

// denied checks that a try was refused, and at once.
func (w *world) denied(all map[string]attempt, try string) {
	w.t.Helper()
	a, ok := all[try]
	refused := strings.Contains(a.Error, "refused") || strings.Contains(a.Error, "nreachable") || strings.Contains(a.Error, "not known") ||
		strings.Contains(a.Error, "ermission denied") || strings.Contains(a.Error, "No address associated")
	if !ok || !refused { // a time-out says something else
		w.t.Errorf("%s: %q, %q after %.2f s; want it refused", try, a.Said, a.Error, a.Took)
	}
}

func TestNetwork(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		web4, web6 := "http://"+public4+"/a", "http://["+public6+"]/b"
		yes := map[string]string{
			"web " + web4:                     "GET /a for " + public4 + ", 0 bytes",
			"web " + web6:                     "GET /b for [" + public6 + "], 0 bytes",
			"web http://public.test/c":        "GET /c for public.test, 0 bytes",
			"post http://public.test/d":       "POST /d for public.test, 1048576 bytes",
			"large http://public.test/large":  "10485760",
			"udp " + public4 + " 7":           "echo hello",
			"udp " + public6 + " 7":           "echo hello",
			"name public.test":                public6 + " " + public4,
			"name host.microsandbox.internal": "",
			"links ":                          "lo eth0",
		}
		no := []string{
			"tcp " + public4 + " 81", // nobody listens there
			"tcp 169.254.169.254 80", "web http://169.254.169.254/latest/meta-data/", "udp 169.254.169.254 7",
			"tcp 127.0.0.1 80", "tcp ::1 80", "tcp ::ffff:127.0.0.1 80", "tcp localhost 80", "udp 127.0.0.1 7",
			"tcp host.microsandbox.internal 80", "tcp host.microsandbox.internal 22", "udp host.microsandbox.internal 7",
			"tcp 10.0.0.1 80", "tcp 172.20.0.1 80", "tcp 192.168.1.1 80", "tcp 100.64.0.1 80", "tcp fd00::1 80",
			"tcp ::ffff:10.0.0.1 80", "tcp 64:ff9b::a00:1 80", "tcp 2002:a00:1:: 80", "udp 10.0.0.1 7", "udp fd00::1 7",
			"tcp 0.0.0.0 80", "tcp 255.255.255.255 80", "tcp 224.0.0.1 80", "tcp ff02::1 80", "tcp 172.16.0.7 80",
			"name rebind.test", "name loopback.test", "name metadata.test", "name mapped.test", "name no-such-name.test",
			"tcp rebind.test 80", "tcp 127.0.0.53 53", "udp 127.0.0.53 53",
		}
		var tries []string
		for try := range yes {
			tries = append(tries, try)
		}
		all := s.attempts(nil, append(append(tries, no...), "name mixed.test")...)
		gateway := all["name host.microsandbox.internal"].Said
		yes["name host.microsandbox.internal"] = gateway
		for try, want := range yes {
			w.reached(all, try, want)
		}
		for _, try := range no {
			w.denied(all, try)
		}
		if a := all["name mixed.test"]; strings.Contains(a.Said, "192.168") {
			w.t.Errorf("a name leads to a private address: %q", a.Said)
		}
		if ip := net.ParseIP(gateway); ip == nil {
			w.t.Errorf("the gateway is at %q", gateway)
		}
		s.mu.Lock()
		if asked := strings.Join(s.asked, " "); strings.Contains(asked, "microsandbox.internal") {
			w.t.Errorf("the host's nameserver was asked for names of ours: %s", asked)
		}
		s.mu.Unlock()
	})
}

func TestNoNetwork(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		no := []string{"web http://" + public4 + "/", "tcp " + public6 + " 80", "tcp 127.0.0.1 80", "tcp 10.0.0.1 80", "udp " + public4 + " 7"}
		all := s.attempts([]string{"--no-net"}, append(no, "links ", "name public.test")...)
		w.reached(all, "links ", "lo")
		for _, try := range no {
			w.denied(all, try)
		}
		if a := all["name public.test"]; a.Error == "" {
			w.t.Errorf("a name is known: %q", a.Said)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.asked) > 0 {
			w.t.Errorf("the host's nameserver was asked for %q", s.asked)
		}
	})
}
