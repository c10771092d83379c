package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) listCommand() *cobra.Command {
	var (
		running, stopped, quiet bool
		format                  string
		labels                  map[string]string
		proj                    projectFlags
	)
	c := a.command(&cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the sandboxes", Long: "With --file the entries of a Sandboxfile are listed.",
		Example: "msb ls --running\nmsb ls --format json"})
	f := flagsOf(c, false)
	f.toggle("", "running", "Only those that run", &running)
	f.toggle("", "stopped", "Only those that do not", &stopped)
	f.labels(&labels, "Only those with this label")
	f.format(&format)
	f.toggle("q", "quiet", "Print names only", &quiet)
	proj.declareFile(f, "f")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if proj.file != "" {
			if running || stopped || len(labels) > 0 {
				return usageErrorf("how they are is shown by: msb status --file "+proj.file, "--file excludes --running, --stopped and --label")
			}
			return a.entries(proj.file, format, quiet)
		}
		if running && stopped {
			return usageErrorf("", "--running and --stopped exclude each other")
		}
		infos, err := a.find(c.Context(), labels, func(i sandbox.Info) bool {
			return !(running && i.Status != sandbox.Running || stopped && !i.Status.Terminal())
		})
		if err != nil {
			return err
		}
		switch {
		case format == "json":
			return printJSON(a.out, each(infos, listJSON))
		case quiet:
			return a.printNames(infos)
		case len(infos) == 0:
			fmt.Fprintln(a.err, "No sandboxes found.")
			return nil
		}
		return printTable(a.out, []string{"NAME", "IMAGE", "STATUS", "CREATED"}, each(infos, func(i sandbox.Info) []string {
			return []string{string(i.Ref.Name), imageOf(i.Spec), i.Status.Title(), date(i.CreatedAt)}
		}))
	}
	return c
}

// find returns the sandboxes with all the labels for which keep holds, newest first.
func (a *app) find(ctx context.Context, labels map[string]string, keep func(sandbox.Info) bool) ([]sandbox.Info, error) {
	b, err := a.backend(UseManage)
	if err != nil {
		return nil, err
	}
	infos, err := b.List(ctx, a.namespace)
	if err != nil {
		return nil, err
	}
	var found []sandbox.Info
	for _, i := range infos {
		if keep(i) && i.Spec.HasLabels(labels) {
			found = append(found, i)
		}
	}
	return found, nil
}

func (a *app) printNames(infos []sandbox.Info) error {
	for _, i := range infos {
		if _, err := fmt.Fprintln(a.out, i.Ref.Name); err != nil {
			return err
		}
	}
	return nil
}

// each is never nil, so that it is [] in JSON.
func each[T, U any](all []T, f func(T) U) []U {
	out := make([]U, 0, len(all))
	for _, one := range all {
		out = append(out, f(one))
	}
	return out
}

func listJSON(i sandbox.Info) any {
	return map[string]any{"name": i.Ref.Name, "image": imageOf(i.Spec), "status": i.Status.Title(), "created_at": timestamp(i.CreatedAt)}
}

func imageOf(s sandbox.Spec) string { return s.Image.String() }
