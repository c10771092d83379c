// Errors tells failures apart by their kinds.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	_, err := microsandbox.GetSandbox(ctx, "example-nothing")
	fmt.Println(err, microsandbox.IsKind(err, microsandbox.ErrSandboxNotFound))

	sb, err := microsandbox.CreateSandbox(ctx, "example-errors", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	_, err = sb.FS().Read(ctx, "/nothing")
	fmt.Println(microsandbox.IsKind(err, microsandbox.ErrFilesystem), errors.Is(err, fs.ErrNotExist))
	_, err = sb.Exec(ctx, "/nothing", nil)
	fmt.Println(microsandbox.IsKind(err, microsandbox.ErrExecFailed))
	err = sb.Command("sh", "-c", "exit 2").Run()
	fmt.Println(err)
}
