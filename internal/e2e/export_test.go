package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// config is what a sandbox is configured to be, without what a Sandboxfile adds to every sandbox.
func (w *world) config(namespace, name string) map[string]any {
	w.t.Helper()
	var i struct {
		Config map[string]any
		Status string
	}
	w.must(json.Unmarshal([]byte(w.ok("-N", namespace, "inspect", name, "--format", "json")), &i))
	c := i.Config
	maps.DeleteFunc(c["labels"].(map[string]any), func(k string, _ any) bool { return strings.HasPrefix(k, "dev.microsandbox.") })
	delete(c["runtime"].(map[string]any)["scripts"].(map[string]any), "shell")
	delete(c, "patches")
	delete(c["lifecycle"].(map[string]any), "outlives_startup")
	c["status"] = i.Status
	return c
}

// TestExport: a namespace's sandboxes become a file, and the file, when they are gone, the same sandboxes: here, in another namespace,
// and over a server.
func TestExport(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Run("root", func(t *testing.T) { export(newWorld(t, false, keptByServer...)) })
	}
	t.Run("user", func(t *testing.T) { export(newWorld(t, true, keptByServer...)) })
}

func export(w *world) {
	dir := filepath.Join(w.top, "src")
	w.mkdir(dir)
	w.write(filepath.Join(dir, "f"), "from the host\n", 0o644)
	w.env = append(w.env, "KEY=sesame")
	port, udp := itoa(freePort(w.t)), itoa(freePort(w.t))
	w.ok("run", "-d", "-q", "--name", "web", "-m", "96", "-c", "2", "-e", "A=it's \"b\": #c", "-v", "data:/d", "-v", dir+":/src:ro", "-p", port+":80",
		"-p", "0.0.0.0:"+udp+":53/udp", "--net-rule", "allow@example.com:tcp:443,deny@private", "--net-default-egress", "deny", "--rlimit", "nofile=100:200",
		"--label", "app=shop", "--script", "hi=cat /src/f", "--tmpfs", "/t:8M", "--secret", "KEY@api.example.com", "-w", "/tmp", "--max-duration", "1h",
		"--idle-timeout", "30m", "--hostname", "w", "--security", "restricted", "host", "--", "sh", "-c", "echo started >>/d/log; sleep 1000")
	w.ok("create", "-q", "--name", "idle", "--no-net", "host")
	file := filepath.Join(w.top, "out.yaml")
	r := w.run("export", "-q", "-o", file)
	if r.code != 0 || !strings.Contains(r.err, "values of secrets are not in it") || !strings.Contains(r.err, "KEY") {
		w.t.Fatalf("msb export: exit code %d, %s", r.code, r.err)
	}
	text, err := os.ReadFile(file)
	w.must(err)
	if strings.Contains(string(text), "sesame") {
		w.t.Errorf("the secret is in the file:\n%s", text)
	}
	if r := w.run("export", "-o", file); r.code != 1 || !strings.Contains(r.err, "is there already") {
		w.t.Errorf("over a file: exit code %d, %s", r.code, r.err)
	}
	if r := w.run("apply", "-f", file); r.code != 1 || !strings.Contains(r.err, "it is not of "+file) {
		w.t.Errorf("over sandboxes of others: exit code %d, %s", r.code, r.err)
	}
	names := []string{"web", "idle"}
	before := map[string]map[string]any{}
	for _, n := range names {
		before[n] = w.config("default", n)
	}
	same := func(namespace string) {
		w.t.Helper()
		for _, n := range names {
			if have := w.config(namespace, n); !reflect.DeepEqual(have, before[n]) {
				w.t.Errorf("%s/%s was\n%v\nand is\n%v", namespace, n, before[n], have)
			}
		}
	}
	w.ok("rm", "-f", "-q", "web", "idle")
	w.ok("apply", "-q", "-f", file)
	same("default")
	if out := w.ok("exec", "web", "--", "sh", "-c", "hi; cat /d/log; echo $KEY; cat /proc/sys/kernel/hostname"); out != "from the host\nstarted\nstarted\n$MSB_KEY\nw\n" {
		w.t.Errorf("the sandbox says %q", out)
	}
	if again := w.run("export").out; again != string(text) {
		w.t.Errorf("exported again it is\n%s\nand was\n%s", again, text)
	}
	if out := w.ok("apply", "--dry-run", "--format", "json", "-f", file); strings.Count(out, `"keep"`) != 2 {
		w.t.Errorf("there is still something to do: %s", out)
	}
	w.ok("clean", "-q", "-F", "-f", file) // its ports are taken

	w.ok("-N", "copy", "apply", "-q", "-f", file)
	same("copy")
	w.ok("-N", "copy", "clean", "-q", "-F", "-f", file)

	// Over a server, whose variables are not for a client's secrets, and whose addresses but loopback not for its ports.
	s := w.serve("--volume-root", dir)
	env := w.env
	w.t.Cleanup(func() { w.env = env })
	w.env = append(slices.Clone(env), "MSB_BACKEND=cloud", "MSB_API_URL="+s.url, "MSB_API_KEY="+s.team)
	confined := string(text)
	from, to := strings.Index(confined, "    secrets:\n"), strings.Index(confined, "    labels:\n")
	w.write(file, strings.ReplaceAll(confined[:from]+confined[to:], "0.0.0.0:", ""), 0o600)
	w.ok("-N", "team-a", "apply", "-q", "-f", file)
	out := w.run("-N", "team-a", "export").out
	if a := s.ask("GET", "/v1/sandboxfile", map[string]string{"Authorization": "Bearer " + s.team}, ""); a.status != 200 || !strings.Contains(a.body, "\n  web:\n") || a.header.Get("Content-Type") != "application/yaml" {
		w.t.Errorf("the server answers %d %s", a.status, a.body)
	}
	w.ok("-N", "team-a", "clean", "-q", "-F", "-f", file)
	w.write(file, out, 0o600)
	w.ok("-N", "team-a", "apply", "-q", "-f", file)
	if again := w.run("-N", "team-a", "export").out; again != out {
		w.t.Errorf("over the server, exported again it is\n%s\nand was\n%s", again, out)
	}
	w.ok("-N", "team-a", "clean", "-q", "-F", "-f", file)
	w.env = env
	for _, ns := range []string{"default", "copy", "team-a"} {
		w.ok("-N", ns, "volume", "rm", "-q", "data")
	}
}
