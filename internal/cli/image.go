package cli

import (
	"context"
	"fmt"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// imageCommand is what is done with images; images, its hidden other name, lists them when nothing is said.
func (a *app) imageCommand() *cobra.Command {
	c := a.groupCommand(&cobra.Command{Use: "image", Short: "Manage images",
		Example: "msb image ls\nmsb image rm python:3.11\nmsb image prune"})
	a.addImageCommands(c)
	return c
}

func (a *app) imagesCommand() *cobra.Command {
	c := a.imageListCommand()
	c.Use, c.Aliases, c.Hidden = "images", nil, true
	a.addImageCommands(c)
	return c
}

func (a *app) addImageCommands(c *cobra.Command) {
	c.AddCommand(a.pullCommand(), a.imageListCommand(), a.imageInspectCommand(), a.loadCommand(), a.saveCommand(), a.imageRemoveCommand(), a.imagePruneCommand())
}

// rmiCommand is the hidden short form of msb image rm.
func (a *app) rmiCommand() *cobra.Command {
	c := a.imageRemoveCommand()
	c.Use, c.Aliases, c.Hidden = "rmi", nil, true
	return c
}

// groupCommand completes a command that only has others below it.
func (a *app) groupCommand(c *cobra.Command) *cobra.Command {
	a.command(c)
	c.Args = func(c *cobra.Command, given []string) error {
		switch {
		case a.tree:
			a.printTree(c)
			return errDone
		case len(given) == 0:
			return usageErrorf(c.CommandPath()+" --help", "%s needs a command", c.CommandPath())
		}
		return usageErrorf(suggestion(c.CommandPath()+" --help", nearest(given[0], commandNames(c), c.CommandPath()+" ")), "there is no command %q of %s", clip(given[0]), c.CommandPath())
	}
	c.RunE = func(*cobra.Command, []string) error { return nil }
	return c
}

// capable is the backend as one that can do more than every backend can; op names what is asked of it.
func capable[T any](a *app, op string) (T, error) {
	var none T
	b, err := a.backend(UseManage)
	if err != nil {
		return none, err
	}
	if able, ok := b.(T); ok {
		return able, nil
	}
	return none, &sandbox.Error{Op: op, Kind: sandbox.Unsupported, Message: op + " is not supported by this backend: use a local backend"}
}

// interruptible calls do with a context that ends with a signal, and makes an exit code of that. A second signal ends the
// process at once: do may wait for somebody who does not read.
func (a *app) interruptible(c *cobra.Command, do func(ctx context.Context) error) error {
	s := a.catchSignals(c.Context())
	defer s.stop()
	defer context.AfterFunc(s.ctx, func() { signal.Stop(s.ch) })()
	return s.explain(do(s.ctx))
}

func (a *app) imageListCommand() *cobra.Command {
	var (
		format string
		quiet  bool
	)
	c := a.command(&cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the images that are here",
		Example: "msb image ls\nmsb image ls --format json"})
	f := flagsOf(c, false)
	f.format(&format)
	f.toggle("q", "quiet", "Print references only", &quiet)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, err := capable[backend.Images](a, "Image::list")
		if err != nil {
			return err
		}
		images, err := b.ListImages(c.Context())
		switch {
		case err != nil:
			return err
		case format == "json":
			return printJSON(a.out, each(images, imageJSON))
		case quiet:
			for _, i := range images {
				if _, err := fmt.Fprintln(a.out, i.Reference); err != nil {
					return err
				}
			}
			return nil
		case len(images) == 0:
			fmt.Fprintln(a.err, "No images found.")
			return nil
		}
		return printTable(a.out, []string{"REFERENCE", "DIGEST", "PLATFORM", "SIZE", "CREATED"}, each(images, func(i backend.Image) []string {
			return []string{i.Short, shortDigest(i.Digest), i.OS + "/" + i.Architecture, bytesText(i.Size), date(i.CreatedAt)}
		}))
	}
	return c
}

// imageJSON has the keys of contract msb-0.6 §1.3.
func imageJSON(i backend.Image) any {
	return map[string]any{"reference": i.Reference, "digest": i.Digest, "os": i.OS, "architecture": i.Architecture, "layer_count": i.Layers,
		"size_bytes": i.Size, "created_at": timestamp(i.CreatedAt)}
}

func (a *app) imageRemoveCommand() *cobra.Command {
	var force, quiet bool
	c := a.command(&cobra.Command{Use: "remove", Aliases: []string{"rm"}, Short: "Remove images",
		Long:    "An image that has several references is removed with the last of them.",
		Example: "msb image rm python:3.11 alpine"},
		positional{"<REFERENCES...>", "Images to remove"})
	f := flagsOf(c, false)
	f.toggle("f", "force", "Also those that sandboxes use; these run on", &force)
	f.quiet(&quiet)
	c.ValidArgsFunction = a.completeImages
	c.RunE = func(c *cobra.Command, args []string) error {
		b, err := capable[backend.Images](a, "Image::remove")
		if err != nil {
			return err
		}
		return a.forEachOf(args, func(ref string) error {
			if err := b.RemoveImage(c.Context(), ref, force); err != nil {
				return err
			}
			a.did(quiet, "Removed", ref)
			return nil
		})
	}
	return c
}

// forEachOf does something for each of the names, once. It goes on after a failure and then exits 1.
func (a *app) forEachOf(names []string, do func(name string) error) error {
	seen, failed := map[string]bool{}, false
	for _, n := range names {
		if seen[n] {
			continue
		}
		seen[n] = true
		if err := do(n); err != nil {
			failed = true
			a.settle()
			a.fail(err)
		}
	}
	if failed {
		return exitCode(exitError)
	}
	return nil
}

// completeImages completes the references of the images that are here.
func (a *app) completeImages(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a.startLog()
	b, err := capable[backend.Images](a, "Image::list")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	images, err := b.ListImages(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return each(images, func(i backend.Image) string { return i.Short }), cobra.ShellCompDirectiveNoFileComp
}
