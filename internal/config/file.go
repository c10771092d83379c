package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Environment variables that change what config.json says. FileVar is of contract msb-0.6 §1.5; RegistryVar is older
// (contract server-v0.2 §3.1).
const (
	FileVar     = "MSB_CONFIG_PATH"
	RegistryVar = "OCI_REGISTRY_DOMAIN"
)

// maxFile is the most that config.json may have, in bytes.
const maxFile = 1 << 20

// File is what config.json says (contract msb-0.6 §1.6), as far as this release goes by it, with its defaults filled in and
// overruled by the environment. registries.mirrors and images are ours.
//
// To add a setting: 1. here, 2. its line in [settings], 3. its default in [defaults], 4. docs/config.md.
type File struct {
	Home              string // absolute; "" where MSB_HOME or the default says it
	LogLevel          string // of runners
	DeploymentProfile string // the least that every sandbox gets; "" is sandbox.SingleTenant
	Defaults          Defaults
	SSHInactivity     time.Duration // after which an SSH session ends; DefaultSSHInactivity unless it is set, 0 is never
	ActiveProfile     string
	Profiles          map[string]Profile
	Registries        Registries
	Images            Images
	Warnings          []string // what was read and is ignored
}

// DefaultSSHInactivity is after how long without traffic an SSH session ends.
const DefaultSSHInactivity = 10 * time.Minute

// Registries say how registries are spoken to.
type Registries struct {
	Default string              // of images whose name has no registry; "" is Docker Hub
	CACerts []string            // PEM files with more certificate authorities, absolute
	Hosts   map[string]Host     // by host[:port]
	Mirrors map[string][]string // by host[:port]: those to ask first
}

// Host is one registry.
type Host struct {
	Insecure bool
	CACerts  []string
	Auth     *Auth
}

// Auth says who a registry is asked as. PasswordEnv is the environment variable that holds the password.
type Auth struct{ Username, PasswordEnv string }

// Images say how images are kept.
type Images struct {
	Aliases   map[string]string // other names of images
	KeepBlobs bool              // keep what was downloaded once it is converted
	Limits    Limits
}

// Limits are what one image may take. Zero is the default of the image store.
type Limits struct {
	Unpacked int64 // bytes of all files
	Entries  int   // files, directories and whatever else
	Metadata int64 // bytes of names, link targets and attributes
	Ratio    int   // unpacked by packed size
}

func defaults() File {
	return File{SSHInactivity: DefaultSSHInactivity, Profiles: map[string]Profile{}, Images: Images{KeepBlobs: true, Aliases: map[string]string{"microsandbox/python": "python", "microsandbox/node": "node"}},
		Registries: Registries{Hosts: map[string]Host{}, Mirrors: map[string][]string{}}}
}

// Read finds the state root and reads config.json. The root is MSB_HOME, else what the file calls home, else
// ~/.microsandbox; the file is the one that MSB_CONFIG_PATH names, else the one in MSB_HOME or ~/.microsandbox.
func Read() (Settings, error) {
	home, err := Home()
	if err != nil {
		return Settings{}, err
	}
	f, err := Load(home)
	if err == nil && f.Home != "" && os.Getenv(HomeVar) == "" {
		home = f.Home
	}
	return Settings{home, f}, err
}

// Settings are the state root, absolute, and what config.json says.
type Settings struct {
	Home string
	File File
}

// Load reads config.json: the file that MSB_CONFIG_PATH names, which has to be there, or the one in home, which has not.
// Its errors are of the kind InvalidConfig and name file, line and column.
func Load(home string) (File, error) {
	path, named := os.Getenv(FileVar), true
	if path == "" {
		path, named = filepath.Join(home, "config.json"), false
	}
	f := defaults()
	data, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
	case err != nil:
		hint := "mend the file, or remove it"
		switch {
		case named:
			hint = fmt.Sprintf("point %s at a file that you may read, or unset it", FileVar)
		case errors.Is(err, fs.ErrPermission):
			hint = fmt.Sprintf("%s (%s) must be yours: mend its owner, or set %s elsewhere", HomeVar, home, HomeVar)
		}
		return f, &sandbox.Error{Op: "read config", Kind: sandbox.InvalidConfig, Message: "read " + path, Err: cause(err), Hint: hint}
	default:
		if err := f.parse(path, data); err != nil {
			return f, err
		}
	}
	if r := os.Getenv(RegistryVar); r != "" {
		f.Registries.Default = r
	}
	return f, nil
}

func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it is larger than %d MiB", maxFile>>20)
	}
	return data, err
}

// cause is err without the path, which the message has.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parse takes what the file says.
func (f *File) parse(path string, data []byte) error {
	d := &document{path: path, data: data}
	root, err := d.parse()
	if err == nil {
		err = f.settings(filepath.Dir(path))(d, root, "")
	}
	f.Warnings = d.warnings
	return err
}

