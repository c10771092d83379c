// Secrets gives a sandbox a placeholder, which becomes a value only on its way to the hosts that may see it.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-secrets", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true),
		microsandbox.WithSecrets(microsandbox.Secret.Env("API_KEY", "the value", microsandbox.SecretEnvOptions{AllowHosts: []string{"api.example.com"}})))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Shell(ctx, "echo $API_KEY")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print("the guest has ", out.Stdout())
}
