package microsandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/microsandbox-go/microsandbox"

// layers is the diagram of docs/architecture.md as a table: each package, and which packages of ours it may import. A
// name that ends in /... stands for all below it. Imports only point down; a package that is not in the table fails.
var layers = []struct {
	pkg string
	may []string
}{
	// mains
	{"cmd/msb", []string{"internal/cli", "internal/compose", "internal/doctor"}},
	{"cmd/msb-server", []string{"internal/cli", "internal/compose", "internal/doctor", "internal/server", "internal/server/jsonrpc", "internal/server/mcp", "internal/server/metrics", "internal/server/proxy", "internal/server/rest"}},
	{"internal/compose", []string{"internal/backend", "internal/backend/local", "internal/backend/remote", "internal/cli", "internal/config", "internal/server"}},
	{"cmd/msb-runner", []string{"internal/runner", "internal/driver/gvisor", "internal/version"}},
	{"cmd/msb-agent", []string{"internal/agent"}},
	// edges
	{"internal/cli", []string{"internal/agentclient", "internal/agentproto", "internal/atomicfile", "internal/backend", "internal/config", "internal/console", "internal/doctor", "internal/guest", "internal/project", "internal/sandboxfile", "internal/server", "internal/sshserver", "internal/transfer", "internal/version", "sandbox"}},
	{"internal/server", []string{"internal/agentclient", "internal/atomicfile", "internal/backend", "internal/config", "sandbox"}},
	{"internal/server/jsonrpc", []string{"internal/agentclient", "internal/agentproto", "internal/backend", "internal/sandboxfile", "internal/server", "sandbox"}},
	{"internal/server/mcp", []string{"internal/agentclient", "internal/backend", "internal/server", "internal/server/jsonrpc", "internal/version", "sandbox"}},
	{"internal/server/metrics", []string{"internal/backend", "internal/server", "internal/version", "sandbox"}},
	{"internal/server/proxy", []string{"internal/server", "sandbox"}},
	{"internal/server/rest", []string{"internal/agentclient", "internal/agentproto", "internal/backend", "internal/cloudapi", "internal/project", "internal/sandboxfile", "internal/server", "internal/version", "internal/volumefs", "sandbox"}},
	{"internal/project", []string{"internal/agentclient", "internal/backend", "internal/sandboxfile", "sandbox"}},
	{"internal/sandboxfile", []string{"internal/atomicfile", "sandbox"}},
	{"internal/doctor", []string{"internal/cgroup", "internal/config", "sandbox"}},
	// SDK
	{"", []string{"internal/agentclient", "internal/agentproto", "internal/backend", "internal/backend/local", "internal/backend/remote", "internal/config", "internal/console", "internal/guest", "internal/runner/launch", "internal/sshserver", "internal/transfer", "internal/version", "sandbox"}},
	{"runner", []string{"internal/config", "internal/driver/gvisor", "internal/runner"}},
	// waist
	{"internal/backend", []string{"sandbox"}},
	{"internal/guest", []string{"internal/agentclient", "internal/agentproto", "internal/backend", "sandbox"}},
	{"internal/backend/backendtest", []string{"internal/agentclient", "internal/backend", "sandbox"}},
	{"internal/backend/local", []string{"internal/agentproto", "internal/atomicfile", "internal/backend", "internal/cgroup", "internal/config", "internal/driver/gvisor/gofer/format", "internal/execlog", "internal/image", "internal/metering", "internal/network/ca", "internal/runner/launch", "internal/state", "sandbox"}},
	{"internal/backend/remote", []string{"internal/backend", "internal/cloudapi", "internal/version", "sandbox"}},
	// parts
	{"internal/netload", nil},
	{"internal/netload/netclient", []string{"internal/netload"}},
	{"internal/state", []string{"internal/atomicfile", "internal/runner/launch", "sandbox"}},
	{"internal/image", []string{"internal/atomicfile", "internal/image/erofs", "sandbox"}},
	{"internal/image/erofs", []string{"internal/atomicfile"}},
	{"internal/rootfs", []string{"internal/agentproto", "internal/image/erofs", "sandbox"}},
	{"internal/runner", []string{"internal/agentclient", "internal/agentproto", "internal/atomicfile", "internal/cgroup", "internal/cleanup", "internal/driver", "internal/execlog", "internal/image/erofs", "internal/metering", "internal/network/netstack", "internal/network/proxy", "internal/network/secret", "internal/network/socks", "internal/quietgc", "internal/rootfs", "internal/runner/launch", "sandbox"}},
	{"internal/runner/launch", []string{"sandbox"}},
	{"internal/metering", nil},
	{"internal/execlog", []string{"internal/atomicfile", "sandbox"}},
	{"internal/driver", nil},
	{"internal/driver/drivertest", []string{"internal/agentclient", "internal/agentproto", "internal/driver", "internal/leakcheck"}},
	{"internal/driver/gvisor", []string{"internal/cleanup", "internal/driver", "internal/driver/gvisor/gofer", "internal/image/erofs", "internal/quietgc"}},
	{"internal/driver/gvisor/gofer", []string{"internal/driver/gvisor/gofer/format"}},
	{"internal/driver/gvisor/gofer/format", nil},
	{"internal/network/netstack", []string{"internal/network/dns", "internal/network/policy", "sandbox"}},
	{"internal/network/dns", []string{"internal/network/policy", "sandbox"}},
	{"internal/network/policy", []string{"sandbox"}},
	{"internal/network/proxy", []string{"internal/network/dns", "internal/network/netstack", "internal/network/policy", "internal/network/secret", "sandbox"}},
	{"internal/network/secret", []string{"sandbox"}},
	{"internal/network/socks", []string{"sandbox"}},
	{"internal/network/ca", []string{"internal/atomicfile", "sandbox"}},
	{"internal/volumefs", []string{"internal/driver/gvisor/gofer/format", "sandbox"}},
	// protocol
	{"internal/sshserver", []string{"internal/agentclient", "internal/agentproto", "internal/console", "internal/version", "sandbox"}},
	{"internal/cloudapi", []string{"sandbox"}},
	{"internal/transfer", []string{"internal/agentclient", "internal/agentproto", "sandbox"}},
	{"internal/agentclient", []string{"internal/agentproto", "sandbox"}},
	{"internal/agent", []string{"internal/agentproto", "internal/vfork"}},
	// words and leaves
	{"sandbox", nil},
	{"internal/agentproto", nil},
	{"internal/atomicfile", nil},
	{"internal/vfork", []string{"internal/vfork/nofile"}},
	{"internal/vfork/nofile", nil},
	{"internal/cgroup", nil},
	{"internal/console", nil},
	{"internal/cleanup", nil},
	{"internal/config", []string{"sandbox"}},
	{"internal/quietgc", nil},
	{"internal/version", nil},
	// tests' helpers
	{"internal/leakcheck", nil},
	{"internal/testimage", nil},
	{"internal/agentclient/agenttest", []string{"internal/agentclient", "internal/agentproto"}},
}

