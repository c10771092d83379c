package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// removeCommand ends sandboxes. All of them are ephemeral for now: one that has ended is gone, so that removing is stopping.
func (a *app) removeCommand() *cobra.Command {
	var (
		force, quiet bool
		labels       map[string]string
	)
	c := a.command(&cobra.Command{Use: "remove", Aliases: []string{"rm"}, Short: "Remove sandboxes",
		Example: "msb rm -f work\nmsb rm -f --label team=ml"},
		positional{"[NAMES...]", "Sandboxes to remove; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.toggle("f", "force", "Stop those that run", &force)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, args, labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			info, err := b.Get(ctx, ref)
			if err != nil {
				return err
			}
			if !info.Status.Terminal() {
				if !force {
					return &sandbox.Error{Op: "remove", Ref: ref, Kind: sandbox.StillRunning, Hint: "stop it first, or remove it with: msb rm -f " + string(ref.Name)}
				}
				a.spinFor(quiet, "Removing "+string(ref.Name))
				if err := b.Stop(ctx, ref, backend.StopOptions{Force: true}); err != nil && sandbox.KindOf(err) != sandbox.NotRunning {
					return err
				}
			}
			a.did(quiet, "Removed", string(ref.Name))
			return nil
		})
	}
	return c
}
