package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServerRemote uses a server's sandboxes with our own msb, by a profile, and those of another namespace not at all.
func TestServerRemote(t *testing.T) {
	served(t, func(w *world) {
		s := w.serve()
		other := s.key("team-b")
		client := filepath.Join(w.top, "client")
		w.mkdir(client)
		profile := func(key string) string {
			return fmt.Sprintf(`{"active_profile":"there","profiles":{"there":{"backend":"cloud","url":"%s","api_key_ref":"inline:%s"}}}`, s.url, key)
		}
		w.write(filepath.Join(client, "config.json"), profile(s.team), 0o600)
		w.env = []string{"MSB_HOME=" + client}
		defer func() { w.env = nil }()

		if r := w.run("run", "-q", "host", "--", "sh", "-c", "echo hi; exit 3"); r.out != "hi\n" || r.code != 3 {
			t.Errorf("run: %+v", r)
		}
		if out := w.ok("run", "-d", "-q", "--name", "far", "host", "--", "sleep", "1000"); strings.TrimSpace(out) != "far" && out != "" {
			t.Errorf("run -d: %q", out)
		}
		if out := w.ok("exec", "far", "--", "sh", "-c", "echo in"); out != "in\n" {
			t.Errorf("exec: %q", out)
		}
		file := filepath.Join(w.top, "file")
		w.write(file, "copied", 0o644)
		w.ok2("cp", file, "far:/file")
		if out := w.ok("exec", "far", "--", "cat", "/file"); out != "copied" {
			t.Errorf("cp: %q", out)
		}
		if out := w.ok("logs", "far"); !strings.Contains(out, "in\n") {
			t.Errorf("logs: %q", out)
		}
		if out := w.ok("ls", "-q"); out != "far\n" {
			t.Errorf("ls: %q", out)
		}
		if a := s.ask("GET", s.on("far"), keyed(s.team), ""); a.status != 200 || !strings.Contains(a.body, `"status":"running"`) {
			t.Errorf("it is not the server's: %d %s", a.status, clip(a.body))
		}
		if audit, err := os.ReadFile(filepath.Join(w.home, "logs", "audit.log")); err != nil || !strings.Contains(string(audit), `"action":"agent","namespace":"team-a","sandbox":"far","ok":true`) {
			t.Errorf("that its agent was used is not in the audit log: %v", err)
		}
		w.write(filepath.Join(client, "config.json"), profile(other), 0o600)
		if r := w.run("exec", "far", "--", "true"); r.code == 0 || !strings.Contains(r.err, "far") {
			t.Errorf("exec of another namespace: %+v", r)
		}
		if out := w.ok("ls", "-q"); out != "" {
			t.Errorf("ls of another namespace: %q", out)
		}
		w.write(filepath.Join(client, "config.json"), profile(s.team), 0o600)
		w.ok2("stop", "far")
		w.ok2("rm", "far")
		w.must(os.RemoveAll(client))
	})
}
