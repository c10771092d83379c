package sandboxfile

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

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

func (*ConfMount) schema() map[string]any {
	type plain ConfMount
	return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, object(reflect.TypeFor[plain]())}}
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
