package sandboxfile

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
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

// ConfImage is a reference, or exactly one of the keys.
type ConfImage struct {
	OCI      *ConfOCI  `yaml:"oci"`
	Snapshot string    `yaml:"snapshot"`
	Disk     *ConfDisk `yaml:"disk"`
	Bind     string    `yaml:"bind"`
}

// ConfOCI is an image of a registry.
type ConfOCI struct {
	Reference string `yaml:"reference"`
	UpperSize Size   `yaml:"upper_size"`
}

// ConfDisk is a disk image.
type ConfDisk struct {
	Path   string `yaml:"path"`
	FSType string `yaml:"fstype"`
}

// ConfRegistry says what the image's registry knows the user by.
type ConfRegistry struct {
	Username    string `yaml:"username"`
	PasswordEnv string `yaml:"password_env"`
}

// ConfRlimit is a resource limit; Hard is Soft where it is not said.
type ConfRlimit struct {
	Resource string  `yaml:"resource"`
	Soft     uint64  `yaml:"soft"`
	Hard     *uint64 `yaml:"hard"`
}

// ConfInit is a program to be PID 1.
type ConfInit struct {
	Cmd  string            `yaml:"cmd"`
	Args []string          `yaml:"args"`
	Env  map[string]string `yaml:"env"`
}

// ConfMount is src:/dst[:ro], or keys.
type ConfMount struct {
	Text               string     `yaml:"-"`
	Bind               string     `yaml:"bind"`
	Named              string     `yaml:"named"`
	Tmpfs              *ConfTmpfs `yaml:"tmpfs"`
	Disk               string     `yaml:"disk"`
	Target             string     `yaml:"target"`
	Create             string     `yaml:"create"`
	Format             string     `yaml:"format"`
	FSType             string     `yaml:"fstype"`
	ReadOnly           bool       `yaml:"readonly"`
	NoExec             bool       `yaml:"noexec"`
	NoSUID             bool       `yaml:"nosuid"`
	NoDev              bool       `yaml:"nodev"`
	StatVirtualization string     `yaml:"stat_virtualization"`
	HostPermissions    string     `yaml:"host_permissions"`

	place string
}

// ConfTmpfs is a file system in memory.
type ConfTmpfs struct {
	Size Size `yaml:"size"`
}

// ConfPatch has exactly one of its kinds.
type ConfPatch struct {
	Text     *PatchText `yaml:"text"`
	File     *PatchFile `yaml:"file"`
	CopyFile *PatchCopy `yaml:"copy_file"`
	CopyDir  *PatchCopy `yaml:"copy_dir"`
	Symlink  *PatchLink `yaml:"symlink"`
	Mkdir    *PatchPath `yaml:"mkdir"`
	Remove   *PatchPath `yaml:"remove"`
	Append   *PatchText `yaml:"append"`

	place, dir string
}

// PatchText writes text, or appends it.
type PatchText struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	Mode    Mode   `yaml:"mode"`
	Replace bool   `yaml:"replace"`
}

// PatchFile writes bytes.
type PatchFile struct {
	Path          string `yaml:"path"`
	ContentBase64 string `yaml:"content_base64"`
	Mode          Mode   `yaml:"mode"`
	Replace       bool   `yaml:"replace"`
}

// PatchCopy copies from this machine.
type PatchCopy struct {
	Src     string `yaml:"src"`
	Dst     string `yaml:"dst"`
	Mode    Mode   `yaml:"mode"`
	Replace bool   `yaml:"replace"`
}

// PatchLink makes a symbolic link.
type PatchLink struct {
	Target  string `yaml:"target"`
	Link    string `yaml:"link"`
	Replace bool   `yaml:"replace"`
}

// PatchPath is about one path.
type PatchPath struct {
	Path string `yaml:"path"`
	Mode Mode   `yaml:"mode"`
}

// Size is in MiB; written as 512M or 2G, or as a number of MiB.
type Size int

// Mode is permission bits, written as "0644" in quotes; nil is the default.
type Mode struct{ Bits *uint32 }

// PullPolicy is missing, always or never.
type PullPolicy string