// settings is the grammar of the file. Paths are relative to dir.
func (f *File) settings(dir string) setting {
	r, i := &f.Registries, &f.Images
	return object(map[string]setting{
		"home":               path(&f.Home, dir),
		"log_level":          word(&f.LogLevel, "error", "warn", "info", "debug", "trace"),
		"deployment_profile": deployment(&f.DeploymentProfile),
		"database": object(map[string]setting{
			"url":                  unused(text(new(string)), "the records are in the state root: set home"),
			"max_connections":      unused(number(new(int), 1), "there is one connection"),
			"connect_timeout_secs": unused(number(new(int), 0), "the records are a file"),
			"busy_timeout_secs":    unused(seconds(new(time.Duration)), "another msb that writes is waited for 30 seconds"),
		}),
		"paths":            unusedPaths(),
		"sandbox_defaults": f.Defaults.settings(),
		"runtime": object(map[string]setting{
			"block_writeback": unused(object(map[string]setting{"mode": word(new(string), "auto", "fixed", "off"), "per_disk_mib": number(new(int), 0),
				"pool_mib": number(new(int), 0)}), "guests have no block devices"),
			"placement_profiles": unused(each(placementProfile), "guests have no memory nodes of their own"),
		}),
		"ssh":            object(map[string]setting{"inactivity_timeout_secs": seconds(&f.SSHInactivity)}),
		"metrics":        object(map[string]setting{"capacity": unused(number(new(int), 0), "metrics are kept by sandbox, as many as there are")}),
		"active_profile": text(&f.ActiveProfile),
		"profiles":       f.profileSettings(),
		"registries": object(map[string]setting{
			"ca_certs": paths(&r.CACerts, dir),
			"hosts": each(func(d *document, m member, name string) error {
				var h Host
				if err := isRegistry(d, m.at, m.key); err != nil {
					return err
				}
				err := object(map[string]setting{
					"insecure": boolean(&h.Insecure),
					"ca_certs": paths(&h.CACerts, dir),
					"auth":     auth(&h.Auth),
				})(d, m.value, name)
				r.Hosts[registry(m.key)] = h
				return err
			}),
			"mirrors": each(func(d *document, m member, name string) error {
				if err := isRegistry(d, m.at, m.key); err != nil {
					return err
				}
				var all []string
				if err := texts(&all)(d, m.value, name); err != nil {
					return err
				}
				for i, mirror := range all {
					if err := isRegistry(d, m.what.([]value)[i].at, mirror); err != nil {
						return err
					}
				}
				r.Mirrors[registry(m.key)] = all
				return nil
			}),
		}),
		"images": object(map[string]setting{
			"aliases": each(func(d *document, m member, name string) error {
				var to string
				err := text(&to)(d, m.value, name)
				i.Aliases = maps.Clone(i.Aliases)
				i.Aliases[m.key] = to
				return err
			}),
			"keep_blobs": boolean(&i.KeepBlobs),
			"limits": object(map[string]setting{
				"unpacked": size(&i.Limits.Unpacked),
				"entries":  number(&i.Limits.Entries, 1),
				"metadata": size(&i.Limits.Metadata),
				"ratio":    number(&i.Limits.Ratio, 1),
			}),
		}),
	})
}

// isRegistry refuses what is clearly no host[:port], above all URLs. What else it may be, the image store says.
func isRegistry(d *document, at int64, host string) error {
	if host == "" || strings.ContainsAny(host, "/@ ") {
		return d.fail(at, "%.100q is not a registry: write host or host:port", host)
	}
	return nil
}

// registry is how a registry's name is compared.
func registry(host string) string {
	host = strings.ToLower(host)
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// absolute is a path of the file as it is from anywhere.
func absolute(p, dir string) string {
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			p = filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return filepath.Clean(p)
}

// path takes one path.
func path(to *string, dir string) setting {
	return func(d *document, v value, name string) error {
		if err := text(to)(d, v, name); err != nil {
			return err
		}
		*to = absolute(*to, dir)
		return nil
	}
}

// paths takes the path of a file, or an array of them.
func paths(to *[]string, dir string) setting {
	return func(d *document, v value, name string) error {
		var err error
		if _, one := v.what.(string); one {
			*to = []string{""}
			err = text(&(*to)[0])(d, v, name)
		} else {
			err = texts(to)(d, v, name)
		}
		for i, p := range *to {
			(*to)[i] = absolute(p, dir)
		}
		return err
	}
}

// auth takes {username, password_env} or {username, store: "keyring"}; the latter is what was stored by msb registry login,
// which is asked first anyway.
func auth(to **Auth) setting {
	return func(d *document, v value, name string) error {
		var a Auth
		var store, secret string
		err := object(map[string]setting{"username": text(&a.Username), "password_env": text(&a.PasswordEnv), "store": text(&store), "secret_name": text(&secret)})(d, v, name)
		given := slices.DeleteFunc([]string{a.PasswordEnv, store, secret}, func(s string) bool { return s == "" })
		switch {
		case err != nil:
			return err
		case a.Username == "":
			return d.fail(v.at, "%s has no username", name)
		case len(given) != 1:
			return d.fail(v.at, `%s needs one of password_env and store: "keyring"`, name)
		case secret != "":
			return d.fail(v.at, "%s.secret_name is not supported yet: use password_env, or msb registry login", name)
		case store != "" && store != "keyring":
			return d.fail(v.at, `%s.store is %.100q and should be "keyring"`, name, store)
		case store != "":
			return nil
		}
		*to = &a
		return nil
	}
}
