// Package sandboxfile reads and edits a Sandboxfile, the YAML that says which sandboxes a project or a namespace has (contract
// server-v0.2 §3.1), and reads the YAML of one sandbox (msb-0.6 §1.6). Keys that a Sandboxfile should not have are warned of and left
// alone; the other YAML is strict.
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
	"reflect"
	"regexp"
	"strings"
	"time"

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
	// Name is the project's; "" is that of its directory.
	Name string `yaml:"name,omitempty"`
	// Namespace makes the file that of a whole namespace, as msb export writes it: its sandboxes and volumes have just the names that they
	// have here.
	Namespace string                        `yaml:"namespace,omitempty"`
	Meta      *Meta                         `yaml:"meta,omitempty"`
	Modules   map[string]map[string]*Module `yaml:"modules,omitempty"`
	Builds    map[string]Build              `yaml:"builds,omitempty"`
	Sandboxes map[string]Sandbox            `yaml:"sandboxes"`
	Groups    map[string]Group              `yaml:"groups,omitempty"` // of other versions; they mean nothing

	// Warnings tell of what is in the file and means nothing, each with its place.
	Warnings []string `yaml:"-"`
}

// Meta describes a project or a sandbox. It changes nothing.
type Meta struct {
	Authors     []string `yaml:"authors,omitempty"`
	Description string   `yaml:"description,omitempty"`
	Homepage    string   `yaml:"homepage,omitempty"`
	Repository  string   `yaml:"repository,omitempty"`
	Readme      string   `yaml:"readme,omitempty"`
	Tags        []string `yaml:"tags,omitempty"`
	Icon        string   `yaml:"icon,omitempty"`
}

// Module is a component of another file.
type Module struct {
	As string `yaml:"as,omitempty"`
}

// Group is what other versions have for groups of sandboxes.
type Group struct {
	Version string            `yaml:"version,omitempty"`
	Meta    *Meta             `yaml:"meta,omitempty"`
	Network *GroupNetwork     `yaml:"network,omitempty"`
	Volumes map[string]string `yaml:"volumes,omitempty"`
}

// GroupNetwork is that of a group, or a sandbox's part of it.
type GroupNetwork struct {
	Subnet   string `yaml:"subnet,omitempty"`
	IP       string `yaml:"ip,omitempty"`
	Hostname string `yaml:"hostname,omitempty"`
}

// Build makes an image: its steps are run one after the other in a sandbox of Image, and what is there then is the image.
type Build struct {
	Image     string            `yaml:"image" required:"true"`
	Memory    *uint32           `yaml:"memory,omitempty"` // MiB
	CPUs      *uint8            `yaml:"cpus,omitempty"`
	Volumes   []string          `yaml:"volumes,omitempty"` // while it is built
	Ports     []string          `yaml:"ports,omitempty"`   // of the image: EXPOSE
	Envs      []string          `yaml:"envs,omitempty"`    // while it is built, and in the image
	DependsOn []string          `yaml:"depends_on,omitempty"`
	Workdir   string            `yaml:"workdir,omitempty"`
	Shell     string            `yaml:"shell,omitempty"`
	User      string            `yaml:"user,omitempty"`      // of the image; steps are root's
	RootDisk  string            `yaml:"root_disk,omitempty"` // while it is built; tmpfs is faster, and takes memory
	Steps     Steps             `yaml:"steps,omitempty"`
	Command   []string          `yaml:"command,omitempty"` // of the image
	Network   *Network          `yaml:"network,omitempty"` // while it is built
	Imports   map[string]string `yaml:"imports,omitempty"`
	Exports   map[string]string `yaml:"exports,omitempty"`
}

// Step is a line for the shell. Older files give steps names.
type Step struct{ Name, Run string }

// Steps are a list, or in older files a map, which is taken in its order.
type Steps []Step

func (s *Steps) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*s = nil
	if n.Kind == yaml.MappingNode {
		return d.pairs(n, at, func(key, value *yaml.Node) error {
			one := Step{Name: key.Value}
			*s = append(*s, one)
			return d.value(value, reflect.ValueOf(&(*s)[len(*s)-1].Run).Elem(), join2(at, key.Value))
		})
	}
	var list []string
	err := d.list(n, reflect.ValueOf(&list).Elem(), at)
	for _, run := range list {
		*s = append(*s, Step{Run: run})
	}
	return err
}

