package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
)

// planned are the flags of what brings a project up.
type planned struct {
	projectFlags
	dryRun, detach bool
	format         string
}

func (a *app) upCommand() *cobra.Command {
	var p planned
	c := a.command(&cobra.Command{Use: "up", Short: "Start a project's sandboxes",
		Long: `Those that do not run are started as the Sandboxfile says now, what they depend on first; those that run stay as they are (msb apply
restarts what has changed). Without -d their output is shown until ctrl-C, which stops them again.`,
		Example: "msb up -d\nmsb up -d web\nmsb up --dry-run"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	f.toggle("d", "detach", "Leave them running in the background", &p.detach)
	f.toggle("", "dry-run", "Print what would be done, and do nothing", &p.dryRun)
	f.format(&p.format)
	p.declare(f)
	c.ValidArgsFunction = a.completeEntries(&p.projectFlags)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		return a.bring(c, &p, project.Options{Names: names})
	}
	return c
}

func (a *app) applyCommand() *cobra.Command {
	p := planned{detach: true}
	c := a.command(&cobra.Command{Use: "apply", Short: "Make a project's sandboxes what its Sandboxfile says",
		Long: `It starts those that do not run, restarts those that have changed and only those, and stops those that the file has no more.
They run in the background.`,
		Example: "msb apply\nmsb apply --dry-run\nmsb apply --dry-run --format json"})
	f := flagsOf(c, false)
	f.toggle("d", "detach", "Leave them running in the background, which happens anyway", &p.detach)
	f.toggle("", "dry-run", "Print what would be done, and do nothing", &p.dryRun)
	f.format(&p.format)
	p.declare(f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		p.detach = true
		return a.bring(c, &p, project.Options{Converge: true})
	}
	return c
}

func (a *app) bring(c *cobra.Command, flags *planned, opt project.Options) error {
	if flags.format != "" && !flags.dryRun {
		return usageErrorf("", "--format needs --dry-run")
	}
	o, err := a.open(c.Context(), flags.file, UseCreate)
	if err != nil {
		return err
	}
	defer o.close()
	if flags.dryRun {
		plan, err := o.Plan(o.s.ctx, o.b, opt)
		if err != nil {
			return o.s.explain(err)
		}
		return o.printSteps(plan, flags.format)
	}
	err = o.change(flags.quiet, func(tell func(project.Event)) error {
		plan, err := o.Plan(o.s.ctx, o.b, opt)
		if err == nil {
			for _, step := range plan.Steps {
				if step.Action == project.Keep && step.Why != "" {
					a.warn(step.Name + ": " + step.Why)
				}
			}
			if plan.Nothing() && !flags.quiet {
				a.above(func() { fmt.Fprintln(a.err, o.nothing()) })
			}
			err = o.Run(o.s.ctx, o.b, plan, tell)
		}
		return err
	})
	if err != nil || flags.detach {
		return err
	}
	names, err := o.Select(opt.Names)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	err = o.logs(names, &logsFlags{follow: true, color: "auto"})
	if o.s.ctx.Err() == nil {
		return err
	}
	// ctrl-C: they are stopped, with a second one at once.
	o.close()
	o.s = a.catchSignals(context.Background())
	return o.down(opt.Names, backend.StopOptions{}, flags.quiet)
}

// nothing says why there is nothing to do.
func (o *opened) nothing() string {
	if len(o.File.Sandboxes) == 0 {
		return "Nothing to do: " + o.Path + " has no sandboxes (add one with: msb add NAME --image IMAGE)."
	}
	return "Nothing to do."
}

func (o *opened) printSteps(plan project.Plan, format string) error {
	if format == "json" {
		return printJSON(o.app.out, each(plan.Steps, func(s project.Step) any {
			return map[string]any{"action": s.Action, "name": s.Name, "why": s.Why, "after": append([]string{}, s.After...)}
		}))
	}
	if plan.Nothing() {
		fmt.Fprintln(o.app.err, o.nothing())
	}
	if len(plan.Steps) == 0 {
		return nil
	}
	return printTable(o.app.out, []string{"NAME", "ACTION", "WHY"}, each(plan.Steps, func(s project.Step) []string { return []string{s.Name, string(s.Action), s.Why} }))
}

func (a *app) downCommand() *cobra.Command {
	var (
		p    projectFlags
		stop stopFlags
	)
	c := a.command(&cobra.Command{Use: "down", Short: "Stop a project's sandboxes",
		Long:    "What depends on a sandbox is stopped before it. Their files stay.",
		Example: "msb down\nmsb down web"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	stop.seconds = 10
	f.toggle("", "force", "Kill at once; what was not synced may be lost", &stop.force)
	f.value("t", "timeout", "SECONDS", "How long they may take before they are killed (default 10)", setInt(&stop.seconds, 0, 1<<20))
	p.declare(f)
	c.ValidArgsFunction = a.completeEntries(&p)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		o, err := a.open(c.Context(), p.file, UseManage)
		if err != nil {
			return err
		}
		defer o.close()
		return o.down(names, stop.options(), p.quiet)
	}
	return c
}

func (o *opened) down(names []string, opt backend.StopOptions, quiet bool) error {
	return o.change(quiet, func(tell func(project.Event)) error { return o.Down(o.s.ctx, o.b, names, opt, tell) })
}
