//go:debug containermaxprocs=0

// Embedded is its own msb-runner: beside it, sandboxes need only msb-agent.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
	"github.com/microsandbox-go/microsandbox/runner"
)

func main() {
	runner.Main() // does not return in the roles of a runner

	ctx := context.Background()
	if err := microsandbox.EnsureInstalled(ctx); err != nil {
		log.Fatal(err)
	}
	sb, err := microsandbox.CreateSandbox(ctx, "example-embedded", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Exec(ctx, "echo", []string{"one program"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.Stdout())
}
