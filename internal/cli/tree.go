package cli

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// treeNode is a line of msb --tree with those below it.
type treeNode struct {
	title, help string
	below       []treeNode
}

// printTree prints c with its arguments, flags and commands, in the form of contract/msb-0.6.18-tree.txt.
func (a *app) printTree(c *cobra.Command) {
	root := treeOf(c)
	root.title = c.CommandPath()
	width := root.width(0)
	var b strings.Builder
	b.WriteString(root.title + "\n")
	writeBelow(&b, root.below, "", width+2)
	_, _ = a.out.WriteString(b.String())
}

func treeOf(c *cobra.Command) treeNode {
	n := treeNode{title: c.Name(), help: c.Short}
	if len(c.Aliases) > 0 {
		n.title += " (aliases: " + strings.Join(c.Aliases, ", ") + ")"
	}
	for _, p := range positionals(c) {
		n.below = append(n.below, treeNode{title: strings.NewReplacer("...]", "]", "...>", ">").Replace(p.name), help: p.help})
		if p.command() {
			n.below[len(n.below)-1].title = p.name
		}
	}
	eachFlag(c, func(f *pflag.Flag, global bool) {
		if !global || !c.HasParent() {
			n.below = append(n.below, treeNode{title: flagTitle(f, false), help: f.Usage})
		}
	})
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			n.below = append(n.below, treeOf(sub))
		}
	}
	return n
}

// width is the longest of the lines below n without their help.
func (n treeNode) width(indent int) int {
	w := 0
	for _, sub := range n.below {
		w = max(w, indent+4+utf8.RuneCountInString(sub.title), sub.width(indent+4))
	}
	return w
}

func writeBelow(b *strings.Builder, nodes []treeNode, indent string, column int) {
	for i, n := range nodes {
		branch, deeper := "├── ", "│   "
		if i == len(nodes)-1 {
			branch, deeper = "└── ", "    "
		}
		line := indent + branch + n.title
		b.WriteString(line + strings.Repeat(" ", column-utf8.RuneCountInString(line)) + n.help + "\n")
		writeBelow(b, n.below, indent+deeper, column)
	}
}
