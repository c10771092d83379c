package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// escape is a try of a guest to reach what it may not, and whom an event has to say that it was refused.
type escape struct{ try, event string }

// escapes are tried under the policy that holds when nothing is said. What a guest's own stack refuses, like its own loopback,
// is none of them: nothing leaves it.
var escapes = []escape{
	// The metadata service, by every name that it has.
	{"tcp 169.254.169.254 80", "169.254.169.254:80"}, {"web http://169.254.169.254/latest/meta-data/", "169.254.169.254:80"},
	{"udp 169.254.169.254 7", "169.254.169.254:7"}, {"tcp ::ffff:169.254.169.254 80", "169.254.169.254:80"},
	{"tcp 64:ff9b::a9fe:a9fe 80", "[64:ff9b::a9fe:a9fe]:80"}, {"tcp fd00:ec2::254 80", "[fd00:ec2::254]:80"},
	{"name metadata.test", "metadata.test"}, {"web http://metadata.test/", "metadata.test"},
	// This machine and its loopback.
	{"tcp host.microsandbox.internal 80", ":80"}, {"tcp host.microsandbox.internal 22", ":22"}, {"udp host.microsandbox.internal 7", ":7"},
	{"tcp 172.16.0.5 80", "172.16.0.5:80"}, {"tcp fd42:6d73:62:1::1 80", "[fd42:6d73:62:1::1]:80"}, {"name loopback.test", "loopback.test"},
	{"tcp 64:ff9b::7f00:1 80", "[64:ff9b::7f00:1]:80"}, {"tcp 2002:7f00:1:: 80", "[2002:7f00:1::]:80"}, {"web http://loopback.test/", "loopback.test"},
	// Neighbours, on every kind of private network.
	{"tcp 10.0.0.1 80", "10.0.0.1:80"}, {"tcp 172.20.0.1 80", "172.20.0.1:80"}, {"tcp 192.168.1.1 80", "192.168.1.1:80"}, {"tcp 100.64.0.1 80", "100.64.0.1:80"},
	{"tcp fd00::1 80", "[fd00::1]:80"}, {"tcp ::ffff:10.0.0.1 80", "10.0.0.1:80"}, {"tcp 64:ff9b::a00:1 80", "[64:ff9b::a00:1]:80"},
	{"tcp 2002:a00:1:: 80", "[2002:a00:1::]:80"}, {"udp 10.0.0.1 7", "10.0.0.1:7"}, {"udp fd00::1 7", "[fd00::1]:7"}, {"tcp 172.16.0.9 80", "172.16.0.9:80"},
	// Names that lead there.
	{"name rebind.test", "rebind.test"}, {"tcp rebind.test 80", "rebind.test"}, {"name mapped.test", "mapped.test"},
	// Name services that nobody sees into.
	{"tcp " + public4 + " 853", public4 + ":853"}, {"udp " + public4 + " 853", public4 + ":853"}, {"udp " + public4 + " 5353", public4 + ":5353"},
	{"udp " + public4 + " 5355", public4 + ":5355"}, {"udp " + public4 + " 137", public4 + ":137"}, {"udp " + public6 + " 853", "[" + public6 + "]:853"},
}

// tunnels are tried where one name is all that is allowed: other names, other servers and other addresses are messages to outside.
var tunnels = []escape{
	{"name c2VjcmV0.evil.test", "c2vjcmv0.evil.test"}, {"name public.test.evil.test", "public.test.evil.test"}, {"name xpublic.test", "xpublic.test"},
	{"tcp evil.test 443", "evil.test"}, {"tcp 10.0.0.1 53", "10.0.0.1:53"}, {"udp " + public4 + " 7", public4 + ":7"},
	{"tcp " + public4 + " 443", public4 + ":443"}, {"tcp " + public6 + " 443", "[" + public6 + "]:443"}, {"tcp 8.8.8.8 443", "8.8.8.8:443"},
}

// TestEscapes has a guest try all of them: each is refused, and each is told of.
func TestEscapes(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		for _, c := range []struct {
			flags []string
			tries []escape
		}{{nil, escapes}, {[]string{"--net-rule", "allow@public.test:tcp:80"}, tunnels}} {
			w.t.Cleanup(func() { s.run("rm", "-f", "-q", "escape") })
			if r := s.run(slices.Concat([]string{"run", "-d", "-q", "--name", "escape"}, c.flags, []string{"host"})...); r.code != 0 {
				w.t.Fatal(r.err)
			}
			args := []string{"exec", "-q", "escape", "--", "python3", "-c", probe}
			wanted := map[string]int{} // refusals, by whom they are of
			for _, e := range c.tries {
				args = append(args, e.try)
				wanted[e.event]++
			}
			var all map[string]attempt
			r := s.run(args...)
			if err := json.Unmarshal([]byte(r.out), &all); err != nil {
				w.t.Fatalf("%d %q %q", r.code, r.out, r.err)
			}
			for _, e := range c.tries {
				w.denied(all, e.try)
			}
			untold := func() (missing []string) {
				told := w.refusals("escape")
				for event, want := range wanted {
					n := 0
					for _, f := range told {
						if f.Verdict == sandbox.Deny && f.Reason != "" && (strings.HasSuffix(f.Peer, event) || strings.EqualFold(f.Name, event)) {
							n++
						}
					}
					if n < want {
						missing = append(missing, fmt.Sprintf("%d events say that %s was refused, of %d tries", n, event, want))
					}
				}
				return missing
			}
			if !until(10*time.Second, func() bool { return untold() == nil }) { // a line is written soon after what it tells of
				w.t.Error(untold())
			}
			s.mu.Lock()
			for _, name := range s.asked {
				if strings.Contains(name, "evil.test") || strings.Contains(name, "xpublic") {
					w.t.Errorf("the nameserver was asked for %s", name)
				}
			}
			s.mu.Unlock()
			if r := s.run("exec", "-q", "escape", "--", "python3", "-c", probe, "web http://public.test/yes"); !strings.Contains(r.out, "GET /yes for public.test") {
				w.t.Errorf("what is allowed: %q %q", r.out, r.err)
			}
			s.run("rm", "-f", "-q", "escape")
		}
	})
}

// refusals are those in the flow log of a running sandbox.
func (w *world) refusals(name string) (all []sandbox.Flow) {
	w.t.Helper()
	for line := range strings.Lines(w.flowLog(name)) {
		var f sandbox.Flow
		w.must(json.Unmarshal([]byte(line), &f))
		if f.Event == sandbox.FlowDeny {
			all = append(all, f)
		}
	}
	return all
}
