// Detached leaves a sandbox running, finds it again, and ends it.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-detached", microsandbox.WithImage("host"), microsandbox.WithReplace(), microsandbox.WithDetached(),
		microsandbox.WithLabel("example", "detached"))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := sb.Shell(ctx, "echo note > /root/note"); err != nil {
		log.Fatal(err)
	}
	if err := sb.Detach(ctx); err != nil { // from here on this process may end
		log.Fatal(err)
	}

	page, err := microsandbox.ListSandboxesWith(ctx, microsandbox.WithListLabels(map[string]string{"example": "detached"}))
	if err != nil {
		log.Fatal(err)
	}
	for _, h := range page.Sandboxes {
		fmt.Println(h.Name(), h.Status())
		again, err := h.Connect(ctx)
		if err != nil {
			log.Fatal(err)
		}
		out, err := again.Shell(ctx, "cat /root/note")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(out.Stdout())
		if err := again.Destroy(ctx); err != nil {
			log.Fatal(err)
		}
		again.Close()
	}
}