// Security is default or restricted.
type Security string

func (v *Size) decodeNode(d *decoder, n *yaml.Node, at string) error {
	text, err := d.word(n, at, "a size such as 512M or 2G")
	if err != nil {
		return err
	}
	mib, err := sandbox.ParseSize(text)
	if err != nil {
		return d.fail(n, "%s: want a size such as 512M or 2G (a bare number is MiB), not %s", at, clip(text))
	}
	*v = Size(mib)
	return nil
}

var modeForm = regexp.MustCompile(`^0?[0-7]{3,4}$`)

func (v *Mode) decodeNode(d *decoder, n *yaml.Node, at string) error {
	text, err := d.word(n, at, `a mode such as "0644"`)
	if err != nil {
		return err
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0 || !modeForm.MatchString(text) {
		return d.fail(n, `%s: want a mode such as "0644", in quotes, not %s`, at, clip(text))
	}
	bits, _ := strconv.ParseUint(text, 8, 32) // the form was checked
	mode := uint32(bits)
	v.Bits = &mode
	return nil
}

func (v *PullPolicy) decodeNode(d *decoder, n *yaml.Node, at string) error {
	return d.oneOf(n, at, (*string)(v), "missing", "always", "never")
}

func (v *Security) decodeNode(d *decoder, n *yaml.Node, at string) error {
	return d.oneOf(n, at, (*string)(v), sandbox.ProfileDefault, sandbox.ProfileRestricted)
}

func (*Size) schema() map[string]any {
	return map[string]any{"type": []string{"string", "integer"}, "pattern": "^[0-9]+([KMGTkmgt]([iI]?[bB])?)?$"}
}
func (*Mode) schema() map[string]any {
	return map[string]any{"type": "string", "pattern": modeForm.String()}
}
func (*PullPolicy) schema() map[string]any { return words("missing", "always", "never") }
func (*Security) schema() map[string]any   { return words("default", "restricted") }
func (*ConfImage) schema() map[string]any {
	type plain ConfImage
	return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, object(reflect.TypeFor[plain]())}}
}
func (*ConfMount) schema() map[string]any {
	type plain ConfMount
	return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, object(reflect.TypeFor[plain]())}}
}

// word is the text of a scalar.
func (d *decoder) word(n *yaml.Node, at, want string) (string, error) {
	if n.Kind != yaml.ScalarNode || null(n) {
		return "", d.fail(n, "%s: want %s, not %s", at, want, kindOf(n))
	}
	return d.text(n)
}

func (d *decoder) oneOf(n *yaml.Node, at string, to *string, words ...string) error {
	text, err := d.word(n, at, strings.Join(words, ", "))
	if err != nil {
		return err
	}
	if !slices.Contains(words, text) {
		return d.fail(n, "%s: want %s, not %s", at, strings.Join(words, ", "), clip(text))
	}
	*to = text
	return nil
}

func (c *ConfImage) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*c = ConfImage{}
	if n.Kind == yaml.ScalarNode {
		text, err := d.word(n, at, "an image")
		if err != nil {
			return err
		}
		if text == "" {
			return d.fail(n, "%s: there is none", at)
		}
		if sandbox.IsHostPath(text) || text == "." || text == ".." {
			c.Bind = d.file(text)
		} else {
			c.OCI = &ConfOCI{Reference: text}
		}
		return nil
	}
	type plain ConfImage
	if err := d.object(n, reflect.ValueOf((*plain)(c)).Elem(), at); err != nil {
		return err
	}
	if len(n.Content) != 2 {
		return d.fail(n, "%s: want exactly one of oci, snapshot, disk and bind", at)
	}
	if c.Bind != "" {
		c.Bind = d.file(c.Bind)
	}
	return nil
}

