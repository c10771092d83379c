package sandboxfile

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// maxConf is the most that the YAML of one sandbox may have, in bytes (contract msb-0.6 §1.6).
const maxConf = 16 << 20

// Conf is the YAML of one sandbox (contract msb-0.6 §1.6). Several files are read into one, from left to right: a key that is there
// replaces what came before, but maps are joined key by key.
type Conf struct {
	Image       ConfImage         `yaml:"image"`
	PullPolicy  PullPolicy        `yaml:"pull_policy"`
	Registry    *ConfRegistry     `yaml:"registry"`
	CPUs        *uint8            `yaml:"cpus"`
	Memory      Size              `yaml:"memory"`
	MaxDuration Duration          `yaml:"max_duration"`
	IdleTimeout Duration          `yaml:"idle_timeout"`
	Rlimits     []ConfRlimit      `yaml:"rlimits"`
	Workdir     string            `yaml:"workdir"`
	Shell       string            `yaml:"shell"`
	User        string            `yaml:"user"`
	Hostname    string            `yaml:"hostname"`
	Security    Security          `yaml:"security"`
	Entrypoint  []string          `yaml:"entrypoint"`
	Cmd         []string          `yaml:"cmd"`
	Env         map[string]string `yaml:"env"`
	Labels      map[string]string `yaml:"labels"`
	Init        *ConfInit         `yaml:"init"`
	Mounts      []ConfMount       `yaml:"mounts"`
	PatchFiles  []string          `yaml:"patch_files"` // YAML files with lists of patches, which come before Patches
	Patches     []ConfPatch       `yaml:"patches"`
	Network     *Network          `yaml:"network"`
	Secrets     map[string]Secret `yaml:"secrets"`
	Scripts     map[string]string `yaml:"scripts"`
	Ports       []string          `yaml:"ports"`
}

// ConfRlimit is a resource limit; Hard is Soft where it is not said.
type ConfRlimit struct {
	Resource string  `yaml:"resource"`
	Soft     uint64  `yaml:"soft"`
	Hard     *uint64 `yaml:"hard,omitempty"`
}

func (l ConfRlimit) rlimit() (sandbox.Rlimit, error) {
	r := sandbox.Rlimit{Resource: strings.ToLower(l.Resource), Soft: l.Soft, Hard: l.Soft}
	if l.Hard != nil {
		r.Hard = *l.Hard
	}
	return r, r.Validate()
}

// ConfInit is a program to be PID 1.
type ConfInit struct {
	Cmd  string            `yaml:"cmd"`
	Args []string          `yaml:"args"`
	Env  map[string]string `yaml:"env"`
}

// dir is that of the file, which relative paths in it begin at.
func (d *decoder) dir() string {
	dir, err := filepath.Abs(filepath.Dir(d.path))
	if err != nil {
		return filepath.Dir(d.path)
	}
	return dir
}

// file is a path of this machine that the file names.
func (d *decoder) file(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(d.dir(), p)
}

// Section is what part of a configuration a file holds.
type Section string

// The sections: the whole, and the contents of the scoped files.
const (
	ConfWhole    Section = "conf"
	ConfNetwork  Section = "net-conf"      // what is below network
	ConfResource Section = "resource-conf" // cpus, memory, times, rlimits
	ConfRuntime  Section = "runtime-conf"  // how commands run
	ConfFiles    Section = "fs-conf"       // mounts and patches
	ConfSecret   Section = "secret-conf"   // what is below secrets
	ConfScript   Section = "script-conf"   // what is below scripts
)

// sections are the keys that a section has; nil has all.
var sections = map[Section][]string{
	ConfResource: {"cpus", "memory", "max_duration", "idle_timeout", "rlimits"},
	ConfRuntime:  {"workdir", "shell", "user", "hostname", "security", "entrypoint", "cmd", "env", "init"},
	ConfFiles:    {"mounts", "patch_files", "patches"},
}

// projectKeys are those of a Sandboxfile.
var projectKeys = []string{"sandboxes", "layers", "volumes", "depends_on", "name", "description"}

// Read adds what the file at path says. Relative paths in it begin at its directory.
func (c *Conf) Read(path string, section Section) error {
	data, err := readMost(path, maxConf)
	if err != nil {
		if os.IsNotExist(err) {
			return &sandbox.Error{Op: "read configuration", Kind: sandbox.InvalidConfig, Message: "there is no file " + path}
		}
		return err
	}
	return c.parse(path, section, data, os.LookupEnv)
}

func (c *Conf) parse(path string, section Section, data []byte, lookup func(string) (string, bool)) error {
	root, err := parse(path, data, maxConf)
	if err != nil {
		return err
	}
	if root == nil {
		return &sandbox.Error{Op: "read configuration", Kind: sandbox.InvalidConfig, Message: path + ": there is nothing in it"}
	}
	d := &decoder{path: path, strict: true, left: maxNodes, lookup: lookup}
	if err := d.check(root); err != nil {
		return err
	}
	switch section {
	case ConfNetwork:
		return d.value(root, reflect.ValueOf(&c.Network).Elem(), "")
	case ConfSecret:
		return d.value(root, reflect.ValueOf(&c.Secrets).Elem(), "")
	case ConfScript:
		return d.value(root, reflect.ValueOf(&c.Scripts).Elem(), "")
	}
	if root.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(root.Content); i += 2 {
			key := root.Content[i]
			if slices.Contains(projectKeys, key.Value) {
				return d.fail(key, "the key %q is one of a project: this is the configuration of one sandbox", key.Value)
			}
			if keys := sections[section]; keys != nil && !slices.Contains(keys, key.Value) {
				return d.fail(key, "a file of --%s has no key %q: it has %s", section, clip(key.Value), strings.Join(keys, ", "))
			}
		}
	}
	had := c.PatchFiles
	if err := d.value(root, reflect.ValueOf(c).Elem(), ""); err != nil {
		return err
	}
	for i, p := range c.PatchFiles {
		if !slices.Contains(had, p) {
			c.PatchFiles[i] = d.file(p)
		}
	}
	return nil
}
