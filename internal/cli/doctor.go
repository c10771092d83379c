package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var (
		format   string
		fix, yes bool
	)
	c := a.command(&cobra.Command{Use: "doctor", Short: "Check whether sandboxes can run here, and how they are held",
		Long:    "Exits with 0 if a sandbox can run, and with 1 if not.",
		Example: "msb doctor\nmsb doctor --format json"})
	f := flagsOf(c, false)
	f.format(&format)
	f.toggle("", "fix", "Mend what a crash may have left, as msb fsck does; settings of the machine are never changed", &fix)
	f.toggle("y", "yes", "Do not ask; nothing is ever asked", &yes)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if fix && format != "json" {
			found, err := a.check(c.Context(), true)
			if err != nil {
				return err
			}
			if err := a.printFindings(found); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
		} else if fix {
			if _, err := a.check(c.Context(), true); err != nil {
				return err
			}
		}
		a.spinFor(false, "Looking around")
		report := doctor.Examine(c.Context(), machine())
		a.settle()
		if err := a.printReport(report, format); err != nil {
			return err
		}
		if !report.Ready() {
			return exitCode(exitError)
		}
		return nil
	}
	return c
}

// machine is what doctor is to look at.
func machine() doctor.Machine {
	var m doctor.Machine
	m.Home, m.HomeErr = config.Home()
	if s, err := config.Read(); err == nil { // a file that is wrong is told of by the commands that go by it
		m.Home = s.Home
	}
	for _, name := range []string{config.Runner, config.Agent} {
		if _, err := config.FindBinary(name, m.Home); err != nil {
			m.Missing = append(m.Missing, err)
		}
	}
	return m
}

func (a *app) printReport(r doctor.Report, format string) error {
	if format == "json" {
		return printJSON(a.out, map[string]any{"ready": r.Ready(), "checks": r.Checks})
	}
	st := styleOf(a.out)
	marks := map[doctor.Status]string{doctor.OK: st.green("ok  "), doctor.Warn: st.yellow("warn"), doctor.Fail: st.red("fail")}
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s  %-15s %s\n", marks[c.Status], c.Name, oneLine(c.Detail))
		if c.Remedy != "" {
			fmt.Fprintf(&b, "      %-15s %s %s\n", "", st.dim("→"), oneLine(c.Remedy))
		}
	}
	b.WriteString("\n" + map[bool]string{true: "Sandboxes can run here.", false: "Sandboxes cannot run here."}[r.Ready()] + "\n")
	_, err := a.out.WriteString(b.String())
	return err
}
