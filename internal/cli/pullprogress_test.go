package cli

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/microsandbox-go/microsandbox/internal/backend"
)

// pulled is what a pull of two layers tells.
var pulled = []backend.PullEvent{
	{Phase: backend.PullWaiting},
	{Phase: backend.PullResolved, Digest: "sha256:aaaaaaaaaaaaaaaa", Layers: 2},
	{Phase: backend.PullCached, Layer: 0, Layers: 2, Digest: "sha256:bbbbbbbbbbbbbbbb", Total: 10},
	{Phase: backend.PullUnpacking, Layer: 0, Layers: 2, Digest: "sha256:bbbbbbbbbbbbbbbb", Done: 1, Total: 10},
	{Phase: backend.PullUnpacked, Layer: 0, Layers: 2, Digest: "sha256:bbbbbbbbbbbbbbbb", Done: 10, Total: 10},
	{Phase: backend.PullDownloading, Layer: 1, Layers: 2, Digest: "sha256:cccccccccccccccc", Done: 1 << 20, Total: 4 << 20},
	{Phase: backend.PullDownloading, Layer: 1, Layers: 2, Digest: "sha256:cccccccccccccccc", Done: 2 << 20, Total: 4 << 20},
	{Phase: backend.PullDownloaded, Layer: 1, Layers: 2, Digest: "sha256:cccccccccccccccc", Done: 4 << 20, Total: 4 << 20},
	{Phase: backend.PullUnpacked, Layer: 1, Layers: 2, Digest: "sha256:cccccccccccccccc", Done: 4 << 20, Total: 4 << 20},
	{Phase: backend.PullWriting, Layers: 2},
	{Phase: backend.PullDone, Digest: "sha256:aaaaaaaaaaaaaaaa", Layers: 2, Total: 5 << 20},
	{Phase: backend.PullDownloading, Layer: 7, Layers: 2}, // what is not there is not shown
}

func TestPullLines(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	a := &app{err: file}
	quiet, view := a.viewPull(true, pulling, "x"), a.viewPull(false, pulling, "python\nx")
	for _, e := range pulled {
		quiet(e)
		view(e)
	}
	got, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	const want = `   Waiting        for the other process that pulls python x
   Pulling        python x: aaaaaaaaaaaa, 2 layers
   layer 1/2      bbbbbbbbbbbb is there already
   layer 1/2      bbbbbbbbbbbb unpacking
   layer 1/2      bbbbbbbbbbbb unpacked, verified
   layer 2/2      cccccccccccc downloading 4.0 MiB
   layer 2/2      cccccccccccc downloaded, verified
   Writing        python x
`
	if string(got) != want {
		t.Errorf("lines\n%s\nwant\n%s", got, want)
	}
}

func TestPullBars(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "err"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	v := &pullView{a: &app{err: file}, verbs: pulling, name: "x", notes: map[backend.PullPhase]bool{}}
	for _, e := range pulled[:7] {
		v.event(e)
	}
	l := &v.layers[1]
	l.update(backend.PullEvent{Phase: backend.PullDownloading, Done: 3 << 20}, l.sampled.Add(2*time.Second))
	got := strings.Join(v.draw(20, 100), "\n")
	const want = "     bbbbbbbbbbbb  unpacked, verified\n     cccccccccccc  ━━━━━━━━━━━━━━━━━━──────  3.0 MiB / 4.0 MiB  1.0 MiB/s"
	if got != want {
		t.Errorf("bars\n%s\nwant\n%s", got, want)
	}
	for _, size := range [][2]int{{1, 10}, {2, 40}, {20, 60}, {1, 200}} {
		lines := v.draw(size[0], size[1])
		if len(lines) > size[0] {
			t.Errorf("%d lines on %d rows", len(lines), size[0])
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > size[1] {
				t.Errorf("%d columns on %d: %q", n, size[1], line)
			}
		}
	}
	if got := v.draw(1, 200); len(got) != 1 || got[0] != "     and 2 layers more" {
		t.Errorf("on one row: %q", got)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 3 << 50: "3072.0 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

// The keys are those of contract msb-0.6 §1.3, and ours beside them.
func TestImageShapes(t *testing.T) {
	keys := func(v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return strings.Join(slices.Sorted(maps.Keys(m)), " ")
	}
	d := imageDetailJSON(backend.ImageDetail{LayerList: []backend.ImageLayer{{}}}).(map[string]any)
	for what, c := range map[string]struct {
		v    any
		want string
	}{
		"list":    {imageJSON(backend.Image{}), "architecture created_at digest layer_count os reference size_bytes"},
		"inspect": {d, "architecture config created_at digest files_with_xattrs last_used_at layer_count layers os reference size_bytes"},
		"config":  {d["config"], "cmd digest entrypoint env labels stop_signal user working_dir"},
		"layer":   {d["layers"].([]any)[0], "blob_digest compressed_size_bytes diff_id erofs_size_bytes media_type position"},
		"prune":   {pruneJSON(backend.ImagePrune{}), "bytes_reclaimed fsmeta_removed image_refs_removed layers_removed manifests_removed vmdk_removed"},
	} {
		if got := keys(c.v); got != c.want {
			t.Errorf("%s has the keys\n%s\nwant\n%s", what, got, c.want)
		}
	}
}