// MarshalYAML writes a list.
func (s Steps) MarshalYAML() (any, error) {
	list := make([]string, len(s))
	for i, one := range s {
		list[i] = one.Run
	}
	return list, nil
}

// Sandbox is one sandbox. What is written back has the keys in this order.
type Sandbox struct {
	Version     string                `yaml:"version,omitempty" json:"-"`
	Meta        *Meta                 `yaml:"meta,omitempty" json:"-"`
	Image       string                `yaml:"image,omitempty" json:"image" required:"true"`
	Memory      *uint32               `yaml:"memory,omitempty" json:"memory"` // MiB
	CPUs        *uint8                `yaml:"cpus,omitempty" json:"cpus"`
	Volumes     []string              `yaml:"volumes,omitempty" json:"volumes"`
	Ports       []string              `yaml:"ports,omitempty" json:"ports"`
	Envs        []string              `yaml:"envs,omitempty" json:"envs"`
	EnvFile     string                `yaml:"env_file,omitempty" json:"-"`
	Groups      map[string]Membership `yaml:"groups,omitempty" json:"-"` // of other versions
	DependsOn   []string              `yaml:"depends_on,omitempty" json:"depends_on"`
	Workdir     string                `yaml:"workdir,omitempty" json:"workdir"`
	Shell       string                `yaml:"shell,omitempty" json:"shell"`
	Scripts     map[string]string     `yaml:"scripts,omitempty" json:"scripts"`
	Command     []string              `yaml:"command,omitempty" json:"-"`
	Entrypoint  []string              `yaml:"entrypoint,omitempty" json:"-"` // with Cmd, in the place of Command
	Cmd         []string              `yaml:"cmd,omitempty" json:"-"`
	AtStart     AtStart               `yaml:"startup,omitempty" json:"-"`
	Exec        string                `yaml:"exec,omitempty" json:"exec"`
	Imports     map[string]string     `yaml:"imports,omitempty" json:"-"`
	Exports     map[string]string     `yaml:"exports,omitempty" json:"-"`
	Scope       string                `yaml:"scope,omitempty" json:"-"`
	Network     *Network              `yaml:"network,omitempty" json:"-"`
	Secrets     map[string]Secret     `yaml:"secrets,omitempty" json:"-"`
	Labels      map[string]string     `yaml:"labels,omitempty" json:"-"`
	User        string                `yaml:"user,omitempty" json:"-"`
	Hostname    string                `yaml:"hostname,omitempty" json:"-"`
	Tmpfs       []string              `yaml:"tmpfs,omitempty" json:"-"`     // PATH[:SIZE][:OPTIONS]
	RootDisk    string                `yaml:"root_disk,omitempty" json:"-"` // SIZE, or tmpfs[:SIZE]
	Rlimits     []ConfRlimit          `yaml:"rlimits,omitempty" json:"-"`
	PullPolicy  PullPolicy            `yaml:"pull_policy,omitempty" json:"-"`
	Security    Security              `yaml:"security,omitempty" json:"-"`
	MaxDuration Duration              `yaml:"max_duration,omitempty" json:"-"`
	IdleTimeout Duration              `yaml:"idle_timeout,omitempty" json:"-"`
	Healthcheck *Healthcheck          `yaml:"healthcheck,omitempty" json:"-"`
	Restart     string                `yaml:"restart,omitempty" json:"-"` // no | on-failure

	place func(field string) string // path:line:column of a field
}

// AtStart says what becomes of a sandbox's command when it starts.
type AtStart string

// The words of [AtStart]. Without one, what the entry says itself is run, and its end is the sandbox's; and what its image says is run,
// and its end is not the sandbox's.
const (
	StartsNothing AtStart = "none"  // nothing is run
	StartEnds     AtStart = "ends"  // the sandbox ends with its command
	StartStays    AtStart = "stays" // it goes on without it
)

func (v *AtStart) decodeNode(d *decoder, n *yaml.Node, at string) error {
	return d.oneOf(n, at, (*string)(v), string(StartsNothing), string(StartEnds), string(StartStays))
}

