package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

func (a *app) imagePruneCommand() *cobra.Command {
	var (
		yes, quiet bool
		format     string
	)
	c := a.command(&cobra.Command{Use: "prune", Short: "Remove the images that no sandbox uses",
		Example: "msb image prune\nmsb image prune -y --format json"})
	f := flagsOf(c, false)
	f.toggle("y", "yes", "Do not ask", &yes)
	f.format(&format)
	f.quiet(&quiet)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, err := capable[backend.Images](a, "Image::prune")
		if err != nil {
			return err
		}
		return a.interruptible(c, func(ctx context.Context) error {
			if !yes {
				if !isTerminal(a.in) || !isTerminal(a.err) {
					return usageErrorf("add --yes", "there is nobody to ask")
				}
				if ok, err := a.ask(ctx, "Remove all images that no sandbox uses?"); err != nil || !ok {
					return err
				}
			}
			a.spinFor(quiet, "Removing images")
			p, err := b.PruneImages(ctx)
			if err != nil {
				return err
			}
			if format == "json" {
				a.settle()
				return printJSON(a.out, pruneJSON(p))
			}
			a.did(quiet, "Pruned", fmt.Sprintf("%s, %s freed", count(p.Images, "image"), bytesText(p.Bytes)))
			return nil
		})
	}
	return c
}

// pruneJSON has the fields of the SDK's ImagePruneReport (contract msb-0.6 Appendix A); those of artifacts that do not exist
// here are 0.
func pruneJSON(p backend.ImagePrune) any {
	return map[string]any{"image_refs_removed": p.References, "manifests_removed": p.Images, "layers_removed": p.Layers,
		"fsmeta_removed": 0, "vmdk_removed": 0, "bytes_reclaimed": p.Bytes}
}

// ask asks a question on the terminal; anything but yes is no.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	a.settle()
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(&interruptedReader{ctx, a.in}).ReadString('\n')
	if ctx.Err() != nil {
		fmt.Fprintln(a.err)
		return false, ctx.Err()
	}
	if err != nil {
		fmt.Fprintln(a.err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}
