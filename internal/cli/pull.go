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
		Long: `Asks the registry what the reference means now and gets what is not here yet. What was got is checked against its digests
and becomes one read-only file, which all sandboxes of the image share.`,
		Example: "msb pull python:3.12\nmsb pull --insecure registry.local:5000/tools\nmsb pull --platform linux/arm64 alpine"},
		positional{"<REFERENCE>", "Image to get, e.g. python, ubuntu:24.04 or ghcr.io/owner/name"})
	f := flagsOf(c, false)
	f.toggle("f", "force", "Get all of it again, also what is here", &opt.Force)
	f.value("", "platform", "OS/ARCH[/VARIANT]", "Get it for this platform (default this machine's)", setString(&opt.Platform))
	f.group("Registry")
	declareRegistry(f, &opt)
	f.group("")
	f.value("", "materialize", "KIND", "What to make of it; flat, one file, is all there is", setWord(&materialize, "flat", "layered", "all"))
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
			opt.Progress = a.viewPull(quiet, args[0])
			i, err := b.PullImage(ctx, args[0], opt)
			switch {
			case err == nil:
				a.did(quiet, "Pulled", i.Reference+" ("+shortDigest(i.Digest)+", "+bytesText(i.Size)+")")
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
