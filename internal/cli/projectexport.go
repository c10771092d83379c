package cli

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/atomicfile"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// exportCommand is msb export: the sandboxes that are there as a Sandboxfile (ADR 24).
func (a *app) exportCommand() *cobra.Command {
	var (
		path         string
		force, quiet bool
	)
	c := a.command(&cobra.Command{Use: "export", Short: "Write a Sandboxfile of the sandboxes that are there",
		Long: `The file has the namespace's kept sandboxes, whoever made them, and msb apply makes them again: here when they are gone, on another
machine, or with -N in another namespace. It has neither files nor the values of secrets; variables are in it as they are.`,
		Example: "msb export -o Sandboxfile\nmsb export -N shop web db | less\nmsb -N copy apply -f Sandboxfile"},
		positional{"[NAMES...]", "Sandboxes to write; without any, all that are kept"})
	f := flagsOf(c, false)
	f.value("o", "output", "FILE", "File to write (default stdout)", setString(&path))
	f.toggle("f", "force", "Replace the file if it is there", &force)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, names []string) error {
		if _, err := os.Lstat(path); path != "" && !force && !errors.Is(err, fs.ErrNotExist) {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: path + " is there already", Hint: "replace it with --force"}
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		defaults, err := a.projectDefaults()
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		out, err := project.Export(s.ctx, b, a.namespace, project.ExportOptions{Names: names, Files: true, Defaults: defaults})
		if err != nil {
			return s.explain(err)
		}
		if path == "" {
			_, err = a.out.Write(out.Text)
		} else if err = atomicfile.WriteSync(path, out.Text, 0o600); err != nil { // variables often are secrets
			err = &sandbox.Error{Kind: sandbox.IO, Message: "write " + path, Err: err}
		}
		if err != nil {
			return err
		}
		for _, w := range out.Warnings {
			a.warn(w)
		}
		if path != "" {
			a.did(quiet, "Exported", path)
		}
		return nil
	}
	return c
}
