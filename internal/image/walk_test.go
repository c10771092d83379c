package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// packedLayer is a layer with these entries, compressed.
func packedLayer(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range entries {
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestWhatPathsCost converts layers that are small and whose paths are not: they lead through many directories and links, or are
// long in the image and short in the tar, or make many directories.
func TestWhatPathsCost(t *testing.T) {
	long := strings.TrimSuffix(strings.Repeat("a/", 2000), "/")
	files := func(dir string, n int) (all []tar.Header) {
		for i := range n {
			all = append(all, tar.Header{Name: fmt.Sprintf("%s/%d", dir, i), Typeflag: tar.TypeReg})
		}
		return all
	}
	winding := []tar.Header{{Name: "d", Typeflag: tar.TypeDir}}
	for i, to := 0, "d"; i < 39; i++ {
		winding = append(winding, tar.Header{Name: fmt.Sprintf("l%d", i), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("./", 2000) + to})
		to = fmt.Sprintf("l%d", i)
	}
	deep := []tar.Header{{Name: long, Typeflag: tar.TypeDir}, {Name: "s", Typeflag: tar.TypeSymlink, Linkname: long}}
	var wide []tar.Header
	for i := range 10 {
		wide = append(wide, tar.Header{Name: fmt.Sprintf("%d/%s", i, long), Typeflag: tar.TypeDir})
	}
	for name, test := range map[string]struct {
		limits  Limits
		entries []tar.Header
		refused bool
	}{
		"a few through many links":    {Limits{Entries: 100}, append(winding[:len(winding):len(winding)], files("l38", 5)...), false},
		"many through many links":     {Limits{Entries: 100}, append(winding[:len(winding):len(winding)], files("l38", 40)...), true},
		"a few that are short":        {Limits{Metadata: 8 << 20}, append(deep[:2:2], files("s", 100)...), false},
		"many that are short":         {Limits{Metadata: 8 << 20}, append(deep[:2:2], files("s", 1500)...), true},
		"a few that make much":        {Limits{Metadata: 8 << 20}, wide[:1], false},
		"many that make much":         {Limits{Metadata: 8 << 20}, wide, true},
		"many that are what they say": {Limits{Metadata: 1 << 20}, files("usr/lib/python3/site-packages", 4000), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := convertBytes(t, Open(t.TempDir(), Options{Limits: test.limits}), packedLayer(t, test.entries...))
			if errors.Is(err, ErrTooLarge) != test.refused || !test.refused && err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}
