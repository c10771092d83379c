package cli

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The headings of msb's help, in order (contract msb-0.6 §1.1).
const (
	groupSandboxes    = "Sandboxes"
	groupImages       = "Images"
	groupStorage      = "Storage"
	groupInstallation = "Installation"
	groupOther        = "Other"
)

var groups = [...]string{groupSandboxes, groupImages, groupStorage, groupInstallation, groupOther}

// later are the commands of contract msb-0.6 §1.2 that are not there yet.
var later = map[string]bool{
	"context": true, "ctx": true, "create": true, "modify": true, "mod": true, "start": true, "restart": true, "ping": true, "touch": true,
	"metrics": true, "copy": true, "cp": true, "logs": true, "ssh": true, "volume": true, "vol": true, "volumes": true, "vols": true,
	"snapshot": true, "snap": true, "snapshots": true, "snaps": true, "install": true, "uninstall": true, "update": true, "upgrade": true,
	"downgrade": true, "self": true,
}

func (a *app) root() *cobra.Command {
	cobra.EnableCommandSorting = false // help and tree keep the order of the table below
	root := &cobra.Command{
		Use:           "msb",
		Short:         "Run untrusted code in sandboxes",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		Example: `msb run host -- python3 -c 'print(1 + 1)'
echo hello | msb run host -- tr a-z A-Z
msb run -d --name work host -- sleep 600
msb exec work -- ps aux`,
		RunE: func(c *cobra.Command, args []string) error {
			if a.tree {
				a.printTree(c)
				return nil
			}
			if a.version {
				fmt.Fprintf(a.out, "msb %s\n", version.Version)
				return nil
			}
			if len(args) == 0 {
				a.help(c)
				return nil
			}
			if later[args[0]] {
				return unsupported("msb "+args[0], "it comes in a later release")
			}
			return usageErrorf(suggestion("msb --help", nearest(args[0], commandNames(c), "msb ")), "there is no command %q", args[0])
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { a.help(c) })
	root.SetFlagErrorFunc(flagError)
	root.PersistentPreRun = func(*cobra.Command, []string) { a.startLog() }

	f := flagsOf(root, true)
	f.group("Global")
	for _, l := range []struct {
		name, what string
		level      slog.Level
	}{
		{"error", "errors", slog.LevelError}, {"warn", "warnings and errors", slog.LevelWarn}, {"info", "progress, too", slog.LevelInfo},
		{"debug", "details, too", slog.LevelDebug}, {"trace", "everything", slog.LevelDebug - 4},
	} {
		f.toggleFunc("", l.name, "Log to stderr: "+l.what, func() { a.level = logLevel{true, l.level} })
	}
	f.toggle("", "tree", "Print this command and all below it with their flags", &a.tree)
	f.hide("tree")
	local := flagsOf(root, false)
	local.toggle("V", "version", "Print the version", &a.version)
	local.hide("version")

	for _, c := range []struct {
		group string
		cmd   *cobra.Command
	}{
		{groupSandboxes, a.runCommand()},
		{groupSandboxes, a.stopCommand()},
		{groupSandboxes, a.listCommand()},
		{groupSandboxes, a.statusCommand()},
		{groupSandboxes, a.removeCommand()},
		{groupSandboxes, a.execCommand()},
		{groupSandboxes, a.inspectCommand()},
		{groupImages, a.imageCommand()},
		{groupImages, a.pullCommand()},
		{groupImages, a.loadCommand()},
		{groupImages, a.saveCommand()},
		{groupImages, a.registryCommand()},
		{groupImages, a.imagesCommand()},
		{groupImages, a.rmiCommand()},
		{groupImages, a.registriesCommand()},
		{groupStorage, a.systemCommand()},
		{groupInstallation, a.doctorCommand()},
		{groupInstallation, a.versionCommand()},
		{groupOther, a.completionCommand()},
	} {
		c.cmd.Annotations["group"] = c.group
		root.AddCommand(c.cmd)
	}
	root.SetHelpCommand(a.helpCommand())
	return root
}

// helpCommand is "msb help [COMMAND]".
func (a *app) helpCommand() *cobra.Command {
	c := a.command(&cobra.Command{Use: "help", Short: "Show help", Hidden: true},
		positional{"[COMMAND...]", "Command to show the help of"})
	c.RunE = func(c *cobra.Command, args []string) error {
		about, _, err := c.Root().Find(args)
		if depth := strings.Count(about.CommandPath(), " "); err != nil || depth < len(args) {
			return usageErrorf("msb --help", "there is no command %q", clip(strings.Join(args, " ")))
		}
		a.help(about)
		return nil
	}
	return c
}

func commandNames(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(append(names, sub.Name()), sub.Aliases...)
		}
	}
	return names
}

// unsupported is the error of what the contract has and this release has not.
func unsupported(what, hint string) error {
	return &sandbox.Error{Kind: sandbox.Unsupported, Message: what + " is not supported yet", Hint: hint}
}
