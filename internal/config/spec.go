package config

import (
	"cmp"
	"path/filepath"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Complete adds to what somebody wants of a sandbox what config.json says, and checks the whole. The image may still add to it: the
// defaults that depend on that are the backend's. Kind: InvalidConfig.
func (f File) Complete(spec *sandbox.Spec) error {
	spec.Runtime.LogLevel = cmp.Or(spec.Runtime.LogLevel, f.LogLevel)
	if f.DeploymentProfile == sandbox.MultiTenant { // the least that all get
		spec.DeploymentProfile = sandbox.MultiTenant
	}
	f.Defaults.Apply(spec)
	return spec.WithDefaults().Validate()
}

// ImageOf reads what names an image: a path of this machine when it begins as one, else a reference (contract msb-0.6 §1.2). Kinds:
// Unsupported for a disk image, IO.
func ImageOf(arg string) (sandbox.Image, error) {
	if !sandbox.IsHostPath(arg) {
		return sandbox.Image{OCI: &sandbox.OCIImage{Reference: arg}}, nil
	}
	return DirectoryOf(arg)
}

// DirectoryOf is ImageOf for what is a path in any case.
func DirectoryOf(path string) (sandbox.Image, error) {
	switch ext := filepath.Ext(path); ext {
	case ".qcow2", ".raw", ".vmdk":
		return sandbox.Image{}, &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "a disk image (" + ext + ") as the root is not supported: it needs a virtual machine",
			Hint: "use a directory, a tar or an image from a registry"}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return sandbox.Image{}, &sandbox.Error{Op: "create", Kind: sandbox.IO, Message: "find " + path, Err: err}
	}
	return sandbox.Image{Bind: &sandbox.BindImage{Path: abs}}, nil
}
