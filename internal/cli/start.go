package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) startCommand() *cobra.Command {
	var (
		quiet  bool
		labels map[string]string
	)
	c := a.command(&cobra.Command{Use: "start", Short: "Start sandboxes that were stopped",
		Long: `They have the files that they had, and what else they were made with. One that runs already is left as it is.`,
		Example: `msb start work
msb start --label team=ml`},
		positional{"[NAMES...]", "Sandboxes to start; needed unless --label is given"})
	f := flagsOf(c, false)
	f.labels(&labels, "Those with this label, too")
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, UseManage, args, labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			return a.start(ctx, b, ref, quiet, "Started")
		})
	}
	return c
}

func (a *app) start(ctx context.Context, b backend.Backend, ref sandbox.Ref, quiet bool, done string) error {
	a.spinFor(quiet, "Starting "+string(ref.Name))
	if _, err := b.Start(ctx, ref, backend.StartOptions{}); err != nil {
		return err
	}
	a.did(quiet, done, string(ref.Name))
	return nil
}

func (a *app) restartCommand() *cobra.Command {
	var s stopFlags
	c := a.command(&cobra.Command{Use: "restart", Short: "Stop sandboxes and start them again",
		Example: `msb restart work
msb restart -f --label team=ml`},
		positional{"[NAMES...]", "Sandboxes to restart; needed unless --label is given"})
	s.declare(flagsOf(c, false))
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, UseManage, args, s.labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			info, err := b.Get(ctx, ref)
			if err != nil {
				return err
			}
			a.spinFor(s.quiet, "Stopping "+string(ref.Name))
			return guest.Restart(ctx, b, info, s.options(), func() error { return a.start(ctx, b, ref, s.quiet, "Restarted") })
		})
	}
	return c
}
