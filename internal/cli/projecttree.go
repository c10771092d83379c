package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// treeCommand is msb tree: what depends on what.
func (a *app) treeCommand() *cobra.Command {
	var p projectFlags
	level := 32
	c := a.command(&cobra.Command{Use: "tree", Short: "Show what a project's sandboxes depend on",
		Long: "msb --tree is another thing: it prints all commands and flags.", Example: "msb tree\nmsb tree -L 1 web"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, those that nothing depends on"})
	f := flagsOf(c, false)
	f.value("L", "level", "N", "How deep", setInt(&level, 1, 32))
	p.declare(f)
	c.ValidArgsFunction = a.completeEntries(&p)
	c.RunE = func(_ *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		roots, err := proj.Select(names)
		if err != nil {
			return err
		}
		if _, err := proj.Order(roots); err != nil { // no circles
			return err
		}
		if len(names) == 0 {
			roots = slices.DeleteFunc(roots, func(name string) bool {
				for _, s := range proj.File.Sandboxes {
					if slices.Contains(s.DependsOn, name) {
						return true
					}
				}
				return false
			})
		}
		var b strings.Builder
		var write func(name, indent string, depth int)
		write = func(name, indent string, depth int) {
			on := proj.File.Sandboxes[name].DependsOn
			for i, other := range on {
				branch, deeper := "├── ", "│   "
				if i == len(on)-1 {
					branch, deeper = "└── ", "    "
				}
				fmt.Fprintf(&b, "%s%s%s (%s)\n", indent, branch, other, oneLine(proj.File.Sandboxes[other].Image))
				if depth < level && b.Len() < 1<<20 {
					write(other, indent+deeper, depth+1)
				}
			}
		}
		for _, name := range roots {
			fmt.Fprintf(&b, "%s (%s)\n", name, oneLine(proj.File.Sandboxes[name].Image))
			write(name, "", 1)
		}
		_, err = a.out.WriteString(b.String())
		return err
	}
	return c
}