func (m *ConfMount) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*m = ConfMount{place: fmt.Sprintf("%s:%d:%d", d.path, n.Line, n.Column)}
	if n.Kind == yaml.ScalarNode {
		text, err := d.word(n, at, "a mount")
		if err != nil {
			return err
		}
		if src, rest, ok := strings.Cut(text, ":"); ok && sandbox.IsHostPath(src) {
			text = d.file(src) + ":" + rest
		}
		m.Text = text
		return nil
	}
	type plain ConfMount
	if err := d.object(n, reflect.ValueOf((*plain)(m)).Elem(), at); err != nil {
		return err
	}
	kinds := 0
	for _, is := range []bool{m.Bind != "", m.Named != "", m.Tmpfs != nil, m.Disk != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return d.fail(n, "%s: want exactly one of bind, named, tmpfs and disk", at)
	}
	if m.Target == "" {
		return d.fail(n, "%s: it has no target", at)
	}
	if m.Bind != "" {
		m.Bind = d.file(m.Bind)
	}
	return nil
}

func (p *ConfPatch) decodeNode(d *decoder, n *yaml.Node, at string) error {
	*p = ConfPatch{place: fmt.Sprintf("%s:%d:%d", d.path, n.Line, n.Column), dir: d.dir()}
	type plain ConfPatch
	if err := d.object(n, reflect.ValueOf((*plain)(p)).Elem(), at); err != nil {
		return err
	}
	if len(n.Content) != 2 {
		return d.fail(n, "%s: want exactly one kind of patch", at)
	}
	return nil
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

// Fill puts what is said into those places of spec where nothing is said yet: those of maps by their keys, mounts by their
// targets.
func (c *Conf) Fill(spec *sandbox.Spec) error {
	if spec.Image == (sandbox.Image{}) {
		if err := c.image(spec); err != nil {
			return err
		}
	}
	fill(&spec.PullPolicy, map[PullPolicy]string{"missing": sandbox.PullIfMissing, "always": sandbox.PullAlways, "never": sandbox.PullNever}[c.PullPolicy])
	if c.Registry != nil {
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "registry in a configuration file is not supported yet", Hint: "log in with: msb registry login HOST"}
	}
	if c.CPUs != nil {
		if *c.CPUs == 0 {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "cpus is 0"}
		}
		fill(&spec.Resources.CPUs, int(*c.CPUs))
	}
	fill(&spec.Resources.MemoryMiB, int(c.Memory))
	if spec.Lifecycle.MaxDurationSecs == nil {
		spec.Lifecycle.MaxDurationSecs = seconds(c.MaxDuration)
	}
	if spec.Lifecycle.IdleTimeoutSecs == nil {
		spec.Lifecycle.IdleTimeoutSecs = seconds(c.IdleTimeout)
	}
	for _, l := range c.Rlimits {
		one := sandbox.Rlimit{Resource: strings.ToLower(l.Resource), Soft: l.Soft, Hard: l.Soft}
		if l.Hard != nil {
			one.Hard = *l.Hard
		}
		if err := one.Validate(); err != nil {
			return err
		}
		if !slices.ContainsFunc(spec.Rlimits, func(have sandbox.Rlimit) bool { return have.Resource == one.Resource }) {
			spec.Rlimits = append(spec.Rlimits, one)
		}
	}
	r := &spec.Runtime
	fill(&r.Workdir, c.Workdir)
	fill(&r.Shell, c.Shell)
	fill(&r.User, c.User)
	fill(&r.Hostname, c.Hostname)
	fill(&spec.SecurityProfile, string(c.Security))
	if r.Entrypoint == nil {
		r.Entrypoint = c.Entrypoint
	}
	if r.Cmd == nil {
		r.Cmd = c.Cmd
	}
	var env []sandbox.EnvVar
	for _, k := range sortedKeys(c.Env) {
		if !slices.ContainsFunc(spec.Env, func(e sandbox.EnvVar) bool { return e.Key == k }) {
			env = append(env, sandbox.EnvVar{Key: k, Value: c.Env[k]})
		}
	}
	spec.Env = append(env, spec.Env...)
	for k, v := range c.Labels {
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		if _, there := spec.Labels[k]; !there {
			spec.Labels[k] = v
		}
	}
	if c.Init != nil && spec.Init == nil {
		spec.Init = &sandbox.Init{Cmd: c.Init.Cmd, Args: c.Init.Args}
		for _, k := range sortedKeys(c.Init.Env) {
			spec.Init.Env = append(spec.Init.Env, sandbox.EnvVar{Key: k, Value: c.Init.Env[k]})
		}
	}
	if err := c.files(spec); err != nil {
		return err
	}
	for _, name := range sortedKeys(c.Scripts) {
		if r.Scripts == nil {
			r.Scripts = map[string]string{}
		}
		if _, there := r.Scripts[name]; !there {
			body := c.Scripts[name]
			if !strings.HasPrefix(body, "#!") {
				body = sandbox.Shebang(r.Shell) + body
			}
			r.Scripts[name] = body
		}
	}
	return c.network(spec)
}

