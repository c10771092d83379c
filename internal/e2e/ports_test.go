package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// webServer is a guest's web server on port 8080, and an echo of datagrams on 5300.
const webServer = `
import http.server, socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 5300))
def echo():
    while True:
        data, peer = u.recvfrom(2000); u.sendto(b"guest:" + data, peer)
threading.Thread(target=echo, daemon=True).start()
http.server.HTTPServer(("0.0.0.0", 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
`

// serving starts a sandbox with that web server and returns the host's ports for the guest's.
func (w *world) serving(name string, flags ...string) map[uint16]string {
	w.t.Helper()
	w.t.Cleanup(func() { w.run("rm", "-f", "-q", name) })
	args := append([]string{"run", "-d", "-q", "--name", name}, flags...)
	w.ok(append(args, "host", "--", "python3", "-c", webServer)...)
	return w.published(name)
}

func (w *world) published(name string) map[uint16]string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.runDir(name), "running.json"))
	w.must(err)
	var running struct{ Ports []sandbox.Port }
	w.must(json.Unmarshal(b, &running))
	at := map[uint16]string{}
	for _, p := range running.Ports {
		at[p.GuestPort] = fmt.Sprintf("%s:%d", p.Bind(), p.HostPort)
	}
	return at
}

// get fetches until the guest serves.
func (w *world) get(at string) string {
	w.t.Helper()
	var body string
	var last error
	if !until(patience, func() bool {
		resp, err := http.Get("http://" + at + "/etc/hostname")
		if last = err; err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		body, last = string(b), err
		return err == nil && resp.StatusCode == http.StatusOK
	}) {
		w.t.Fatalf("http://%s: %v", at, last)
	}
	return body
}

func TestPublishedPorts(t *testing.T) {
	each(t, func(w *world) {
		at := w.serving("web", "-p", "0:8080", "-p", "0:5300/udp", "-p", "0:81")
		if got := w.get(at[8080]); got != "web\n" {
			w.t.Errorf("the guest's web server says %q", got)
		}
		c, err := net.Dial("udp", at[5300])
		w.must(err)
		defer c.Close()
		b := make([]byte, 100)
		if !until(patience, func() bool { // datagrams may be lost
			_, _ = c.Write([]byte("hello"))
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := c.Read(b)
			b = b[:max(n, 0)]
			defer func() { b = b[:cap(b)] }()
			return err == nil && string(b) == "guest:hello"
		}) {
			w.t.Error("no datagram came back")
		}
		if _, port, _ := net.SplitHostPort(at[8080]); !strings.Contains(w.ok("ps"), "127.0.0.1:"+port+"->8080/tcp") {
			w.t.Errorf("msb ps does not show the port:\n%s", w.ok("ps"))
		}
		// A port that is taken is told of before anything starts.
		_, port, _ := net.SplitHostPort(at[8080])
		if msg := w.errorLine(w.run("run", "-q", "-p", port+":80", "host", "--", "true")); !strings.Contains(msg, "127.0.0.1:"+port+"/tcp of this machine is in use") {
			w.t.Errorf("a port that is taken: %q", msg)
		}
		if w.user && syscall.Geteuid() == 0 {
			if msg := w.errorLine(w.run("run", "-q", "-p", "1:80", "host", "--", "true")); !strings.Contains(msg, "only for root") {
				w.t.Errorf("a port for root: %q", msg)
			}
		}
		var st sandbox.NetworkState
		w.must(json.Unmarshal([]byte(w.ok("net", "web", "--format", "json")), &st))
		if len(st.Ports) != 3 || st.Counters.Connections == 0 || st.Counters.RxBytes == 0 {
			w.t.Errorf("%+v", st)
		}
		if table := w.ok("net", "web"); !strings.HasPrefix(table, "VERDICT") || !strings.Contains(table, "ingress") {
			w.t.Errorf("msb net:\n%s", table)
		}
		w.ok("rm", "-f", "-q", "web")
		if l, err := net.Listen("tcp", at[8080]); err != nil {
			w.t.Errorf("the port is not free: %v", err)
		} else {
			l.Close()
		}
	})
}

