package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// help prints a command's help to stdout.
func (a *app) help(c *cobra.Command) {
	st := styleOf(a.out)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s %s\n", c.Short, st.bold("Usage:"), usageLine(c))
	if c.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Long)
	}
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, "\n%s %s\n", st.bold("Aliases:"), strings.Join(c.Aliases, ", "))
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\n%s\n", st.bold("Examples:"))
		for line := range strings.Lines(c.Example) {
			b.WriteString("  " + line)
		}
		b.WriteByte('\n')
	}
	var sections []section
	if c.HasSubCommands() {
		sections = commandSections(c)
	}
	if args := positionals(c); len(args) > 0 {
		s := section{heading: "Arguments"}
		for _, p := range args {
			s.rows = append(s.rows, [2]string{p.name, p.help})
		}
		sections = append(sections, s)
	}
	sections = append(sections, flagSections(c)...)
	for _, s := range sections {
		s.write(&b, st)
	}
	writeLater(&b, st, c)
	if c.HasAvailableSubCommands() {
		b.WriteString("\nMore about a command: " + c.CommandPath() + " COMMAND --help\n")
	}
	_, _ = a.out.WriteString(b.String())
}

func usageLine(c *cobra.Command) string {
	if c.HasAvailableSubCommands() && len(positionals(c)) == 0 {
		return c.CommandPath() + " COMMAND [FLAGS]"
	}
	line := c.CommandPath() + " [FLAGS]"
	for _, p := range positionals(c) {
		line += " " + p.name
	}
	return line
}

// section is a heading of the help with its rows.
type section struct {
	heading string
	rows    [][2]string
}

const helpColumn = 30

func (s section) write(b *strings.Builder, st style) {
	if len(s.rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", st.bold(s.heading+":"))
	for _, r := range s.rows {
		gap := helpColumn - 2 - len(r[0])
		if gap < 2 {
			fmt.Fprintf(b, "  %s\n%*s%s\n", r[0], helpColumn, "", r[1])
			continue
		}
		fmt.Fprintf(b, "  %s%*s%s\n", r[0], gap, "", r[1])
	}
}

func commandSections(c *cobra.Command) []section {
	if c.HasParent() {
		s := section{heading: "Commands"}
		for _, sub := range c.Commands() {
			if !sub.Hidden {
				s.rows = append(s.rows, [2]string{withAliases(sub, ", "), sub.Short})
			}
		}
		return []section{s}
	}
	sections := make([]section, len(groups))
	for i, g := range groups {
		sections[i].heading = g
		for _, sub := range c.Commands() {
			if sub.Annotations["group"] == g && !sub.Hidden {
				sections[i].rows = append(sections[i].rows, [2]string{withAliases(sub, ", "), sub.Short})
			}
		}
	}
	return sections
}

func withAliases(c *cobra.Command, sep string) string {
	return strings.Join(append([]string{c.Name()}, c.Aliases...), sep)
}

// flagSections are the flags by heading, those of every command last.
func flagSections(c *cobra.Command) []section {
	var sections []section
	add := func(heading string, f *pflag.Flag) {
		for i := range sections {
			if sections[i].heading == heading {
				sections[i].rows = append(sections[i].rows, [2]string{flagTitle(f, true), f.Usage})
				return
			}
		}
		sections = append(sections, section{heading, [][2]string{{flagTitle(f, true), f.Usage}}})
	}
	eachFlag(c, func(f *pflag.Flag, global bool) {
		switch {
		case isLater(f):
		case global:
			add("Global flags", f)
		default:
			heading := "Flags"
			if g := f.Annotations["group"]; len(g) > 0 && g[0] != "" {
				heading = g[0]
			}
			add(heading, f)
		}
	})
	last := section{heading: "Global flags"}
	kept := sections[:0]
	for _, s := range sections {
		if s.heading == last.heading {
			last.rows = s.rows
			continue
		}
		kept = append(kept, s)
	}
	last.rows = append(last.rows, [2]string{"    --tree", "Print this command and all below it with their flags"}, [2]string{"-h, --help", "Print help"})
	if !c.HasParent() {
		last.rows = append(last.rows, [2]string{"-V, --version", "Print the version"})
	}
	return append(kept, last)
}

func isLater(f *pflag.Flag) bool {
	_, later := f.Annotations["later"]
	return later
}

// writeLater names the flags that the contract has and this release has not.
func writeLater(b *strings.Builder, st style, c *cobra.Command) {
	const width = 100
	column := width
	eachFlag(c, func(f *pflag.Flag, _ bool) {
		if !isLater(f) {
			return
		}
		if column == width {
			fmt.Fprintf(b, "\n%s", st.bold("Not supported yet:"))
		}
		if column+len(f.Name)+3 > width {
			b.WriteString("\n ")
			column = 1
		}
		b.WriteString(" --" + f.Name)
		column += len(f.Name) + 3
	})
	if column < width {
		b.WriteByte('\n')
	}
}

// eachFlag calls do for each flag that is shown, the command's own first.
func eachFlag(c *cobra.Command, do func(f *pflag.Flag, global bool)) {
	all := c.Root().PersistentFlags()
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" && all.Lookup(f.Name) != f {
			do(f, false)
		}
	})
	all.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			do(f, true)
		}
	})
}

// flagTitle is a flag as help and tree show it; aligned leaves room for a missing letter.
func flagTitle(f *pflag.Flag, aligned bool) string {
	title := "--" + f.Name
	if f.Shorthand != "" {
		title = "-" + f.Shorthand + ", " + title
	} else if aligned {
		title = "    " + title
	}
	if v := flagValue(f); v != "" {
		title += " <" + v + ">"
	}
	return title
}

// flagValue is what a flag's value is called, "" for one that has none.
func flagValue(f *pflag.Flag) string {
	if v := f.Annotations["value"]; len(v) > 0 {
		return v[0]
	}
	return ""
}
