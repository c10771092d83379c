package cli

import (
	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// laterCommand is a command of contract msb-0.6 §1.2 that is not there: it is in help and tree with its flags, and says why it
// does nothing.
type laterCommand struct {
	name, alias, help string
	args              []positional
	flags             []laterFlag
	below             []laterCommand
	why, hint         string // of those below, too, unless they have their own
}

type laterFlag struct{ short, name, value, help string }

// laterCommand makes the cobra command. What has commands below it and no arguments of its own needs one of them.
func (a *app) laterCommand(l laterCommand) *cobra.Command {
	c := &cobra.Command{Use: l.name, Short: l.help, Long: "Not supported: " + l.why + "."}
	if l.alias != "" {
		c.Aliases = []string{l.alias}
	}
	if len(l.below) > 0 && len(l.args) == 0 {
		c = a.groupCommand(c)
	} else {
		c = a.command(c, l.args...)
		c.RunE = func(c *cobra.Command, _ []string) error {
			return &sandbox.Error{Kind: sandbox.Unsupported, Message: c.CommandPath() + " is not supported: " + l.why, Hint: l.hint}
		}
	}
	f := flagsOf(c, false)
	for _, g := range l.flags {
		s := &setter{toggle: g.value == "", set: func(string) error { return nil }} // the command is refused, whatever is asked of it
		f.add(g.short, g.name, g.value, g.help, s)
	}
	for _, b := range l.below {
		if b.why == "" {
			b.why, b.hint = l.why, l.hint
		}
		c.AddCommand(a.laterCommand(b))
	}
	return c
}

// later returns a function for the table of commands.
func (a *app) later(l func() laterCommand) func() *cobra.Command {
	return func() *cobra.Command { return a.laterCommand(l()) }
}

// snapshotsCommand is the hidden other name of msb snapshot.
func (a *app) snapshotsCommand() *cobra.Command {
	c := a.laterCommand(snapshotCommands())
	c.Use, c.Aliases, c.Hidden = "snapshots", []string{"snaps"}, true
	return c
}

var (
	quietFlag = laterFlag{"q", "quiet", "", "Print no progress"}
	yesFlag   = laterFlag{"y", "yes", "", "Do not ask"}
)

func snapshotCommands() laterCommand {
	snapshot := []positional{{"<SNAPSHOT>", "Snapshot: a path, a name or a digest"}}
	return laterCommand{name: "snapshot", alias: "snap", help: "Keep the state of a sandbox and start others from it",
		why: "snapshots come with a later release", hint: "to keep files, copy them out: msb cp NAME:/PATH .",
		below: []laterCommand{
			{name: "create", help: "Make a snapshot of a stopped sandbox", args: []positional{{"<NAME>", "Name of the snapshot"}}, flags: []laterFlag{
				{"", "from", "SANDBOX", "Sandbox to make it of"}, {"", "dest-dir", "DIR", "Directory to put it in"}, {"", "label", "KEY=VALUE", "Label to find it by; repeatable"},
				{"f", "force", "", "Replace one of that name"}, {"", "integrity", "", "Record what its contents are to be"}, {"", "resumable", "", "With memory and devices"}, quietFlag}},
			{name: "list", alias: "ls", help: "List snapshots", flags: []laterFlag{{"", "format", "FORMAT", "Print as json"}, {"q", "quiet", "", "Print digests only"}}},
			{name: "inspect", help: "Show all that is known of a snapshot", args: snapshot, flags: []laterFlag{{"", "verify", "", "Check its contents, too"}}},
			{name: "verify", help: "Check a snapshot's contents", args: snapshot},
			{name: "remove", alias: "rm", help: "Remove snapshots", args: []positional{{"<SNAPSHOTS...>", "Snapshots: paths, names or digests"}},
				flags: []laterFlag{{"f", "force", "", "Also those that others are made of"}, quietFlag}},
			{name: "reindex", help: "Look again which snapshots there are", args: []positional{{"[DIR]", "Directory to look in"}}},
			{name: "save", help: "Write a snapshot to an archive", args: append(snapshot[:1:1], positional{"<OUT>", "Archive to write"}), flags: []laterFlag{
				{"", "with-parents", "", "With those that it is made of"}, {"", "with-image", "", "With its image"}, {"", "plain-tar", "", "Do not pack it"}}},
			{name: "load", help: "Read a snapshot from an archive", args: []positional{{"<ARCHIVE>", "Archive to read"}, {"[DEST]", "Directory to put it in"}}},
		}}
}

// The commands that look after msb's own files. Whoever installed them does that.
func updateCommand() laterCommand {
	return laterCommand{name: "update", alias: "upgrade", help: "Update msb", flags: []laterFlag{{"f", "force", "", "Also when it is the latest"}},
		why: "msb does not change its own files", hint: "install the release that you want in the way you installed this one"}
}

func downgradeCommand() laterCommand {
	return laterCommand{name: "downgrade", help: "Go back to an older msb", flags: []laterFlag{yesFlag, {"f", "force", "", "Also when it is the one"},
		{"", "keep-cache", "", "Keep images that it may not read"}, {"", "no-backup", "", "Make no copy of the records"}},
		why: "msb does not change its own files", hint: "install the release that you want, with an MSB_HOME of its own"}
}

// selfCommand is "msb self": doctor works, the others are refused.
func (a *app) selfCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "self", Short: "Look after msb itself", Example: "msb self doctor"})
	check := a.doctorCommand()
	check.Aliases = []string{"check"}
	c.AddCommand(check, a.laterCommand(updateCommand()), a.laterCommand(downgradeCommand()), a.laterCommand(laterCommand{name: "uninstall", help: "Remove msb",
		flags: []laterFlag{yesFlag}, why: "msb does not change its own files", hint: "remove the binaries msb, msb-runner and msb-agent, and MSB_HOME"}))
	return c
}
