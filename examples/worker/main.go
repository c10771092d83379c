// Worker converts a file offline: the program that reads the file of a stranger has no network, little memory and a deadline.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-worker",
		microsandbox.WithImage("host"), // an image with ffmpeg or LibreOffice in earnest
		microsandbox.WithEphemeral(true),
		microsandbox.WithMemory(128),
		microsandbox.WithNetwork(microsandbox.NetworkPolicy.None()),
		microsandbox.WithSecurityProfile(microsandbox.SecurityProfileRestricted),
		microsandbox.WithMaxDuration(time.Minute),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	if err := sb.FS().WriteString(ctx, "/tmp/in", "some text\n"); err != nil {
		log.Fatal(err)
	}
	out, err := sb.Shell(ctx, "tr a-z A-Z < /tmp/in > /tmp/out && cat /tmp/out", microsandbox.WithExecTimeout(10*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.Stdout())

	_, err = sb.Exec(ctx, "sleep", []string{"60"}, microsandbox.WithExecTimeout(time.Second))
	var e *microsandbox.Error
	if errors.As(err, &e) {
		fmt.Println(e.Kind)
	}
}
