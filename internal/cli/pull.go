package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) pullCommand() *cobra.Command {
	var (
		opt         backend.PullOptions
		quiet       bool
		materialize string
	)
	c := a.command(&cobra.Command{Use: "pull", Short: "Get an image from its registry",
		Long: `What is got is checked against its digests and becomes one read-only file, which all sandboxes of the image share. Layers
that came whole are kept when a pull fails, and the next one goes on with them.`,
		Example: "msb pull python:3.12\nmsb pull --force python\nmsb pull --insecure registry.local:5000/tools\nmsb pull --platform linux/arm64 alpine"},
		positional{"<REFERENCE>", "Image to get, e.g. python, ubuntu:24.04 or ghcr.io/owner/name"})
	f := flagsOf(c, false)
	f.toggle("f", "force", "Ask the registry also for an image that is here: it may have a newer one", &opt.Refresh)
	f.value("", "platform", "OS/ARCH[/VARIANT]", "Get it for this platform (default this machine's)", setString(&opt.Platform))
	f.group("Registry")
	declareRegistry(f, &opt)
	f.group("")
	f.words("", "materialize", "KIND", "What to make of it; flat, one file, is all there is", &materialize, "flat", "layered", "all")
	f.quiet(&quiet)
	c.RunE = func(c *cobra.Command, args []string) error {
		if materialize == "layered" || materialize == "all" {
			return &sandbox.Error{Op: "pull", Kind: sandbox.Unsupported, Message: "--materialize " + materialize + " is not supported: every image becomes one flat file, and no file per layer",
				Hint: "leave it out, or use --materialize flat"}
		}
		b, err := capable[backend.Images](a, "Image::pull")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			a.spinFor(quiet, "Pulling "+args[0])
			view := a.viewPull(quiet, pulling, args[0])
			asked := false
			opt.Progress = func(e backend.PullEvent) { asked = true; view(e) }
			i, err := b.PullImage(ctx, args[0], opt)
			switch {
			case err == nil:
				note := shortDigest(i.Digest) + ", " + bytesText(i.Size)
				if !asked {
					note = "was here; to ask the registry again, add --force"
				}
				a.did(quiet, "Pulled", i.Short+" ("+note+")")
			case ctx.Err() == nil:
				a.didNot(quiet, "Pulling", args[0])
			}
			return err
		})
	}
	return c
}

// declareRegistry declares the flags that say how to speak to a registry.
func declareRegistry(f *flags, opt *backend.PullOptions) {
	f.toggle("", "insecure", "Use plain HTTP, or trust a certificate of anybody", &opt.Insecure)
	f.value("", "ca-certs", "PATH", "Trust the certificate authorities in this PEM file, too; repeatable", setAppend(&opt.CACerts, verbatim))
}
