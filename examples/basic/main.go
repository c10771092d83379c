// Basic makes a sandbox, runs code in it and shows what came of it.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-basic",
		microsandbox.WithImage("host"), // this machine's own programs; "python:3.12" is one of a registry
		microsandbox.WithMemory(256),
		microsandbox.WithEphemeral(true),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close() // ends the sandbox

	out, err := sb.Shell(ctx, "echo 6 times 7 is $((6 * 7)); ls /root | wc -l")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.Stdout())

	out, err = sb.Shell(ctx, "exit 3")
	fmt.Println("exit code", out.ExitCode(), "error", err)
}
