package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) removeCommand() *cobra.Command {
	var (
		force, quiet bool
		labels       map[string]string
		proj         projectFlags
	)
	c := a.command(&cobra.Command{Use: "remove", Aliases: []string{"rm"}, Short: "Remove sandboxes and their files",
		Long:    "With --file the entries of a Sandboxfile are removed from it, and their sandboxes stay (msb clean NAME removes one).",
		Example: "msb rm -f work\nmsb rm -f --label team=ml\nmsb rm --file . web"},
		positional{"[NAMES...]", "Sandboxes to remove; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.toggle("f", "force", "Stop those that run", &force)
	proj.declareFile(f, "")
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		if proj.file != "" {
			if force || len(labels) > 0 || len(args) == 0 {
				return usageErrorf("", "msb remove --file needs NAMES, and takes neither --force nor --label")
			}
			return a.removeEntries(proj.file, args, quiet)
		}
		return a.forEach(c, UseManage, args, labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			a.spinFor(quiet, "Removing "+string(ref.Name))
			if err := b.Remove(ctx, ref, force); err != nil {
				return err
			}
			a.did(quiet, "Removed", string(ref.Name))
			return nil
		})
	}
	return c
}
