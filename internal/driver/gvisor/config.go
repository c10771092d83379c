package gvisor

import (
	"fmt"
	"os"
	"path/filepath"

	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"

	"github.com/microsandbox-go/microsandbox/internal/driver"
)

// runscConfig returns gVisor's settings for one sandbox whose state lives below stateDir. They are given as flags,
// since gVisor hands on to its children what was set explicitly.
func runscConfig(cfg driver.Config, stateDir string) (*config.Config, error) {
	flags := [][2]string{
		{"root", filepath.Join(stateDir, "state")},
		{"platform", "systrap"},
		{"network", "none"}, // the link is ours: see network.go
		{"ignore-cgroups", "true"},
		// The sentry gets no file descriptor of the host's file system; the gofer opens on its behalf. Required for
		// managed disks (see docs/adr), and the tighter seccomp filter of the two.
		{"directfs", "false"},
		{"file-access-mounts", "exclusive"},
		{"overlay2", "none"}, // the root asks for its overlay by annotation; the default writes into a bound directory
		// A fresh empty network namespace per gofer: the shared one is kept by a bind mount that outlives a kill -9.
		{"gofer-network-namespace", "new"},
		{"host-settings", "ignore"},
		{"net-raw", "true"}, // the gateway checks every packet; ping works
		{"allow-suid", "true"},
		{"watchdog-action", "log"},
		{"sidecar-usage-policy", string(config.SidecarUsageDefault)},
	}
	if os.Geteuid() != 0 || !hasRealRoot() {
		flags = append(flags, [2]string{"rootless", "true"})
	}
	if cfg.DebugDir != "" {
		flags = append(flags, [2]string{"debug", "true"}, [2]string{"debug-log", cfg.DebugDir + "/"},
			[2]string{"panic-log", filepath.Join(cfg.DebugDir, "panic.log")})
	}
	fs := flag.NewFlagSet("msb", flag.ContinueOnError)
	config.RegisterFlags(fs)
	for _, f := range flags {
		if err := fs.Set(f[0], f[1]); err != nil {
			return nil, fmt.Errorf("set gVisor flag %s=%s: %w", f[0], f[1], err)
		}
	}
	conf, err := config.NewFromFlags(fs)
	if err != nil {
		return nil, fmt.Errorf("configure gVisor: %w", err)
	}
	return conf, nil
}

// hasRealRoot reports whether uid 0 of this user namespace is more than one mapped id: gVisor may then run its sentry
// as "nobody".
func hasRealRoot() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	var in, out, n uint64
	if _, err := fmt.Sscan(string(b), &in, &out, &n); err != nil {
		return false
	}
	return in == 0 && n > 65534
}
