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

// imageDetailJSON has the keys of contract msb-0.6 §1.3, and last_used_at, used_by and what a sandbox has of it of our own.
func imageDetailJSON(i backend.ImageDetail) any {
	m := imageJSON(i.Image).(map[string]any)
	m["config"] = map[string]any{"digest": i.ConfigDigest, "env": orNone(i.Env), "cmd": orNone(i.Cmd), "entrypoint": orNone(i.Entrypoint),
		"working_dir": orNull(i.WorkingDir), "user": orNull(i.User), "labels": orNoneMap(i.Labels), "stop_signal": orNull(i.StopSignal)}
	layers := []any{}
	for n, l := range i.LayerList {
		layer := map[string]any{"position": n, "blob_digest": l.Digest, "diff_id": l.DiffID, "media_type": l.MediaType,
			"compressed_size_bytes": l.Size, "erofs_size_bytes": nil}
		if l.ErofsSize > 0 {
			layer["erofs_size_bytes"] = l.ErofsSize
		}
		layers = append(layers, layer)
	}
	m["layers"] = layers
	m["last_used_at"], m["used_by"] = timestamp(i.UsedAt), orNone(i.UsedBy)
	m["erofs_size_bytes"], m["files_with_xattrs"], m["blobs_kept"] = i.ErofsSize, i.ExtendedAttributes, i.CompressedBlobsKept
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
	line("Size", "%s packed, %s here", bytesText(i.Size), bytesText(i.ErofsSize))
	line("Entrypoint", "%s", quoteWords(i.Entrypoint))
	line("Command", "%s", quoteWords(i.Cmd))
	line("Workdir", "%s", i.WorkingDir)
	line("User", "%s", i.User)
	line("Stop signal", "%s", i.StopSignal)
	for _, e := range i.Env {
		line("Env", "%s", e)
	}
	for _, k := range slices.Sorted(maps.Keys(i.Labels)) {
		line("Label", "%s=%s", k, i.Labels[k])
	}
	for n, l := range i.LayerList {
		line("Layer", "%d  %s  %s", n+1, shortDigest(l.Digest), bytesText(l.Size))
	}
	if n := i.ExtendedAttributes; n > 0 {
		line("Note", "the extended attributes of %s (capabilities, mostly) are kept for msb save, and sandboxes run without them", count(n, "file"))
	}
	if !i.CompressedBlobsKept {
		line("Note", "the layers as they were downloaded are not kept: msb save packs them anew")
	}
	line("Created", "%s", date(i.CreatedAt))
	line("Last used", "%s", date(i.UsedAt))
	line("Used by", "%s", strings.Join(i.UsedBy, ", "))
	return b.String()
}
