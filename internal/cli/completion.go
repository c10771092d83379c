package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) completionCommand() *cobra.Command {
	c := a.command(&cobra.Command{Use: "completion", Short: "Print a shell's completion script",
		Long:    "That for bash wants the functions of the package bash-completion.",
		Example: "source <(msb completion bash)\nmsb completion fish > ~/.config/fish/completions/msb.fish"},
		positional{"<SHELL>", "bash, fish, powershell or zsh"})
	c.ValidArgs = []string{"bash", "fish", "powershell", "zsh"}
	c.RunE = func(c *cobra.Command, args []string) error {
		root := c.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(a.out, true)
		case "zsh":
			return root.GenZshCompletion(a.out)
		case "fish":
			return root.GenFishCompletion(a.out, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(a.out)
		case "elvish":
			return unsupported("completion for elvish", "use bash, fish, powershell or zsh")
		}
		return usageErrorf(c.CommandPath()+" --help", "%q is not a shell that msb knows", clip(args[0]))
	}
	return c
}

// completeNames completes the names of sandboxes.
func (a *app) completeNames(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a.startLog()
	infos, err := a.find(c.Context(), nil, func(sandbox.Info) bool { return true })
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return each(infos, func(i sandbox.Info) string { return string(i.Ref.Name) }), cobra.ShellCompDirectiveNoFileComp
}

// completeWords has the shell complete the values of flags that are one of some words, of c and all commands below it. Only a
// shell that asks pays for it.
func completeWords(c *cobra.Command) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if words := f.Annotations["words"]; len(words) > 0 {
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
		}
	})
	for _, sub := range c.Commands() {
		completeWords(sub)
	}
}
