package microsandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"time"

	"github.com/microsandbox-go/microsandbox"
)

func ExampleCreateSandbox() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example",
		microsandbox.WithImage("python:3.12"),
		microsandbox.WithMemory(512),
		microsandbox.WithEphemeral(true),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Exec(ctx, "python3", []string{"-c", "print(6 * 7)"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(out.Stdout())
}

func ExampleSandbox_CommandContext() {
	var sb *microsandbox.Sandbox // of CreateSandbox
	cmd := sb.CommandContext(context.Background(), "go", "test", "./...")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/src", os.Stdout, os.Stderr
	var exit *microsandbox.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		fmt.Println("exit code", exit.ExitCode())
	}
}

func ExampleSandboxFSOps_IO() {
	var sb *microsandbox.Sandbox // of CreateSandbox
	names, err := fs.Glob(sb.FS().IO(context.Background(), "/var/log"), "*.log")
	fmt.Println(names, err)
}

func ExampleSandbox_ExecStream() {
	ctx := context.Background()
	var sb *microsandbox.Sandbox // of CreateSandbox
	x, err := sb.ExecStream(ctx, "make", []string{"-j4"}, microsandbox.WithExecCwd("/src"), microsandbox.WithExecTimeout(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	for {
		e, err := x.Recv(ctx)
		if err != nil {
			log.Fatal(err)
		}
		switch e.Kind {
		case microsandbox.ExecEventStdout, microsandbox.ExecEventStderr:
			os.Stdout.Write(e.Data)
		case microsandbox.ExecEventExited:
			fmt.Println("exit code", e.ExitCode)
		case microsandbox.ExecEventDone:
			return
		}
	}
}

func ExampleNetworkConfig() {
	_ = microsandbox.WithNetwork(&microsandbox.NetworkConfig{
		Rules: []microsandbox.PolicyRule{
			microsandbox.Rule.AllowDNS(),
			{Action: microsandbox.PolicyActionAllow, Destination: "api.example.com", Protocol: microsandbox.PolicyProtocolTCP, Port: "443"},
		},
	})
}

func ExampleIsKind() {
	_, err := microsandbox.GetSandbox(context.Background(), "not/a/name")
	fmt.Println(microsandbox.IsKind(err, microsandbox.ErrInvalidConfig))
	// Output: true
}
