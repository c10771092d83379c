// Package sandboxfile reads and edits a Sandboxfile, the YAML that says which sandboxes a project or a namespace has (contract
// server-v0.2 §3.1). Keys that are not known are left alone.
//
// [Parse] reads one, [Sandbox.Spec] makes of an entry what a backend takes, and [Update] changes a file on the disk, one process at
// a time, with everything else in it as it was.
package sandboxfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Name is what the file is called.
const Name = "Sandboxfile"

// Empty is the text of one that nobody wrote yet.
const Empty = "# Sandbox configurations\nsandboxes:\n"

// maxFile is the most that one may have, in bytes.
const maxFile = 1 << 20

// File is what a Sandboxfile says.
type File struct {
	Meta      *Meta                         `yaml:"meta"`
	Modules   map[string]map[string]*Module `yaml:"modules"`
	Builds    map[string]Build              `yaml:"builds"`
	Sandboxes map[string]Sandbox            `yaml:"sandboxes"`
}

// Meta describes a project or a sandbox. It changes nothing.
type Meta struct {
	Authors     []string `yaml:"authors"`
	Description string   `yaml:"description"`
	Homepage    string   `yaml:"homepage"`
	Repository  string   `yaml:"repository"`
	Readme      string   `yaml:"readme"`
	Tags        []string `yaml:"tags"`
	Icon        string   `yaml:"icon"`
}

// Module is a component of another file.
type Module struct {
	As string `yaml:"as"`
}

// Build makes an image.
type Build struct {
	Image     string            `yaml:"image"`
	Memory    *uint32           `yaml:"memory"`
	CPUs      *uint8            `yaml:"cpus"`
	Volumes   []string          `yaml:"volumes"`
	Ports     []string          `yaml:"ports"`
	Envs      []string          `yaml:"envs"`
	DependsOn []string          `yaml:"depends_on"`
	Workdir   string            `yaml:"workdir"`
	Shell     string            `yaml:"shell"`
	Steps     yaml.Node         `yaml:"steps"` // a list, or in older files a map
	Command   []string          `yaml:"command"`
	Imports   map[string]string `yaml:"imports"`
	Exports   map[string]string `yaml:"exports"`
}

// Sandbox is one sandbox. What is written back has the keys in this order.
type Sandbox struct {
	Version   string            `yaml:"version,omitempty" json:"-"`
	Meta      *Meta             `yaml:"meta,omitempty" json:"-"`
	Image     string            `yaml:"image,omitempty" json:"image"`
	Memory    *uint32           `yaml:"memory,omitempty" json:"memory"` // MiB
	CPUs      *uint8            `yaml:"cpus,omitempty" json:"cpus"`
	Volumes   []string          `yaml:"volumes,omitempty" json:"volumes"`
	Ports     []string          `yaml:"ports,omitempty" json:"ports"`
	Envs      []string          `yaml:"envs,omitempty" json:"envs"`
	EnvFile   string            `yaml:"env_file,omitempty" json:"-"`
	DependsOn []string          `yaml:"depends_on,omitempty" json:"depends_on"`
	Workdir   string            `yaml:"workdir,omitempty" json:"workdir"`
	Shell     string            `yaml:"shell,omitempty" json:"shell"`
	Scripts   map[string]string `yaml:"scripts,omitempty" json:"scripts"`
	Command   []string          `yaml:"command,omitempty" json:"-"`
	Exec      string            `yaml:"exec,omitempty" json:"exec"`
	Imports   map[string]string `yaml:"imports,omitempty" json:"-"`
	Exports   map[string]string `yaml:"exports,omitempty" json:"-"`
	Scope     string            `yaml:"scope,omitempty" json:"-"`
	Network   *NetworkScope     `yaml:"network,omitempty" json:"-"`
}

// NetworkScope is how older versions of msb add wrote a scope.
type NetworkScope struct {
	Scope string `yaml:"scope,omitempty"`
}

// Parse reads a Sandboxfile. Errors are of the kind InvalidConfig and name path and line.
func Parse(path string, data []byte) (*File, error) {
	var f File
	if err := decode(path, data, &f); err != nil {
		return nil, err
	}
	return &f, nil
}

func decode(path string, data []byte, into any) error {
	if len(data) > maxFile {
		return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: fmt.Sprintf("%s is larger than %d MiB", path, maxFile>>20)}
	}
	if err := yaml.Unmarshal(data, into); err != nil && !errors.Is(err, io.EOF) {
		return invalid(path, err)
	}
	return nil
}

var lineOf = regexp.MustCompile(`^line (\d+): (.*)$`)

// invalid says where a file is wrong, as path:line: what.
func invalid(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var t *yaml.TypeError
	if errors.As(err, &t) && len(t.Errors) > 0 {
		text = t.Errors[0]
	}
	where := path
	if m := lineOf.FindStringSubmatch(text); m != nil {
		where, text = path+":"+m[1], m[2]
	}
	return &sandbox.Error{Op: "read " + Name, Kind: sandbox.InvalidConfig, Message: where + ": " + text}
}

// Load reads the file at path. The error is fs.ErrNotExist where there is none.
func Load(path string) (*File, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, &sandbox.Error{Op: "read " + Name, Kind: sandbox.IO, Message: "read " + path, Err: err}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, &sandbox.Error{Op: "read " + Name, Kind: sandbox.InvalidConfig, Message: path + " is not a file"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &sandbox.Error{Op: "read " + Name, Kind: sandbox.IO, Message: "read " + path, Err: err}
	}
	return data, nil
}

// Equal reports whether two entries say the same.
func (s Sandbox) Equal(other Sandbox) bool {
	a, aerr := yaml.Marshal(s)
	b, berr := yaml.Marshal(other)
	return aerr == nil && berr == nil && bytes.Equal(a, b)
}

// Path is where the Sandboxfile of a directory is.
func Path(dir string) string { return filepath.Join(dir, Name) }
