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
	)
	c := a.command(&cobra.Command{Use: "remove", Aliases: []string{"rm"}, Short: "Remove sandboxes and their files",
		Example: "msb rm -f work\nmsb rm -f --label team=ml"},
		positional{"[NAMES...]", "Sandboxes to remove; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.toggle("f", "force", "Stop those that run", &force)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
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
