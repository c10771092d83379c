package testimage

import (
	"archive/tar"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestDependencies(t *testing.T) {
	out := "python3\n  Depends: python3.11\n |Depends: a\n |Depends: b\n  Depends: c\n  Depends: <virtual>\n    real\n    other\n  PreDepends: last\nnext\n  Depends: libc6\n"
	want := []string{"python3.11", "a", "real", "last", "libc6"}
	if got := dependencies(out); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestMergedUsr(t *testing.T) {
	for in, want := range map[string]string{"./": "", "./bin/ls": "usr/bin/ls", "./lib": "usr/lib", "./library/x": "library/x", "./usr/bin/": "usr/bin", "./etc/x": "etc/x"} {
		if got := mergedUsr(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// TestImages finds the programs that the images are for, and each path once.
func TestImages(t *testing.T) {
	for program, img := range map[string]io.ReadCloser{"bin/busybox": mutate.Extract(Busybox(t)), "usr/bin/python3": mutate.Extract(Python(t))} {
		seen := map[string]bool{}
		for tr := tar.NewReader(img); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(h.Name, "/")
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
		img.Close()
		if !seen[program] || !seen["etc/passwd"] {
			t.Errorf("%s is not in the image", program)
		}
	}
}