// Membership is a sandbox's part of a group.
type Membership struct {
	Volumes map[string]string `yaml:"volumes,omitempty"`
	Network *GroupNetwork     `yaml:"network,omitempty"`
}

// Healthcheck says when a sandbox is ready for those that depend on it.
type Healthcheck struct {
	Test        Command  `yaml:"test"`                   // run in the sandbox; ready is exit code 0
	Interval    Duration `yaml:"interval,omitempty"`     // between two tests; default 1 s
	Timeout     Duration `yaml:"timeout,omitempty"`      // of one test; default 10 s
	Retries     int      `yaml:"retries,omitempty"`      // tests that may fail after StartPeriod; default 30
	StartPeriod Duration `yaml:"start_period,omitempty"` // in which failures do not count
}

// Command is a list of words, or a line for the shell.
type Command struct {
	Line  string
	Words []string
}

func (c *Command) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*c = Command{}
	if n.Kind == yaml.SequenceNode {
		return d.list(n, reflect.ValueOf(&c.Words).Elem(), at)
	}
	if n.Kind != yaml.ScalarNode || null(n) {
		return d.fail(n, "%s: want a command, not %s", at, kindOf(n))
	}
	return d.scalar(n, reflect.ValueOf(&c.Line).Elem(), at)
}

// MarshalYAML writes what was read.
func (c Command) MarshalYAML() (any, error) {
	if c.Words != nil {
		return c.Words, nil
	}
	return c.Line, nil
}

// Argv is what is run; a line is for that shell.
func (c Command) Argv(shell string) []string {
	if c.Words != nil {
		return c.Words
	}
	return []string{shell, "-c", c.Line}
}

// Duration is a time such as 500ms, 30s, 5m or 1h; a number is seconds.
type Duration string

func (v *Duration) decodeNode(d *decoder, n *yaml.Node, at string) error {
	if n.Kind != yaml.ScalarNode || null(n) {
		return d.fail(n, "%s: want a duration such as 30s, not %s", at, kindOf(n))
	}
	var s string
	text, err := d.text(n)
	if err == nil {
		s = text
		if _, perr := sandbox.ParseDuration(s); perr != nil {
			err = d.fail(n, "%s: want a duration such as 500ms, 30s, 5m or 1h, not %s", at, clip(s))
		}
	}
	*v = Duration(s)
	return err
}

// Or is the time, or another where none was given.
func (v Duration) Or(otherwise time.Duration) time.Duration {
	if t, err := sandbox.ParseDuration(string(v)); err == nil && v != "" {
		return t
	}
	return otherwise
}

// Parse reads a Sandboxfile. Errors are of the kind InvalidConfig and name path, line and column.
func Parse(path string, data []byte) (*File, error) {
	root, err := parse(path, data, maxFile)
	if err != nil {
		return nil, err
	}
	f := &File{}
	d := &decoder{path: path, left: maxNodes, where: map[string]string{}}
	if root != nil {
		if err := d.value(root, reflect.ValueOf(f).Elem(), ""); err != nil {
			return nil, err
		}
	}
	f.Warnings = d.warnings
	for name, s := range f.Sandboxes {
		at := "sandboxes." + name
		s.place = func(field string) string {
			for {
				if where, ok := d.where[join2(at, field)]; ok {
					return path + ":" + where
				}
				i := strings.LastIndexAny(field, ".[")
				if i < 0 {
					return path + ":" + d.where[at]
				}
				field = field[:i]
			}
		}
		f.Sandboxes[name] = s
	}
	return f, nil
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

var lineOf = regexp.MustCompile(`(?s)^line (\d+): (.*)$`)

// invalid says where a file is no YAML, as path:line:column: what.
func invalid(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	where := path
	if m := lineOf.FindStringSubmatch(text); m != nil {
		where, text = path+":"+m[1]+":1", m[2]
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

func readFile(path string) ([]byte, error) { return readMost(path, maxFile) }

// readMost reads a file, and of one that is larger than most a byte more than that.
func readMost(path string, most int64) ([]byte, error) {
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
	data, err := io.ReadAll(io.LimitReader(f, most+1))
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

// Place is where a field of the entry is, as path:line:column, or the entry where it has none.
func (s Sandbox) Place(field string) string {
	if s.place == nil {
		return Name
	}
	return s.place(field)
}
