// Streaming talks to a command while it runs, in the two shapes there are for that.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-streaming", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()

	// Events.
	x, err := sb.ShellStream(ctx, "read name; echo hello $name; exit 5", microsandbox.WithExecStdinPipe())
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	stdin := x.TakeStdin()
	fmt.Fprintln(stdin, "you")
	stdin.Close()
	for done := false; !done; {
		e, err := x.Recv(ctx)
		if err != nil {
			log.Fatal(err)
		}
		switch e.Kind {
		case microsandbox.ExecEventStdout:
			fmt.Printf("stdout %s", e.Data)
		case microsandbox.ExecEventExited:
			fmt.Println("exited", e.ExitCode)
		case microsandbox.ExecEventDone:
			done = true
		}
	}

	// The shape of os/exec.
	cmd := sb.CommandContext(ctx, "sort", "-n")
	cmd.Stdin = strings.NewReader("10\n9\n8\n")
	out, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	for lines := bufio.NewScanner(io.LimitReader(out, 1<<20)); lines.Scan(); {
		fmt.Println("sorted", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		log.Fatal(err)
	}
}