// links says what a binary must not link, however indirectly.
var links = []struct{ main, not string }{
	{"", "gvisor.dev/gvisor"},
	{"cmd/msb", "gvisor.dev/gvisor"},
	{"cmd/msb", "github.com/modelcontextprotocol/go-sdk"},
	{"cmd/msb-server", "gvisor.dev/gvisor"},
	{"cmd/msb-runner", "modernc.org/sqlite"},
	{"cmd/msb-runner", "zombiezen.com/go/sqlite"},
	{"cmd/msb-runner", "github.com/google/go-containerregistry"},
	{"cmd/msb-agent", "gvisor.dev/gvisor"},
	{"cmd/msb-agent", "github.com/spf13/cobra"},
	{"cmd/msb-agent", "modernc.org/sqlite"},
	{"cmd/msb-agent", "zombiezen.com/go/sqlite"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImports(t *testing.T) {
	may := map[string][]string{}
	for _, l := range layers {
		may[l.pkg] = l.may
	}
	seen := map[string]bool{}
	for _, p := range list(t) {
		pkg, ours := strings.CutPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if !ours {
			pkg = "" // the root package
		}
		seen[pkg] = true
		allowed, known := may[pkg]
		if strings.HasPrefix(pkg, "examples/") { // they are programs of users, who have the public packages
			allowed, known = []string{"runner"}, true
		}
		if !known && len(p.Imports) > 0 {
			t.Errorf("package %s has no place in the table of layers", pkg)
			continue
		}
		for _, i := range p.Imports {
			if name, ours := strings.CutPrefix(i, module+"/"); ours && !slices.Contains(allowed, name) {
				t.Errorf("%s must not import %s", pkg, name)
			}
			if strings.HasPrefix(i, "gvisor.dev/gvisor/runsc") && pkg != "internal/driver/gvisor" && pkg != "internal/driver/gvisor/gofer" {
				t.Errorf("%s imports %s: only internal/driver/gvisor and below may", pkg, i)
			}
		}
		for _, l := range links {
			if pkg != l.main {
				continue
			}
			for _, d := range p.Deps {
				if d == l.not || strings.HasPrefix(d, l.not+"/") {
					t.Errorf("%s links %s", pkg, d)
				}
			}
		}
	}
	for _, l := range layers {
		if !seen[l.pkg] {
			t.Errorf("the table of layers names %s, which is not there", l.pkg)
		}
	}
}
