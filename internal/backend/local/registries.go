package local

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/image"
)

var _ backend.Registries = (*Backend)(nil)

// Login asks the registry whether it takes the credentials, and stores them.
func (b *Backend) Login(ctx context.Context, host string, auth backend.RegistryAuth, opt backend.PullOptions) error {
	s := b.images()
	return s.Login(ctx, host, image.Auth{Username: auth.Username, Password: image.Secret(auth.Password)}, image.PullOptions{Insecure: opt.Insecure, CACerts: opt.CACerts})
}

// Logout forgets what Login stored.
func (b *Backend) Logout(_ context.Context, host string) error {
	s := b.images()
	return s.Logout(host)
}

// Logins returns what is stored and what is configured. What is stored comes first where both are (contract msb-0.6 §1.6).
func (b *Backend) Logins(context.Context) ([]backend.RegistryLogin, error) {
	s := b.images()
	stored, err := s.Store.Logins()
	if err != nil {
		return nil, err
	}
	var all []backend.RegistryLogin
	for _, l := range stored {
		all = append(all, backend.RegistryLogin{Host: l.Host, Username: l.Username, Source: "login"})
	}
	for _, host := range slices.Sorted(maps.Keys(s.settings.Registries.Hosts)) {
		if a := s.settings.Registries.Hosts[host].Auth; a != nil {
			all = append(all, backend.RegistryLogin{Host: host, Username: a.Username, Source: "config.json"})
		}
	}
	slices.SortStableFunc(all, func(x, y backend.RegistryLogin) int { return cmp.Compare(x.Host, y.Host) })
	return all, nil
}
