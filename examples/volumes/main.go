// Volumes keeps files beyond the life of a sandbox, and shows them to two of them.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	volume, err := microsandbox.CreateVolume(ctx, "example-data", microsandbox.WithVolumeQuota(64))
	if err != nil {
		log.Fatal(err)
	}
	defer volume.Remove(ctx)
	if err := volume.FS().WriteString(ctx, "from-host", "hello\n"); err != nil {
		log.Fatal(err)
	}
	for i, line := range []string{"cat /data/from-host; echo from the first > /data/note", "cat /data/note"} {
		sb, err := microsandbox.CreateSandbox(ctx, fmt.Sprintf("example-volumes-%d", i), microsandbox.WithImage("host"), microsandbox.WithEphemeral(true),
			microsandbox.WithMounts(map[string]microsandbox.MountConfig{"/data": microsandbox.Mount.Named("example-data", microsandbox.MountOptions{})}))
		if err != nil {
			log.Fatal(err)
		}
		out, err := sb.Shell(ctx, line)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(out.Stdout())
		if err := sb.Close(); err != nil {
			log.Fatal(err)
		}
	}
}
