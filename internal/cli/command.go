package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// positional is one argument that is not a flag, spelled as in the contract's tree: [OPTIONAL], <NEEDED>, [MANY...] and
// [-- COMMAND...] for what follows "--".
type positional struct{ name, help string }

func (p positional) needed() bool  { return p.name[0] == '<' }
func (p positional) many() bool    { return strings.Contains(p.name, "...") }
func (p positional) command() bool { return strings.HasPrefix(p.name, "[-- ") }

// command completes c: its usage line, its arguments and what every command does before it runs.
func (a *app) command(c *cobra.Command, args ...positional) *cobra.Command {
	c.Annotations = map[string]string{}
	c.Flags().SortFlags = false
	c.DisableFlagsInUseLine = true
	for _, p := range args {
		c.Annotations["args"] += p.name + "\t" + p.help + "\n"
	}
	c.Args = func(c *cobra.Command, given []string) error {
		if a.tree {
			a.printTree(c)
			return errDone
		}
		before, _ := split(c, given)
		return checkArgs(c, args, before, c.ArgsLenAtDash() >= 0)
	}
	return c
}

// positionals returns the arguments that command was given.
func positionals(c *cobra.Command) []positional {
	var all []positional
	for line := range strings.Lines(c.Annotations["args"]) {
		name, help, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		all = append(all, positional{name, help})
	}
	return all
}

// split returns what came before "--" and what came after it.
func split(c *cobra.Command, args []string) (before, after []string) {
	if at := c.ArgsLenAtDash(); at >= 0 {
		return args[:at], args[at:]
	}
	return args, nil
}

func checkArgs(c *cobra.Command, want []positional, have []string, dash bool) error {
	most, takesCommand := 0, false
	for i, p := range want {
		switch {
		case p.command():
			takesCommand = true
			continue
		case p.many():
			most = len(have)
		default:
			most++
		}
		if p.needed() && len(have) <= i {
			return usageErrorf(c.CommandPath()+" --help", "%s needs %s", c.CommandPath(), p.name)
		}
	}
	if dash && !takesCommand {
		return usageErrorf(c.CommandPath()+" --help", "%s takes no command after --", c.CommandPath())
	}
	if len(have) > most {
		extra := have[most]
		if takesCommand {
			return dashMissing(c, have[:most], have[most:], extra)
		}
		return usageErrorf(c.CommandPath()+" --help", "%s does not take the argument %q", c.CommandPath(), extra)
	}
	return nil
}

// dashMissing is the error of a command line like "msb run host ls".
func dashMissing(c *cobra.Command, names, command []string, extra string) error {
	line := strings.Join(append(append([]string{c.CommandPath()}, names...), append([]string{"--"}, command...)...), " ")
	return usageErrorf("put the command after --: "+clip(line), "unexpected argument %q", clip(extra))
}

func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
