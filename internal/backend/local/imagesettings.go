package local

import (
	"fmt"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/image"
)

// images is the image store with what the user has set for it.
type images struct {
	*image.Store
	home     string
	options  image.Options
	settings config.File
	warn     func(message string, lines ...string)
}

// openImages opens the store with the settings. It is done once, by the first who needs an image of a registry.
func (b *Backend) openImages() *images {
	s := &images{home: b.cfg.Home, warn: b.cfg.Warn, settings: b.cfg.Settings}
	if s.warn == nil {
		s.warn = func(string, ...string) {}
	}
	s.options = imageOptions(s.settings)
	s.options.Users = b.users
	s.Store = image.Open(s.home, s.options)
	return s
}

// imageOptions is what config.json says in the words of the image store.
func imageOptions(f config.File) image.Options {
	o := image.Options{DefaultRegistry: f.Registries.Default, Aliases: f.Images.Aliases, Registries: map[string]image.Registry{}, CACerts: f.Registries.CACerts,
		DropBlobs: !f.Images.KeepBlobs,
		Limits:    image.Limits{Bytes: f.Images.Limits.Unpacked, Entries: f.Images.Limits.Entries, Metadata: f.Images.Limits.Metadata, Ratio: int64(f.Images.Limits.Ratio)}}
	for host, h := range f.Registries.Hosts {
		r := image.Registry{Insecure: h.Insecure, CACerts: h.CACerts}
		if h.Auth != nil {
			if password := os.Getenv(h.Auth.PasswordEnv); password != "" {
				r.Auth = &image.Auth{Username: h.Auth.Username, Password: image.Secret(password)}
			}
		}
		o.Registries[host] = r
	}
	for host, mirrors := range f.Registries.Mirrors {
		r := o.Registries[host]
		r.Mirrors = mirrors
		o.Registries[host] = r
	}
	return o
}

// warnOfAuth warns when the password for the registry that ref is to be pulled from is configured to be where it is not.
func (s *images) warnOfAuth(ref string, policy image.Policy) {
	r, err := s.Parse(ref)
	if err != nil || policy == image.Never {
		return
	}
	if policy != image.Always {
		if _, err := s.Resolve(ref); err == nil {
			return // nobody is asked
		}
	}
	if a := s.settings.Registries.Hosts[r.Registry].Auth; a != nil && os.Getenv(a.PasswordEnv) == "" {
		s.warn(fmt.Sprintf("the password for %s is not in %s, where config.json has it", r.Registry, a.PasswordEnv), "it is asked as if there were none")
	}
}

// short is how a person writes a stored reference.
func (s *images) short(ref string) string {
	r, err := image.ParseReference(ref, "")
	if err != nil || s.settings.Registries.Default != "" {
		return ref
	}
	return r.Short()
}
