package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packages are what the tests below need of npm.
const packages = `{"name":"test","private":true,"dependencies":{"@modelcontextprotocol/conformance":"0.1.16","@modelcontextprotocol/inspector":"2.12.0","@modelcontextprotocol/sdk":"1.32.2","node":"22.23.3"}}`

// npm installs the packages, once for each list of them, and returns the directory that they are in. Without npm, or what it gets
// packages from, the test is skipped.
func npm(t *testing.T) (dir, node string) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("there is no npm")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	sum := sha256.Sum256([]byte(packages))
	dir = filepath.Join(cache, "microsandbox-test", "npm-"+hex.EncodeToString(sum[:6]))
	node = filepath.Join(dir, "node_modules", ".bin", "node")
	if _, err := os.Stat(filepath.Join(dir, "installed")); err == nil {
		return dir, node
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(packages), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts=false")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("npm install: %v\n%s", err, clip(string(out)))
	}
	if out, err := exec.Command(node, "--version").CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "v22.23.3" {
		t.Skipf("node of npm: %v %s", err, clip(string(out)))
	}
	if err := os.WriteFile(filepath.Join(dir, "installed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, node
}

// TestServerConformance runs those scenarios of the official suite that need no tool, resource or prompt of its own. Those that do
// TestServerConformanceFixtures runs.
func TestServerConformance(t *testing.T) {
	dir, node := npm(t)
	served(t, func(w *world) {
		s := w.serve("--dev")
		conform(t, dir, node, s.url, "server-initialize", "ping", "tools-list", "prompts-list", "resources-list", "logging-set-level", "dns-rebinding-protection")
	})
}

// conform runs the official suite against a server. Of those scenarios that are named, or else of all that there are, each check has to be
// made and to succeed without a warning.
func conform(t *testing.T, dir, node, url string, scenarios ...string) {
	t.Helper()
	results := t.TempDir()
	cmd := exec.Command(node, filepath.Join(dir, "node_modules", ".bin", "conformance"), "server", "--url", url+"/mcp", "--suite", "all", "-o", results)
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "=== SUMMARY ===") {
		t.Fatalf("%v\n%s", err, out)
	}
	all, _ := filepath.Glob(filepath.Join(results, "*", "checks.json"))
	if len(scenarios) == 0 {
		if len(all) < 32 {
			t.Errorf("of the suite's 32 scenarios %d were run", len(all))
		}
		scenarios = []string{""}
	}
	for _, scenario := range scenarios {
		checks, _ := filepath.Glob(filepath.Join(results, "server-"+scenario+"*", "checks.json"))
		if len(checks) == 0 {
			t.Errorf("there is no scenario %q", scenario)
		}
		for _, path := range checks {
			data, err := os.ReadFile(path)
			var made []struct{ ID, Status, ErrorMessage string }
			if err != nil || json.Unmarshal(data, &made) != nil {
				t.Fatalf("%s: %v", path, err)
			}
			good := 0
			for _, c := range made {
				switch c.Status {
				case "SUCCESS":
					good++
				case "FAILURE", "WARNING":
					t.Errorf("%s: %s: %s %s", filepath.Base(filepath.Dir(path)), c.ID, c.Status, c.ErrorMessage)
				}
			}
			if good == 0 {
				t.Errorf("%s: no check succeeded: %s", filepath.Base(filepath.Dir(path)), data)
			}
		}
	}
}

// TestServerInspector uses the official inspector on its command line.
func TestServerInspector(t *testing.T) {
	dir, node := npm(t)
	served(t, func(w *world) {
		s := w.serve()
		inspect := func(args ...string) string {
			t.Helper()
			args = append([]string{filepath.Join(dir, "node_modules", ".bin", "mcp-inspector"), "--cli", s.url + "/mcp", "--transport", "http", "--header", "Authorization: Bearer " + s.team}, args...)
			cmd := exec.Command(node, args...)
			cmd.Dir = t.TempDir()
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, clip(string(out)))
			}
			return string(out)
		}
		var tools struct{ Tools []struct{ Name string } }
		w.must(json.Unmarshal([]byte(inspect("--method", "tools/list")), &tools))
		if len(tools.Tools) != 11 {
			t.Errorf("it lists %v", tools.Tools)
		}
		call := func(tool string, args ...string) string {
			t.Helper()
			all := []string{"--method", "tools/call", "--tool-name", tool, "--tool-arg", "sandbox=i", "--tool-arg", "namespace=team-a"}
			for _, a := range args {
				all = append(all, "--tool-arg", a)
			}
			var r struct{ Content []struct{ Text string } }
			if err := json.Unmarshal([]byte(inspect(all...)), &r); err != nil || len(r.Content) == 0 {
				t.Fatalf("%s: %v", tool, err)
			}
			return r.Content[0].Text
		}
		if out := call("sandbox_start", `config={"image":"host","memory":256}`); out != `"Sandbox i started successfully"` {
			t.Errorf("start: %s", out)
		}
		if out := call("sandbox_run_command", "command=echo", `args=["hello"]`); !strings.Contains(out, `"text": "hello"`) {
			t.Errorf("command: %s", out)
		}
		if out := inspect("--method", "prompts/list"); !strings.Contains(out, "create_node_sandbox") {
			t.Errorf("prompts: %s", out)
		}
	})
}

// TestMCPTypeScript drives the server on standard input and output with the official TypeScript client.
func TestMCPTypeScript(t *testing.T) {
	dir, node := npm(t)
	asSelf(t, func(w *world) {
		script, err := filepath.Abs("testdata/server/mcp.mjs")
		w.must(err)
		cmd := exec.Command(node, script)
		cmd.Env = append(w.environ(), "NPM_DIR="+dir, "MSB="+filepath.Join(bin, "msb"))
		cmd.Dir = w.top
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, clip(string(out)))
		}
		want := `server: microsandbox-server
tools: sandbox_get_logs sandbox_get_metrics sandbox_list sandbox_list_files sandbox_list_ports sandbox_read_file sandbox_run_code sandbox_run_command sandbox_start sandbox_stop sandbox_write_file
prompts: create_node_sandbox create_python_sandbox
start: "Sandbox ts started successfully"
command: from the sandbox
missing: error Error
file: kept
stop: "Sandbox ts stopped successfully"
`
		if string(out) != want {
			t.Errorf("%s", diff(want, string(out)))
		}
	})
}