func fill[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

func (c *Conf) image(spec *sandbox.Spec) error {
	i := c.Image
	switch {
	case i.OCI != nil:
		if i.OCI.Reference == "" {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "image.oci has no reference"}
		}
		spec.Image.OCI = &sandbox.OCIImage{Reference: i.OCI.Reference}
		if i.OCI.UpperSize > 0 {
			spec.Image.OCI.RootDisk = sandbox.RootDisk{Kind: sandbox.RootDiskManaged, SizeMiB: int(i.OCI.UpperSize)}
		}
	case i.Bind != "":
		spec.Image.Bind = &sandbox.BindImage{Path: i.Bind}
	case i.Snapshot != "":
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "image.snapshot is not supported yet: start from a snapshot"}
	case i.Disk != nil:
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "image.disk is not supported: it needs a virtual machine, and the microvm driver is not there yet"}
	}
	return nil
}

func (c *Conf) network(spec *sandbox.Spec) error {
	n := &spec.Network
	var said sandbox.Network
	if err := c.Network.apply(&said); err != nil {
		return err
	}
	if len(n.Ports) == 0 {
		n.Ports = said.Ports
		for _, s := range c.Ports {
			p, err := sandbox.ParsePort(s)
			if err != nil {
				return err
			}
			n.Ports = append(n.Ports, p)
		}
	}
	if n.Policy == nil && said.Policy != nil {
		n.Policy, n.Enabled = said.Policy, true
	}
	if n.DNS == nil {
		n.DNS = said.DNS
	}
	if n.TLS == nil {
		n.TLS = said.TLS
	}
	if n.MaxConnections == nil {
		n.MaxConnections = said.MaxConnections
	}
	n.TrustHostCAs = n.TrustHostCAs || said.TrustHostCAs
	s, err := secrets(c.Secrets)
	if err != nil || s == nil {
		return err
	}
	if n.Secrets == nil {
		n.Secrets = &sandbox.Secrets{}
	}
	for _, one := range s.Secrets {
		if !slices.ContainsFunc(n.Secrets.Secrets, func(have sandbox.Secret) bool { return have.EnvVar == one.EnvVar }) {
			n.Secrets.Secrets = append(n.Secrets.Secrets, one)
		}
	}
	return nil
}

// files are mounts and patches.
func (c *Conf) files(spec *sandbox.Spec) error {
	var mounts []sandbox.Mount
	for _, m := range c.Mounts {
		one, err := m.mount()
		if err != nil {
			return &sandbox.Error{Kind: sandbox.KindOf(err), Message: m.place + ": " + detail(err), Hint: sandbox.HintOf(err)}
		}
		if !slices.ContainsFunc(spec.Mounts, func(have sandbox.Mount) bool { return have.Guest == one.Guest }) {
			mounts = append(mounts, one)
		}
	}
	spec.Mounts = append(mounts, spec.Mounts...)
	var patches []sandbox.Patch
	var all []ConfPatch
	for _, file := range c.PatchFiles {
		data, err := readMost(file, maxConf)
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "patch_files: " + detail(err)}
		}
		root, err := parse(file, data, maxConf)
		if err != nil {
			return err
		}
		if root == nil {
			continue
		}
		d := &decoder{path: file, strict: true, left: maxNodes, lookup: os.LookupEnv}
		if err := d.check(root); err != nil {
			return err
		}
		var more []ConfPatch
		if err := d.value(root, reflect.ValueOf(&more).Elem(), "patches"); err != nil {
			return err
		}
		all = append(all, more...)
	}
	for _, p := range append(all, c.Patches...) {
		one, err := p.patch()
		if err != nil {
			return &sandbox.Error{Kind: sandbox.InvalidConfig, Message: p.place + ": " + detail(err)}
		}
		patches = append(patches, one)
	}
	spec.Patches = append(patches, spec.Patches...)
	return nil
}

