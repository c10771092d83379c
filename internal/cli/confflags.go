package cli

import (
	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// confFlags are the flags that name YAML files (contract msb-0.6 §1.6). They are read from left to right, whichever flags they
// belong to; the other flags come over them.
type confFlags []confFile

type confFile struct {
	path    string
	section sandboxfile.Section
}

func (c *confFlags) declare(f *flags) {
	f.group("Configuration files")
	for _, l := range [...]struct {
		section sandboxfile.Section
		help    string
	}{
		{sandboxfile.ConfWhole, "Read the sandbox's configuration from a YAML file; repeatable, and flags come over it"},
		{sandboxfile.ConfNetwork, "Read its network configuration from a YAML file"},
		{sandboxfile.ConfResource, "Read its resources and lifetime from a YAML file"},
		{sandboxfile.ConfRuntime, "Read how commands run in it from a YAML file"},
		{sandboxfile.ConfFiles, "Read its mounts and patches from a YAML file"},
		{sandboxfile.ConfSecret, "Read its secrets from a YAML file"},
		{sandboxfile.ConfScript, "Read its scripts from a YAML file"},
	} {
		f.value("", string(l.section), "PATH", l.help, func(v string) error {
			*c = append(*c, confFile{v, l.section})
			return nil
		})
	}
}

// read is what the files say all together.
func (c confFlags) read() (*sandboxfile.Conf, error) {
	var conf sandboxfile.Conf
	for _, f := range c {
		if err := conf.Read(f.path, f.section); err != nil {
			return nil, err
		}
	}
	return &conf, nil
}

// fill puts what the files say where the flags say nothing. It returns what the image's registry knows the user by, nil where they do
// not say, and for another image than theirs.
func (c confFlags) fill(spec *sandbox.Spec) (*backend.RegistryAuth, error) {
	if len(c) == 0 {
		return nil, nil
	}
	conf, err := c.read()
	if err != nil {
		return nil, err
	}
	if err := conf.Fill(spec); err != nil {
		return nil, err
	}
	if named := conf.Image.OCI; named != nil && spec.Image.String() != named.Reference { // another's password is none of its registry's business
		return nil, nil
	}
	username, password, ok, err := conf.Login()
	if !ok {
		return nil, err
	}
	return &backend.RegistryAuth{Username: username, Password: backend.Secret(password)}, nil
}

// whole reports whether there is a file that may name the image.
func (c confFlags) whole() bool {
	for _, f := range c {
		if f.section == sandboxfile.ConfWhole {
			return true
		}
	}
	return false
}
