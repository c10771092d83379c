package jsonrpc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/internal/server"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// TestPlanOfManyPaths has layers of entries each of which depends on all of the layer before: each is looked at once, though there
// are more ways to the last one than could ever be gone.
func TestPlanOfManyPaths(t *testing.T) {
	const layers, wide = 20, 5
	var file strings.Builder
	file.WriteString("sandboxes:\n")
	for l := range layers {
		for i := range wide {
			fmt.Fprintf(&file, "  l%d-%d:\n    image: x\n", l, i)
			for j := 0; l > 0 && j < wide; j++ {
				if j == 0 {
					file.WriteString("    depends_on:\n")
				}
				fmt.Fprintf(&file, "      - l%d-%d\n", l-1, j)
			}
		}
	}
	top := t.TempDir()
	v := New(server.New(server.Config{Namespaces: top}))
	path := sandboxfile.Path(v.dir("n"))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := server.WithCaller(t.Context(), server.Caller{Namespace: "n"})
	ref := sandbox.Ref{Namespace: "n", Name: sandbox.Name(fmt.Sprintf("l%d-0", layers-1))}
	plan, err := v.plan(ctx, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan) != (layers-1)*wide+1 || plan[len(plan)-1].ref != ref {
		t.Fatalf("%d are to be started", len(plan))
	}
	at := map[sandbox.Name]int{}
	for i, w := range plan {
		at[w.ref.Name] = i
	}
	for l := 1; l < layers-1; l++ {
		if at[sandbox.Name(fmt.Sprintf("l%d-0", l))] < at[sandbox.Name(fmt.Sprintf("l%d-%d", l-1, wide-1))] {
			t.Errorf("layer %d begins before what it depends on", l)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := v.plan(cancelled, ref, nil); sandbox.KindOf(err) != sandbox.Cancelled {
		t.Errorf("of a caller who has gone: %v", err)
	}
}
