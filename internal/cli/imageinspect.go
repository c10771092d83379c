package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

func (a *app) imageInspectCommand() *cobra.Command {
	var format string
	c := a.command(&cobra.Command{Use: "inspect", Short: "Show all that is known of an image",
		Example: "msb image inspect python\nmsb image inspect python --format json"},
		positional{"<REFERENCE>", "Image to show"})
	f := flagsOf(c, false)
	f.format(&format)
	c.ValidArgsFunction = a.completeImages
	c.RunE = func(c *cobra.Command, args []string) error {
		b, err := capable[backend.Images](a, "Image::inspect")
		if err != nil {
			return err
		}
		i, err := b.InspectImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(a.out, imageDetailJSON(i))
		}
		_, err = a.out.WriteString(imageText(i, styleOf(a.out)))
		return err
	}
	return c
}

// imageDetailJSON has the keys of contract msb-0.6 §1.3, and files_with_xattrs and last_used_at of our own.
func imageDetailJSON(i backend.ImageDetail) any {
	m := imageJSON(i.Image).(map[string]any)
	c := i.Config
	m["config"] = map[string]any{"digest": c.Digest, "env": orNone(c.Env), "cmd": orNone(c.Cmd), "entrypoint": orNone(c.Entrypoint),
		"working_dir": orNull(c.WorkingDir), "user": orNull(c.User), "labels": orNoneMap(c.Labels), "stop_signal": orNull(c.StopSignal)}
	layers := []any{}
	for n, l := range i.LayerList {
		layers = append(layers, map[string]any{"position": n, "blob_digest": l.Digest, "diff_id": l.DiffID, "media_type": l.MediaType,
			"compressed_size_bytes": l.Size, "erofs_size_bytes": l.ErofsSize})
	}
	m["layers"], m["files_with_xattrs"], m["last_used_at"] = layers, i.XattrFiles, timestamp(i.UsedAt)
	return m
}

// orNone is [] for nothing.
func orNone(s []string) []string { return append([]string{}, s...) }

func orNoneMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// orNull is null for "".
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func imageText(i backend.ImageDetail, st style) string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		if v := oneLine(fmt.Sprintf(format, args...)); v != "" {
			fmt.Fprintf(&b, "%s %s\n", st.bold(fmt.Sprintf("%-12s", key+":")), v)
		}
	}
	line("Reference", "%s", i.Reference)
	line("Digest", "%s", i.Digest)
	line("Platform", "%s/%s", i.OS, i.Architecture)
	line("Size", "%s packed, %s here", bytesText(i.Size), bytesText(i.Disk))
	c := i.Config
	line("Entrypoint", "%s", quoteWords(c.Entrypoint))
	line("Command", "%s", quoteWords(c.Cmd))
	line("Workdir", "%s", c.WorkingDir)
	line("User", "%s", c.User)
	line("Stop signal", "%s", c.StopSignal)
	for _, e := range c.Env {
		line("Env", "%s", e)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		line("Label", "%s=%s", k, c.Labels[k])
	}
	for n, l := range i.LayerList {
		line("Layer", "%d  %s  %s", n+1, shortDigest(l.Digest), bytesText(l.Size))
	}
	if n := i.XattrFiles; n > 0 {
		line("Note", "%s with extended attributes, such as capabilities: msb save keeps them, and sandboxes do not have them", count(n, "file"))
	}
	if !i.BlobsKept {
		line("Note", "the layers are not kept as they came: msb save makes one of them all, with another digest")
	}
	line("Created", "%s", date(i.CreatedAt))
	line("Last used", "%s", date(i.UsedAt))
	return b.String()
}
