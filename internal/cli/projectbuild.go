package cli

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/project"
)

// buildCommand is msb build.
func (a *app) buildCommand() *cobra.Command {
	var (
		p     projectFlags
		force bool
	)
	c := a.command(&cobra.Command{Use: "build", Short: "Make images by the builds of a Sandboxfile",
		Long: `The steps of a build are run in a sandbox of its image, as root; what is there then is the image, which sandboxes of the file
have by the build's name (image: NAME). One that is there as the file says it is not made again. msb up makes what is missing.`,
		Example: "msb build\nmsb build --force db"},
		positional{"[NAMES...]", "Builds of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	f.toggle("", "force", "Make it again, also when nothing has changed", &force)
	f.refuse("", "snapshot", "", "Keep the build as a snapshot", "not supported yet: snapshots come with a later release", "use it as an image")
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.ValidArgsFunction = a.completeFile(&p, func(p *project.Project) []string { return slices.Sorted(maps.Keys(p.File.Builds)) })
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		o, err := a.open(c.Context(), p.file, UseCreate)
		if err != nil {
			return err
		}
		defer o.close()
		order, err := o.BuildOrder(names)
		if err != nil {
			return err
		}
		return o.change(p.quiet, func(tell func(project.Event)) error {
			for _, name := range order {
				opt := project.BuildOptions{Force: force && (len(names) == 0 || slices.Contains(names, name))}
				if !p.quiet {
					opt.Out = above{a}
				}
				made, err := o.Build(o.s.ctx, o.b, name, opt, tell)
				if err != nil {
					return err
				}
				verb := "Up to date"
				if made {
					verb = "Built"
				}
				tell(project.Event{Name: name + "  " + o.BuildRef(name), Verb: verb})
			}
			return nil
		})
	}
	return c
}

// above writes to stderr above what moves there. What a guest printed reaches a terminal as text.
type above struct{ a *app }

func (w above) Write(p []byte) (int, error) {
	f := escapeFilter{}
	text := f.filter(nil, p)
	var err error
	w.a.above(func() { _, err = w.a.err.Write(text) })
	return len(p), err
}
