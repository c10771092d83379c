package e2e

import (
	"bytes"
	"image/png"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// TestFigures has matplotlib draw and pandas tabulate, both Debian's. As no maintainer script has run in the image, nothing has
// chosen a BLAS for it.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("a download of 100 MB")
	}
	const lib = "/usr/lib/x86_64-linux-gnu/"
	img := testimage.Debian(t, "matplotlib", v1.Config{Env: []string{"PATH=/usr/bin:/bin", "LD_LIBRARY_PATH=" + lib + "blas:" + lib + "lapack"}},
		"python3-matplotlib", "python3-pandas", "libblas3", "liblapack3")
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "matplotlib", img)
	w := newWorld(t, false)
	w.ok("pull", "-q", ref)
	w.ok("run", "-d", "-q", "--name", "plots", ref, "--", "sleep", "1000")
	c := w.client("plots")
	r := w.cell(c, "python", "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()\nprint('shown')\nplt.figure(figsize=(2, 1)).gca().bar([1], [2]);", agentclient.CellOptions{})
	if len(r.Outputs) != 3 || r.Stdout() != "shown\n" || r.Stderr() != "" {
		t.Fatalf("%+v", r)
	}
	for _, n := range []int{0, 2} {
		p, err := png.Decode(bytes.NewReader(r.Outputs[n].Result.Get("image/png")))
		if err != nil || p.Bounds().Dx() < 100 || p.Bounds().Dy() < 50 {
			t.Errorf("picture %d: %v", n, err)
		}
	}
	r = w.cell(c, "python", "import pandas as pd\npd.DataFrame({'a': [1, 2]})", agentclient.CellOptions{})
	if len(r.Outputs) != 1 || !strings.Contains(string(r.Outputs[0].Result.Get("text/html")), "<table") || !strings.Contains(r.Text(), "a\n0  1") {
		t.Errorf("%+v: %s", r.KernelDone, r.Stderr())
	}
}
