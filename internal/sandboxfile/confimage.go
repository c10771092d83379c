package sandboxfile

import (
	"os"
	"reflect"

	"go.yaml.in/yaml/v3"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

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

// Login is what the image's registry knows the user by; password_env names the variable with the password where msb runs.
func (c *Conf) Login() (username, password string, ok bool, err error) {
	r := c.Registry
	if r == nil {
		return "", "", false, nil
	}
	if r.Username == "" || r.PasswordEnv == "" {
		return "", "", false, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "registry has not both of username and password_env", Hint: "without registry: msb registry login HOST"}
	}
	if password = os.Getenv(r.PasswordEnv); password == "" {
		return "", "", false, &sandbox.Error{Kind: sandbox.InvalidConfig, Message: "registry.password_env: the environment has no variable " + clip(r.PasswordEnv), Hint: "set it to the registry's password, or: msb registry login HOST"}
	}
	return r.Username, password, true, nil
}

// PullPolicy is missing, always or never.
type PullPolicy string

// pullPolicies are the words in those of a spec.
var pullPolicies = map[PullPolicy]string{"missing": sandbox.PullIfMissing, "always": sandbox.PullAlways, "never": sandbox.PullNever}

func (v *PullPolicy) decodeNode(d *decoder, n *yaml.Node, at string) error {
	return d.oneOf(n, at, (*string)(v), "missing", "always", "never")
}

func (*PullPolicy) schema() map[string]any { return words("missing", "always", "never") }

func (*ConfImage) schema() map[string]any {
	type plain ConfImage
	return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, object(reflect.TypeFor[plain]())}}
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
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "image.snapshot is not supported yet: there are no snapshots to start from", Hint: "name an image or a directory: image: REFERENCE"}
	case i.Disk != nil:
		return &sandbox.Error{Kind: sandbox.Unsupported, Message: "image.disk is not supported: it needs a virtual machine, and the microvm driver is not there yet", Hint: "name an image or a directory: image: REFERENCE"}
	}
	return nil
}
