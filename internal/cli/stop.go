package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// stopFlags are the flags of what stops sandboxes.
type stopFlags struct {
	force, quiet bool
	seconds      int
	labels       map[string]string
}

func (s *stopFlags) declare(f *flags) {
	s.seconds = 10
	f.labels(&s.labels, "Those with this label, too")
	f.toggle("f", "force", "Kill at once; what was not synced may be lost", &s.force)
	f.value("t", "timeout", "SECONDS", "How long they may take before they are killed (default 10)", setInt(&s.seconds, 0, 1<<20))
	f.quiet(&s.quiet)
}

func (s *stopFlags) options() backend.StopOptions {
	return guest.StopWithin(time.Duration(s.seconds)*time.Second, s.force)
}

func (a *app) stopCommand() *cobra.Command {
	var s stopFlags
	c := a.command(&cobra.Command{Use: "stop", Short: "Stop sandboxes",
		Example: "msb stop work\nmsb stop --label team=ml -t 30"},
		positional{"[NAMES...]", "Sandboxes to stop; needed unless --label is given"})
	s.declare(flagsOf(c, false))
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.forEach(c, UseManage, args, s.labels, func(ctx context.Context, b backend.Backend, ref sandbox.Ref) error {
			a.spinFor(s.quiet, "Stopping "+string(ref.Name))
			if err := b.Stop(ctx, ref, s.options()); err != nil {
				return err
			}
			a.did(s.quiet, "Stopped", string(ref.Name))
			return nil
		})
	}
	return c
}

// forEach does something to each sandbox that is named or has all the labels. It goes on after a failure and then exits 1.
func (a *app) forEach(c *cobra.Command, use Use, names []string, labels map[string]string, do func(context.Context, backend.Backend, sandbox.Ref) error) error {
	if len(names) == 0 && len(labels) == 0 {
		return usageErrorf(c.CommandPath()+" --help", "%s needs NAMES or --label", c.CommandPath())
	}
	b, err := a.backend(use)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	if len(labels) > 0 {
		infos, err := b.List(c.Context(), a.namespace)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if i.Spec.HasLabels(labels) {
				names = append(names, string(i.Ref.Name))
			}
		}
	}
	failed := false
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		ref, err := a.refOf(name)
		if err == nil {
			err = do(c.Context(), b, ref)
		}
		if err != nil {
			failed = true
			a.settle()
			a.fail(err)
		}
	}
	if failed {
		return exitCode(exitError)
	}
	return nil
}