func (m ConfMount) mount() (sandbox.Mount, error) {
	if m.Text != "" {
		return sandbox.ParseVolume(m.Text)
	}
	out := sandbox.Mount{Guest: m.Target, Options: sandbox.MountOptions{ReadOnly: m.ReadOnly, NoExec: m.NoExec, NoSUID: m.NoSUID, NoDev: m.NoDev},
		StatVirtualization: m.StatVirtualization, HostPermissions: m.HostPermissions}
	switch {
	case m.Disk != "":
		return out, &sandbox.Error{Kind: sandbox.Unsupported, Message: "a mount of a disk image is not supported: it needs a virtual machine, and the microvm driver is not there yet"}
	case m.Format != "" || m.FSType != "":
		return out, fmt.Errorf("format and fstype are of disks only")
	case m.Bind != "":
		out.Type, out.Host = sandbox.MountBind, m.Bind
	case m.Named != "":
		out.Type, out.Host, out.Create = sandbox.MountNamed, m.Named, sandbox.VolumeEnsure
	case m.Tmpfs != nil:
		out.Type, out.SizeMiB = sandbox.MountTmpfs, int(m.Tmpfs.Size)
	}
	if m.Create != "" {
		if m.Named == "" || !slices.Contains([]string{sandbox.VolumeExisting, sandbox.VolumeCreate, sandbox.VolumeEnsure}, m.Create) {
			return out, fmt.Errorf("create is %q: want existing, create or ensure-exists, of a named volume", clip(m.Create))
		}
		out.Create = m.Create
	}
	return out, nil
}

func (p ConfPatch) patch() (sandbox.Patch, error) {
	from := func(src string) string {
		if filepath.IsAbs(src) {
			return src
		}
		return filepath.Join(p.dir, src)
	}
	switch {
	case p.Text != nil:
		return sandbox.Patch{Type: sandbox.PatchText, Path: p.Text.Path, Content: []byte(p.Text.Content), Mode: p.Text.Mode.Bits, Replace: p.Text.Replace}, nil
	case p.Append != nil:
		return sandbox.Patch{Type: sandbox.PatchAppend, Path: p.Append.Path, Content: []byte(p.Append.Content), Mode: p.Append.Mode.Bits}, nil
	case p.File != nil:
		data, err := base64.StdEncoding.DecodeString(p.File.ContentBase64)
		if err != nil {
			return sandbox.Patch{}, fmt.Errorf("content_base64 is not base64")
		}
		return sandbox.Patch{Type: sandbox.PatchFile, Path: p.File.Path, Content: data, Mode: p.File.Mode.Bits, Replace: p.File.Replace}, nil
	case p.CopyFile != nil:
		return sandbox.Patch{Type: sandbox.PatchCopyFile, Src: from(p.CopyFile.Src), Dst: p.CopyFile.Dst, Mode: p.CopyFile.Mode.Bits, Replace: p.CopyFile.Replace}, nil
	case p.CopyDir != nil:
		return sandbox.Patch{Type: sandbox.PatchCopyDir, Src: from(p.CopyDir.Src), Dst: p.CopyDir.Dst, Replace: p.CopyDir.Replace}, nil
	case p.Symlink != nil:
		return sandbox.Patch{Type: sandbox.PatchSymlink, Target: p.Symlink.Target, Link: p.Symlink.Link, Replace: p.Symlink.Replace}, nil
	case p.Mkdir != nil:
		return sandbox.Patch{Type: sandbox.PatchMkdir, Path: p.Mkdir.Path, Mode: p.Mkdir.Mode.Bits}, nil
	case p.Remove != nil:
		return sandbox.Patch{Type: sandbox.PatchRemove, Path: p.Remove.Path}, nil
	}
	return sandbox.Patch{}, fmt.Errorf("it says nothing")
}
