package local

import "github.com/microsandbox-go/microsandbox/sandbox"

// unsupported refuses what a spec asks for and nobody here does yet. Each line goes when its part comes.
func unsupported(spec sandbox.Spec) error {
	if spec.Lifecycle.Ephemeral && spec.Image.Disk().Kind == sandbox.RootDiskManaged {
		return &sandbox.Error{Op: "create", Kind: sandbox.Unsupported, Message: "a managed root disk of an ephemeral sandbox is not supported: nobody could ask for it again",
			Hint: "give the sandbox a name, or use --root-disk tmpfs:SIZE"}
	}
	return nil
}