// freePorts are ports of this machine that nothing has, by TCP and UDP, and that nothing is given that asks for any port.
func (w *world) freePorts(n int) (ports []int) {
	w.t.Helper()
	for port := 10000 + rand.IntN(10000); len(ports) < n && port < 32768; port++ {
		at := fmt.Sprintf("127.0.0.1:%d", port)
		if !inUse("tcp", at) && !inUse("udp", at) {
			ports = append(ports, port)
		}
	}
	if len(ports) < n {
		w.t.Fatalf("only %d ports are free", len(ports))
	}
	return ports
}

// inUse reports whether somebody has a port, by TCP or UDP.
func inUse(network, at string) bool {
	var c io.Closer
	var err error
	if network == "udp" {
		c, err = net.ListenPacket(network, at)
	} else {
		c, err = net.Listen(network, at)
	}
	if err == nil {
		c.Close()
	}
	return err != nil
}

// TestPortsAreGivenBack has many sandboxes publish ports, and starts all of them again after they were restarted, stopped and
// killed: each time they have their ports, and at last nobody has any, and there is no process, and no socket's file, that was not before.
func TestPortsAreGivenBack(t *testing.T) {
	many := soak(10, 100)
	each(t, func(w *world) {
		w.guest("true")
		w.ok("create", "-q", "--name", "other", "host")
		w.ok("rm", "-f", "-q", "other")
		before := w.footprint()
		var names []string
		ports := w.freePorts(many)
		for i, port := range ports {
			names = append(names, fmt.Sprintf("s%d", i))
			w.background(names[i], "-m", "64M", "-p", fmt.Sprintf("%d:80", port), "-p", fmt.Sprintf("%d:81/udp", port), "-p", "0:82")
		}
		had := map[string]bool{} // what any of them ever had
		all := func(what string, want bool) {
			w.t.Helper()
			for i, port := range ports {
				at := fmt.Sprintf("127.0.0.1:%d", port)
				had[at] = true
				if want {
					had[w.published(names[i])[82]] = true
				}
				for _, network := range []string{"tcp", "udp"} {
					if !until(patience, func() bool { return inUse(network, at) == want }) {
						w.t.Errorf("%s: %s %s is in use: %v", what, network, at, !want)
					}
				}
			}
			if want {
				return
			}
			for at := range had {
				if !until(patience, func() bool { return !inUse("tcp", at) }) {
					w.t.Errorf("%s: tcp %s is in use", what, at)
				}
			}
		}
		end := func() {
			for i, name := range names {
				if i%2 == 0 {
					w.must(syscall.Kill(w.runner(name), syscall.SIGKILL))
				} else {
					w.ok("stop", "-f", "-q", name)
				}
			}
			for _, name := range names {
				w.released(name)
			}
		}
		all("started", true)
		w.inTime("restart", append([]string{"-q"}, names...)...)
		all("restarted", true)
		end()
		all("ended", false)
		w.inTime("start", append([]string{"-q"}, names...)...)
		all("started again", true)
		end()
		w.inTime("rm", append([]string{"-f", "-q"}, names...)...)
		all("removed", false)
		w.same(before)
	})
}

// inTime runs a msb for many sandboxes, which has more patience for each ten.
func (w *world) inTime(what string, args ...string) {
	w.t.Helper()
	const group = 10
	flags := 0
	for flags < len(args) && strings.HasPrefix(args[flags], "-") {
		flags++
	}
	for names := range slices.Chunk(args[flags:], group) {
		w.ok(slices.Concat([]string{what}, args[:flags], names)...)
	}
}

func TestDeniedIsExplained(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		const fetch = `import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())`
		for _, c := range []struct {
			flags []string
			url   string
			want  string
		}{
			{nil, "http://10.0.0.1/", "warn: denied by policy: 10.0.0.1:80\n  → default egress: deny; to allow it: --net-rule allow@10.0.0.1:tcp:80\n"},
			{[]string{"--net-rule", "deny@public.test", "--net", "public"}, "http://public.test/", "warn: denied by policy: public.test\n  → rule 0: deny@public.test; to allow it: --net-rule allow@public.test\n"},
			{nil, "http://rebind.test/", "warn: denied by policy: rebind.test\n  → rebinding protection: the name leads to 10.0.0.1\n"},
		} {
			r := s.run(append(append([]string{"run", "-q"}, c.flags...), "host", "--", "python3", "-c", fetch, c.url)...)
			if r.code != 1 || !strings.Contains(r.err, c.want) {
				w.t.Errorf("%v %s: exit code %d, stderr:\n%s\nwant in it:\n%s", c.flags, c.url, r.code, r.err, c.want)
			}
		}
		r := s.run("run", "-q", "host", "--", "python3", "-c", fetch, "http://public.test/x")
		if r.code != 0 || r.err != "" {
			w.t.Errorf("what is allowed: exit code %d, stderr %s", r.code, r.err)
		}
	})
}

