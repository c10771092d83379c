package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// cleanCommand is msb clean: it removes what a project has on the disk.
func (a *app) cleanCommand() *cobra.Command {
	var (
		p     projectFlags
		force bool
	)
	c := a.command(&cobra.Command{Use: "clean", Short: "Remove a project's sandboxes and their files",
		Long: `Without a name all that were made of the Sandboxfile are removed, with a name one that the file has no more. Volumes stay (msb
volume rm), and so does the file.`,
		Example: "msb clean --force\nmsb clean old"},
		positional{"[NAME]", "Sandbox to remove"})
	f := flagsOf(c, false)
	f.toggle("F", "force", "Also what the file still has, and what runs", &force)
	f.refuse("u", "user", "", "Remove everything of this user", "not supported", "remove sandboxes with msb rm, images with msb image prune, and MSB_HOME by hand")
	f.refuse("a", "all", "", "Both", "not supported", "remove sandboxes with msb rm, images with msb image prune, and MSB_HOME by hand")
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.ValidArgsFunction = a.completeEntries(&p)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		o, err := a.open(c.Context(), p.file, UseManage)
		if err != nil {
			return err
		}
		defer o.close()
		if !force && len(args) == 0 {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: "Configuration file exists. Use --force to clean the entire environment"}
		}
		if !force && o.Has(args[0]) {
			return &sandbox.Error{Kind: sandbox.InvalidArgument, Message: fmt.Sprintf("Sandbox '%s' exists in configuration. Use --force to clean it", args[0])}
		}
		return o.change(p.quiet, func(tell func(project.Event)) error {
			infos, err := o.Infos(o.s.ctx, o.b)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if _, there := infos[args[0]]; !there {
					return &sandbox.Error{Kind: sandbox.NotFound, Message: args[0], Hint: "nothing is there of a sandbox of that name in " + o.Path}
				}
			}
			for name, i := range infos {
				if len(args) > 0 && name != args[0] {
					continue
				}
				if err := o.b.Remove(o.s.ctx, i.Ref, force); err != nil {
					return err
				}
				tell(project.Event{Name: string(i.Ref.Name), Verb: "Removed"})
			}
			return nil
		})
	}
	return c
}
