package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"image/png"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/microsandbox-go/microsandbox/internal/testimage"
)

// figure draws twice: what is shown, and what is left open at the end.
const figure = "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.show()\nprint('shown')\nplt.figure(figsize=(2, 1)).gca().bar([1], [2]);"

// TestServerFigures has matplotlib draw and pandas tabulate, both Debian's: figures come as PNG over MCP, over the control plane API, collected
// and streamed, and a table as HTML. As no maintainer script has run in the image, nothing has chosen a BLAS for it.
func TestServerFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("a download of 100 MB")
	}
	const lib = "/usr/lib/x86_64-linux-gnu/"
	img := testimage.Debian(t, "matplotlib", v1.Config{Env: []string{"PATH=/usr/bin:/bin", "LD_LIBRARY_PATH=" + lib + "blas:" + lib + "lapack"}},
		"python3-matplotlib", "python3-pandas", "libblas3", "liblapack3")
	ref := testimage.Serve(t, testimage.Options{}).Push(t, "matplotlib", img)
	served(t, func(w *world) {
		s := w.serve()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		var pulled atomic.Int64
		c := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, &mcp.ClientOptions{ProgressNotificationHandler: func(_ context.Context, n *mcp.ProgressNotificationClientRequest) {
			if strings.HasPrefix(n.Params.Message, "image: ") {
				pulled.Add(1)
			}
		}})
		session, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: s.url + "/mcp", HTTPClient: &http.Client{Transport: bearer{s.team}}}, nil)
		w.must(err)
		defer session.Close()
		start := &mcp.CallToolParams{Name: "sandbox_start", Arguments: map[string]any{"sandbox": "plots", "namespace": "team-a", "config": map[string]any{"image": ref}}}
		start.SetProgressToken("start")
		if r, err := session.CallTool(ctx, start); err != nil || r.IsError {
			t.Fatalf("%+v, %v", r, err)
		}
		if pulled.Load() == 0 {
			t.Error("nothing was told of the pull")
		}
		if a := s.ask("GET", "/metrics", keyed(s.all), ""); !strings.Contains(a.body, "\nmsb_image_pulls_total{outcome=\"ok\"} 1\n") {
			t.Errorf("metrics: %d", a.status)
		}
		picture := func(what string, data []byte) {
			t.Helper()
			if p, err := png.Decode(bytes.NewReader(data)); err != nil || p.Bounds().Dx() < 100 || p.Bounds().Dy() < 50 {
				t.Errorf("%s: %v", what, err)
			}
		}
		encoded := func(what string, form any) {
			t.Helper()
			text, _ := form.(string)
			data, err := base64.StdEncoding.DecodeString(text)
			w.must(err)
			picture(what, data)
		}

		at := s.on("plots") + "/interpreters/python/default" // which is the session of MCP, too
		r := s.runCell(s.team, at, figure, "")
		if r.Status != "ok" || len(r.Outputs) != 3 || r.Outputs[1].Text != "shown\n" {
			t.Fatalf("%+v", r)
		}
		encoded("collected", r.Outputs[0].Result["image/png"])
		encoded("collected, the second", r.Outputs[2].Result["image/png"])
		r = s.runCell(s.team, at, "import pandas as pd\npd.DataFrame({'a': [1, 2]})", "")
		if html, _ := r.Outputs[0].Result["text/html"].(string); !strings.Contains(html, "<table") {
			t.Errorf("a table is %+v", r)
		}
		stream := s.streamCell(s.team, at, figure)
		var first, shown, second cellOutput
		stream.next("output", &first)
		encoded("streamed", first.Result["image/png"])
		if stream.next("output", &shown); shown.Text != "shown\n" {
			t.Errorf("%+v", shown)
		}
		stream.next("output", &second)
		encoded("streamed, the second", second.Result["image/png"])
		stream.next("done", nil)

		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "sandbox_run_code", Arguments: map[string]any{"sandbox": "plots", "namespace": "team-a", "language": "python", "code": figure}})
		w.must(err)
		var pictures int
		for _, c := range result.Content {
			if i, ok := c.(*mcp.ImageContent); ok && i.MIMEType == "image/png" {
				picture("over MCP", i.Data)
				pictures++
			}
		}
		if text := result.Content[0].(*mcp.TextContent).Text; pictures != 2 || result.IsError || !strings.Contains(text, `"text": "shown"`) {
			t.Errorf("over MCP: %d pictures, %s", pictures, text)
		}
		w.must(session.Close())
	})
}
