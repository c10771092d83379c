package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) createCommand() *cobra.Command {
	var s sandboxFlags
	c := a.command(&cobra.Command{Use: "create", Short: "Make a sandbox and leave it running",
		Long: `The sandbox stays until it is removed: what is written to its disk is there after a stop and a start, and after a
crash. Its name is printed when none was given.`,
		Example: `msb create --name work python:3.12
msb exec work -- pip install requests
msb create --name db -m 1G --root-disk 20G --label team=ml ./rootfs`},
		positional{"[IMAGE]", "Image to start from: host, a reference, or the path of a directory or a tar"})
	f := flagsOf(c, false)
	s.declare(f)
	c.ValidArgsFunction = a.completeRoots
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		switch {
		case len(args) == 0 && !s.conf.whole():
			return usageErrorf("for example: msb create --name work host", "msb create needs an image")
		case s.replace && s.name == "":
			return usageErrorf("name the sandbox to replace: --name NAME", "--replace needs --name")
		}
		req := backend.CreateRequest{Replace: s.replace, Grace: s.grace()}
		var err error
		if req.Ref, req.Generated, err = a.newRef(s.name); err != nil {
			return err
		}
		if req.Spec, err = a.spec(&s, req.Ref.Name, first(args)); err != nil {
			return err
		}
		req.Registry = s.registry
		b, err := a.backend(UseCreate)
		if err != nil {
			return err
		}
		sig := a.catchSignals(c.Context())
		defer sig.stop()
		if _, err := a.create(sig.ctx, b, req, s.quiet); err != nil {
			return sig.explain(err)
		}
		a.did(s.quiet, "Created", string(req.Ref.Name))
		if req.Generated {
			_, err = fmt.Fprintln(a.out, req.Ref.Name)
		}
		return err
	}
	return c
}

// first is the first of the arguments, "" if there is none.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// newRef is the sandbox of that name, or of a new one.
func (a *app) newRef(name string) (_ sandbox.Ref, generated bool, err error) {
	if name == "" {
		name, generated = string(sandbox.GenerateName()), true
	}
	ref, err := a.refOf(name)
	return ref, generated, err
}

// completeRoots completes what a sandbox can start from.
func (a *app) completeRoots(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, directive := a.completeImages(c, args, typed)
	return append(names, sandbox.HostImage), directive &^ cobra.ShellCompDirectiveNoFileComp // or a path
}
