package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) modifyCommand() *cobra.Command {
	var (
		req                backend.ModifyRequest
		nextStart, restart bool
		quiet              bool
		format             string
		policy             sandbox.NetworkFlags
		strict             bool
	)
	c := a.command(&cobra.Command{Use: "modify", Aliases: []string{"mod"}, Short: "Change a sandbox",
		Long: `Labels, variables and the working directory count for commands from now on; CPUs and memory change at once up to
--max-cpus and --max-memory, which like the root disk need a restart. The network policy is replaced as a whole and at once: what
it denies is cut off, also connections that are open. Secrets change at once where TLS is looked into already. Nothing is changed
if one of the changes needs a restart, unless --restart or --next-start says what to do.`,
		Example: `msb modify work --env DEBUG=1 --label team=ml
msb modify work --memory 2G --restart
msb modify work --root-disk 20G --next-start
msb modify work --net public --net-rule deny@example.com
msb modify work --cpus 2 --dry-run --format json`},
		positional{"<NAME>", "Sandbox to change"})
	f := flagsOf(c, false)
	m := &req.Modification
	number := func(into **int, parse func(string) (int, error)) func(string) error {
		return func(v string) error {
			n, err := parse(v)
			*into = &n
			return err
		}
	}
	count := func(v string) (int, error) {
		n := 0
		err := setInt(&n, 1, sandbox.MaxCPUs)(v)
		return n, err
	}
	f.value("", "cpus", "N", "CPUs that it may use", number(&m.CPUs, count))
	f.value("", "max-cpus", "N", "CPUs that it can be given while it runs", number(&m.MaxCPUs, count))
	f.value("", "memory", "SIZE", "Memory that it may use, e.g. 512M or 2G", number(&m.MemoryMiB, sandbox.ParseSize))
	f.value("", "max-memory", "SIZE", "Memory that it can be given while it runs", number(&m.MaxMemoryMiB, sandbox.ParseSize))
	f.value("", "root-disk", "SIZE", "Size of its root disk; one that is kept can only grow", number(&m.RootDiskMiB, sandbox.ParseSize))
	f.value("", "env", "KEY=VALUE", "Set a variable; repeatable", setAppend(&m.Env, sandbox.ParseEnv))
	f.value("", "env-rm", "KEY", "Remove a variable; repeatable", setAppend(&m.EnvRemove, asIs))
	f.labels(&m.Labels, "Set a label")
	f.value("", "label-rm", "KEY", "Remove a label; repeatable", setAppend(&m.LabelsRemove, asIs))
	f.value("", "workdir", "PATH", "Working directory of commands", func(v string) error { m.Workdir = &v; return nil })
	f.value("", "secret", "NAME@HOST[,HOST...]", "Add a secret of this environment, or give it another value or other hosts; repeatable", setAppend(&m.Secrets, sandbox.ParseSecret))
	f.value("", "secret-rm", "NAME", "Remove a secret; repeatable", setAppend(&m.SecretsRemove, asIs))
	declarePolicy(f, &policy, &strict)
	f.toggle("", "dry-run", "Show what would change", &req.DryRun)
	f.toggle("", "next-start", "Change it for the next start only", &nextStart)
	f.toggle("", "restart", "Restart it if a change needs that", &restart)
	f.format(&format)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		switch {
		case nextStart && restart:
			return usageErrorf("leave one of them out", "--next-start and --restart exclude each other")
		case nextStart:
			req.Policy = sandbox.ModifyNextStart
		case restart:
			req.Policy = sandbox.ModifyRestart
		}
		var err error
		if m.NetworkPolicy, err = policy.Policy(); err != nil {
			return err
		}
		if c.Flags().Changed("net-strict") {
			m.NetworkStrict = &strict
		}
		ref, err := a.refOf(args[0])
		if err != nil {
			return err
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		mod, ok := b.(backend.Modifier)
		if !ok {
			return unsupported("msb modify of this backend", "use a local backend")
		}
		if restart && !req.DryRun {
			a.spinFor(quiet, "Modifying "+args[0])
		}
		plan, err := mod.Modify(c.Context(), ref, req)
		a.settle()
		if err != nil {
			return err
		}
		if format == "json" {
			err = printOrdered(a.out, plan)
		} else {
			err = a.printPlan(plan, quiet)
		}
		if err == nil && len(plan.Conflicts) > 0 && !req.DryRun {
			if format != "json" {
				return &sandbox.Error{Op: "modify", Ref: ref, Kind: sandbox.InvalidArgument, Message: "nothing was changed", Hint: "to restart it add --restart, to wait for the next start --next-start"}
			}
			return exitCode(exitError)
		}
		return err
	}
	return c
}

func asIs(v string) (string, error) { return v, nil }

// differing shortens two lists. If one is too long they begin with the first word that is another's.
func differing(a, b string, most int) (string, string) {
	if max(len(a), len(b)) > most {
		same := 0
		for i := 0; i < min(len(a), len(b)) && a[i] == b[i]; i++ {
			if strings.HasSuffix(a[:i+1], ", ") {
				same = i + 1
			}
		}
		if same > 0 {
			a, b = "…"+a[same:], "…"+b[same:]
		}
	}
	return shorten(a, most), shorten(b, most)
}

// printPlan shows what changes; what was asked for and is so already does not show.
func (a *app) printPlan(p sandbox.Plan, quiet bool) error {
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return oneLine(cmp.Or(*s, `""`))
	}
	if len(p.Changes) == 0 {
		fmt.Fprintln(a.err, "Nothing to change.")
		return nil
	}
	if !quiet {
		if err := printTable(a.out, []string{"FIELD", "BEFORE", "AFTER", "EFFECT"}, each(p.Changes, func(c sandbox.Change) []string {
			before, after := c.Before, c.After
			if c.Kind == "secret" {
				before, after = c.BeforeRef, c.AfterRef
			}
			was, is := text(before), text(after)
			if len(c.AllowHosts) > 0 {
				is += "@" + oneLine(strings.Join(c.AllowHosts, ",")) // as --secret has it
			}
			was, is = differing(was, is, 40)
			return []string{c.Field, was, is, string(c.Disposition)}
		})); err != nil {
			return err
		}
	}
	for _, n := range p.Warnings {
		a.warn(n.Field + ": " + n.Message)
	}
	for _, n := range p.Conflicts {
		a.warn(n.Field + ": " + n.Message)
	}
	if p.Applied {
		a.did(quiet, "Modified", strings.TrimSpace(string(p.Sandbox)))
	}
	return nil
}
