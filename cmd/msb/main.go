// Msb runs untrusted code in sandboxes. It is the command line; `msb --help` says what it can do.
package main

import (
	"os"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/cli"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

func main() {
	doctor.Child()
	os.Exit(cli.Main(cli.Env{Backend: open, Server: serve, MCP: tools}, os.Args[1:]))
}

// open returns the backend of this machine.
func open(set config.Settings, use cli.Use, warn func(string, ...string)) (backend.Backend, error) {
	cfg := local.Config{Home: set.Home, Settings: set.File, Warn: warn,
		Find: func(name string) (string, error) { return config.FindBinary(name, set.Home) }}
	if use == cli.UseCreate {
		var err error
		if cfg.Runner, err = config.FindBinary(config.Runner, set.Home); err != nil {
			return nil, err
		}
		if cfg.Agent, err = config.FindBinary(config.Agent, set.Home); err != nil {
			return nil, err
		}
	}
	b := local.New(cfg)
	if use == cli.UseManage {
		b.Sweep() // who makes a sandbox does it by the way
	}
	return b, nil
}
