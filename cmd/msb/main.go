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
	os.Exit(cli.Main(cli.Env{Backend: open}, os.Args[1:]))
}

// open returns the backend of this machine.
func open(use cli.Use, warn func(string, ...string)) (backend.Backend, error) {
	home, err := config.Home()
	if err != nil {
		return nil, err
	}
	cfg := local.Config{Home: home, Settings: func() (config.File, error) { return config.Load(home) }, Warn: warn}
	if use == cli.UseCreate {
		if cfg.Runner, err = config.FindBinary(config.Runner, home); err != nil {
			return nil, err
		}
		if cfg.Agent, err = config.FindBinary(config.Agent, home); err != nil {
			return nil, err
		}
	}
	b := local.New(cfg)
	if use == cli.UseManage {
		b.Sweep() // who makes a sandbox does it by the way
	}
	return b, nil
}
