// Package compose puts together what the command line needs, for the binaries that have it: msb, and msb-server, which is msb with all that
// a server links.
package compose

import (
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/backend/local"
	"github.com/microsandbox-go/microsandbox/internal/backend/remote"
	"github.com/microsandbox-go/microsandbox/internal/cli"
	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/server"
)

// Open returns the backend that is selected.
func Open(set config.Settings, use cli.Use, warn func(string, ...string)) (backend.Backend, error) {
	at, err := set.File.Select()
	if err != nil {
		return nil, err
	}
	if at.Kind == config.Cloud {
		return remote.New(remote.Config{URL: at.URL, Key: string(at.Key)}), nil
	}
	cfg := local.Config{Home: set.Home, Settings: set.File, Warn: warn,
		Find: func(name string) (string, error) { return config.FindBinary(name, set.Home) }, ValuesKey: func() []byte { return valuesKey(set.Home) }}
	if use == cli.UseCreate {
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

// valuesKey is what the server of this state root keeps values of secrets under; nil where it has no key.
func valuesKey(home string) []byte {
	keys, err := server.OpenKeys(home, "")
	if err != nil {
		return nil
	}
	return keys.ValuesKey()
}