// TestPolicyChangesWhileRunning asks the runner for another policy, as msb modify does.
func TestPolicyChangesWhileRunning(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		w.t.Cleanup(func() { w.run("rm", "-f", "-q", "net") })
		if r := s.run("run", "-d", "-q", "--name", "net", "host"); r.code != 0 {
			w.t.Fatal(r.err)
		}
		tries := []string{"tcp " + public4 + " 80", "tcp 10.0.0.1 80", "udp " + public4 + " 7"}
		try := func() map[string]attempt {
			var all map[string]attempt
			w.must(json.Unmarshal([]byte(w.ok(append([]string{"exec", "net", "--", "python3", "-c", probe}, tries...)...)), &all))
			return all
		}
		all := try()
		w.reached(all, tries[0], "connected")
		w.denied(all, tries[1])
		w.setPolicy("net", `{"default_egress":"deny","default_ingress":"allow","rules":[{"destination":{"group":"private"},"action":"allow"}]}`, `"ok":true`)
		all = try()
		w.denied(all, tries[0])
		w.reached(all, tries[1], "connected")
		w.denied(all, tries[2])
		w.setPolicy("net", `{"default_egress":"maybe"}`, `InvalidConfig`)
		w.reached(try(), tries[1], "connected")

		if log := w.ok("logs", "--source", "system", "net"); !strings.Contains(log, "denied by policy: 10.0.0.1:80 (tcp, default egress: deny)") ||
			!strings.Contains(log, "denied by policy: "+public4+":80") {
			w.t.Errorf("the system log:\n%s", log)
		}
		var flows map[string]bool
		wanted := []string{"open tcp " + public4 + ":80 allow", "close tcp " + public4 + ":80 allow", "deny tcp 10.0.0.1:80 deny", "open udp " + public4 + ":7 allow", "deny udp " + public4 + ":7 deny"}
		if !until(10*time.Second, func() bool { // a line is written soon after what it tells of
			flows = map[string]bool{}
			for line := range strings.Lines(w.flowLog("net")) {
				var f sandbox.Flow
				w.must(json.Unmarshal([]byte(line), &f))
				flows[f.Event+" "+f.Protocol+" "+f.Peer+" "+f.Verdict] = true
			}
			return !slices.ContainsFunc(wanted, func(want string) bool { return !flows[want] })
		}) {
			w.t.Errorf("the flow log has %v, want %q", flows, wanted)
		}
	})
}

// flowLog is the flow log of a running sandbox, wherever its logs are; "" before anything is in it.
func (w *world) flowLog(name string) string {
	w.t.Helper()
	for _, pattern := range []string{filepath.Join(w.runDir(name), "net.jsonl"), filepath.Join(w.home, "sandboxes/*", name, "logs/net.jsonl")} {
		if found, _ := filepath.Glob(pattern); len(found) == 1 {
			b, err := os.ReadFile(found[0])
			w.must(err)
			return string(b)
		}
	}
	return ""
}

// setPolicy asks a runner for another policy and wants the answer to have those words.
func (w *world) setPolicy(name, policy, want string) {
	w.t.Helper()
	c, err := net.Dial("unix", filepath.Join(w.runDir(name), "control.sock"))
	w.must(err)
	defer c.Close()
	_, err = fmt.Fprintf(c, "{\"op\":\"policy\",\"policy\":%s}\n", policy)
	w.must(err)
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(answer, want) {
		w.t.Errorf("policy %s: %s, %v; want %s", policy, answer, err, want)
	}
}
