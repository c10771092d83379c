package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

func (a *app) fsckCommand() *cobra.Command {
	var (
		dryRun bool
		format string
	)
	c := a.command(&cobra.Command{Use: "fsck", Short: "Look through what msb keeps, and mend it",
		Long: `Every command mends by the way what a crash left; this one says so, and looks more closely. Nothing is removed that
anybody made: what only you can decide is left as it is. Exits with 1 if something is left to mend.`,
		Example: "msb fsck --dry-run\nmsb fsck --format json"})
	f := flagsOf(c, false)
	f.toggle("", "dry-run", "Look only", &dryRun)
	f.format(&format)
	c.RunE = func(c *cobra.Command, _ []string) error {
		found, err := a.check(c.Context(), !dryRun)
		if err != nil {
			return err
		}
		if format == "json" {
			err = printJSON(a.out, each(found, findingJSON))
		} else {
			err = a.printFindings(found)
		}
		if err != nil {
			return err
		}
		for _, f := range found {
			if !f.Fixed {
				return exitCode(exitError)
			}
		}
		return nil
	}
	return c
}

func (a *app) check(ctx context.Context, fix bool) ([]backend.Finding, error) {
	b, err := a.backend(UseCheck)
	if err != nil {
		return nil, err
	}
	checker, ok := b.(backend.Checker)
	if !ok {
		return nil, unsupported("msb fsck of this backend", "use a local backend")
	}
	a.spinFor(false, "Looking through what is kept")
	defer a.settle()
	return checker.Check(ctx, fix)
}

func findingJSON(f backend.Finding) any {
	return map[string]any{"area": f.Area, "subject": f.Subject, "problem": f.Problem, "action": f.Action, "fixed": f.Fixed, "needs_decision": f.Loss}
}

func (a *app) printFindings(found []backend.Finding) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(a.out, "All is well.")
		return err
	}
	st := styleOf(a.out)
	var b strings.Builder
	for _, f := range found {
		mark := st.yellow("todo ")
		switch {
		case f.Fixed:
			mark = st.green("fixed")
		case f.Loss:
			mark = st.red("yours")
		}
		fmt.Fprintf(&b, "%s  %s: %s\n       → %s\n", mark, oneLine(f.Subject), oneLine(f.Problem), oneLine(f.Action))
	}
	_, err := a.out.WriteString(b.String())
	return err
}
