package cli

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/version"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// The headings of msb's help, in order (contract msb-0.6 §1.1).
const (
	groupSandboxes    = "Sandboxes"
	groupProjects     = "Projects"
	groupImages       = "Images"
	groupStorage      = "Storage"
	groupServing      = "Serving"
	groupInstallation = "Installation"
	groupOther        = "Other"
)

var groups = [...]string{groupSandboxes, groupProjects, groupImages, groupStorage, groupServing, groupInstallation, groupOther}

// root is the command msb with the one below it that args name, or all if they name none.
func (a *app) root(args []string) *cobra.Command {
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
	f.value("N", "namespace", "NAME", "Whose sandboxes: names are unique within a namespace (default \"default\")", func(v string) error {
		a.namespace, a.namespaced = v, true
		return sandbox.Ref{Namespace: v, Name: "any"}.Validate()
	})
	f.toggle("", "tree", "Print this command and all below it with their flags", &a.tree)
	f.hide("tree")
	local := flagsOf(root, false)
	local.toggle("V", "version", "Print the version", &a.version)
	local.hide("version")

	all := a.commands()
	wanted := firstWord(args)
	only := slices.IndexFunc(all, func(c entry) bool { return slices.Contains(c.names, wanted) })
	for i, c := range all {
		if only < 0 || i == only {
			cmd := c.make()
			cmd.Annotations["group"] = c.group
			root.AddCommand(cmd)
		}
	}
	root.SetHelpCommand(a.helpCommand())
	if wanted == cobra.ShellCompRequestCmd || wanted == cobra.ShellCompNoDescRequestCmd {
		completeWords(root)
	}
	return root
}

// entry is a command below msb. It is made when it is called, or when somebody wants to know of all: making them takes longer
// than reading a command line.
type entry struct {
	group string
	make  func() *cobra.Command
	names []string // with its aliases
}

// commands are those below msb, in the order in which help and tree show them.
func (a *app) commands() []entry {
	return []entry{
		{groupOther, a.contextCommand, []string{"context", "ctx"}},
		{groupSandboxes, a.runCommand, []string{"run"}},
		{groupSandboxes, a.createCommand, []string{"create"}},
		{groupSandboxes, a.modifyCommand, []string{"modify", "mod"}},
		{groupSandboxes, a.startCommand, []string{"start"}},
		{groupSandboxes, a.stopCommand, []string{"stop"}},
		{groupSandboxes, a.restartCommand, []string{"restart"}},
		{groupSandboxes, a.pingCommand, []string{"ping"}},
		{groupSandboxes, a.touchCommand, []string{"touch"}},
		{groupSandboxes, a.listCommand, []string{"list", "ls"}},
		{groupSandboxes, a.statusCommand, []string{"status", "ps"}},
		{groupSandboxes, a.metricsCommand, []string{"metrics"}},
		{groupSandboxes, a.netCommand, []string{"net"}},
		{groupSandboxes, a.removeCommand, []string{"remove", "rm"}},
		{groupSandboxes, a.execCommand, []string{"exec"}},
		{groupSandboxes, a.copyCommand, []string{"copy", "cp"}},
		{groupSandboxes, a.sshCommand, []string{"ssh"}},
		{groupSandboxes, a.logsCommand, []string{"logs"}},
		{groupSandboxes, a.inspectCommand, []string{"inspect"}},
		{groupProjects, a.initCommand, []string{"init"}},
		{groupProjects, a.addCommand, []string{"add"}},
		{groupProjects, a.upCommand, []string{"up"}},
		{groupProjects, a.applyCommand, []string{"apply"}},
		{groupProjects, a.downCommand, []string{"down"}},
		{groupProjects, a.logCommand, []string{"log"}},
		{groupProjects, a.shellCommand, []string{"shell"}},
		{groupProjects, a.buildCommand, []string{"build"}},
		{groupProjects, a.treeCommand, []string{"tree"}},
		{groupProjects, a.cleanCommand, []string{"clean"}},
		{groupProjects, a.exportCommand, []string{"export"}},
		{groupProjects, a.exeCommand, []string{"exe", "x"}},
		{groupImages, a.imageCommand, []string{"image"}},
		{groupImages, a.pullCommand, []string{"pull"}},
		{groupImages, a.loadCommand, []string{"load"}},
		{groupImages, a.saveCommand, []string{"save"}},
		{groupImages, a.registryCommand, []string{"registry"}},
		{groupImages, a.imagesCommand, []string{"images"}},
		{groupImages, a.rmiCommand, []string{"rmi"}},
		{groupImages, a.registriesCommand, []string{"registries", "regs"}},
		{groupStorage, a.systemCommand, []string{"system"}},
		{groupStorage, a.volumeCommand, []string{"volume", "vol"}},
		{groupStorage, a.volumesCommand, []string{"volumes", "vols"}},
		{groupStorage, a.later(snapshotCommands), []string{"snapshot", "snap"}},
		{groupStorage, a.snapshotsCommand, []string{"snapshots", "snaps"}},
		{groupServing, a.serverCommand, []string{"server"}},
		{groupServing, a.mcpCommand, []string{"mcp"}},
		{groupInstallation, a.installCommand, []string{"install"}},
		{groupInstallation, a.uninstallCommand, []string{"uninstall"}},
		{groupStorage, a.fsckCommand, []string{"fsck"}},
		{groupInstallation, a.doctorCommand, []string{"doctor"}},
		{groupInstallation, a.later(updateCommand), []string{"update", "upgrade"}},
		{groupInstallation, a.later(downgradeCommand), []string{"downgrade"}},
		{groupInstallation, a.selfCommand, []string{"self"}},
		{groupInstallation, a.versionCommand, []string{"version"}},
		{groupOther, a.completionCommand, []string{"completion"}},
	}
}

// firstWord is the first argument that is no flag. Of msb's own flags only the namespace has a value.
func firstWord(args []string) string {
	value := false
	for _, arg := range args {
		if !value && !strings.HasPrefix(arg, "-") {
			return arg
		}
		value = !value && (arg == "-N" || arg == "--namespace")
	}
	return ""
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
