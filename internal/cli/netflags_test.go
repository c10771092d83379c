package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// networkOf is the network that flags ask for, as JSON.
func networkOf(args ...string) (string, error) {
	var n netFlags
	c := &cobra.Command{Use: "x"}
	n.declare(flagsOf(c, false))
	if err := c.ParseFlags(args); err != nil {
		return "", err
	}
	net, err := n.network()
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(net)
	return string(b), err
}

func TestNetFlags(t *testing.T) {
	for args, want := range map[string]string{
		"":                                  `{"enabled":true,"strict":false,"max_connections":null,"trust_host_cas":false,"ports":null`,
		"-p 8080:80 -p [::1]:0:53/udp":      `"ports":[{"host_port":8080,"guest_port":80,"protocol":"tcp"},{"host_port":0,"guest_port":53,"protocol":"udp","host_bind":"::1"}]`,
		"--net-strict --max-connections 10": `"strict":true,"max_connections":10`,
		"--net-ipv4-pool 10.9.0.0/16 --net-ipv6-pool fd00:9::/48":                             `"interface":{"ipv4_pool":"10.9.0.0/16","ipv6_pool":"fd00:9::/48"}`,
		"--net-egress-bandwidth 10M --net-egress-bandwidth-burst 64K":                         `"rate_limiter":{"egress":{"bandwidth":{"size":10485760,"refill_time_ms":1000,"one_time_burst":65536}}}`,
		"--net-ingress-ops 100/500ms --net-ingress-ops-burst 7 --net-ingress-bandwidth 1K/1m": `"rate_limiter":{"ingress":{"bandwidth":{"size":1024,"refill_time_ms":60000},"ops":{"size":100,"refill_time_ms":500,"one_time_burst":7}}}`,
		"--dns-nameserver 1.1.1.1 --dns-query-timeout-ms 100 --no-dns-rebind-protection":      `"dns":{"no_rebind_protection":true,"nameservers":["1.1.1.1"],"query_timeout_ms":100}`,
		"--net none":                           `"policy":{"default_egress":"deny","default_ingress":"deny","rules":[]}`,
		"--no-net --net-rule allow@10.0.0.0/8": `"policy":{"default_egress":"deny","default_ingress":"deny","rules":[{"direction":"egress","destination":{"cidr":"10.0.0.0/8"},"action":"allow"}]}`,
	} {
		if got, err := networkOf(strings.Fields(args)...); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s:\n got %s, %v\nwant %s", args, got, err, want)
		}
	}
	for _, args := range []string{
		"-p 80", "-p 1:2/sctp", "--net-ipv4-pool 10.0.0.0/31", "--net-ipv6-pool 10.0.0.0/8", "--net-egress-bandwidth 0", "--net-egress-ops x", "--net-egress-bandwidth-burst 1M",
		"--net-ingress-ops-burst 5", "--dns-nameserver dns.example", "--max-connections 0", "--net everything", "--net-rule x", "--no-net --net public",
	} {
		if got, err := networkOf(strings.Fields(args)...); err == nil {
			t.Errorf("%s is taken: %s", args, got)
		}
	}
}

func TestPrintNetwork(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	st := sandbox.NetworkState{
		Flows: []sandbox.Flow{{Time: now.Add(-90 * time.Second), Event: "live", ID: 1, Protocol: "tcp", Direction: "ingress", GuestPort: 80, Peer: "127.0.0.1:5000", Verdict: "allow", Rule: -1,
			Reason: "default ingress: allow", Sent: 2048, Received: 10}},
		Denied:   []sandbox.Flow{{Time: now, Event: "deny", Protocol: "dns", Direction: "egress", Name: "evil\x1b[2J.example", Verdict: "deny", Rule: 2, Reason: "rule 2: deny@*.example", Count: 7}},
		Counters: sandbox.NetworkCounters{Open: 1, Connections: 3, Flows: 2, Denied: 7, RxBytes: 5, TxBytes: 6},
	}
	var b strings.Builder
	if err := printNetwork(&b, st, now); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range [][]string{{"VERDICT", "WHY"}, {"allow", "127.0.0.1:5000 -> 80", "1m30s", "default ingress: allow"}, {"deny", "dns", "evil [2J.example", "7x", "rule 2: deny@*.example"},
		{}, {"connections: 1 open, 3 so far;", "flows of datagrams: 2;", "denied: 7;"}, {"5 B in, 6 B out"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d has no %q: %q", i, w, lines[i])
			}
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Error("what the guest said moves the cursor")
	}
}

func TestAllowHint(t *testing.T) {
	for want, f := range map[string]sandbox.Flow{
		"; to allow it: --net-rule allow@a.example":                                                         {Protocol: "tcp", Peer: "1.2.3.4:80", Name: "a.example"},
		"; to allow it: --net-rule allow@1.2.3.4:tcp:80":                                                    {Protocol: "tcp", Peer: "1.2.3.4:80"},
		"; to allow it: --net-rule allow@[2001:db8::1]:udp:443":                                             {Protocol: "udp", Peer: "[2001:db8::1]:443"},
		"; to allow it: --tls-intercept if it is TLS, or before that rule --net-rule allow@1.2.3.4:tcp:443": {Protocol: "tcp", Peer: "1.2.3.4:443", Name: "a.example", Reason: "rule 0: allow@a.example, but strict: this connection is not looked into"},
		"; to allow it: --net-rule allow@1.2.3.4":                                                           {Protocol: "icmpv4", Peer: "1.2.3.4"},
		"; to allow it: --net-rule allow@host:tcp:9090":                                                     {Protocol: "tcp", Peer: "172.16.0.5:9090", Name: sandbox.HostName},
		"; to allow it: --net-rule allow@" + sandbox.HostName:                                               {Protocol: "icmpv6", Peer: "fd42:6d73:62:1::1", Name: sandbox.HostName},
		"": {Protocol: "udp", Peer: "224.0.0.251:5353", Rule: -2},
	} {
		got := allowHint(f)
		if got != want {
			t.Errorf("%+v: %q, want %q", f, got, want)
		}
		if rule, ok := strings.CutPrefix(got, "; to allow it: --net-rule "); ok {
			if _, err := sandbox.ParseNetworkRules(rule); err != nil {
				t.Errorf("the hint is no rule: %v", err)
			}
		}
	}
}
