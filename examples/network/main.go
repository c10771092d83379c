// Network lets a sandbox reach one name and nothing else.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/microsandbox-go/microsandbox"
)

func main() {
	ctx := context.Background()
	sb, err := microsandbox.CreateSandbox(ctx, "example-network", microsandbox.WithImage("host"), microsandbox.WithEphemeral(true),
		microsandbox.WithNetwork(&microsandbox.NetworkConfig{
			Rules: []microsandbox.PolicyRule{
				microsandbox.Rule.AllowDNS(),
				{Action: microsandbox.PolicyActionAllow, Destination: "example.com", Protocol: microsandbox.PolicyProtocolTCP, Port: "443"},
			},
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Close()
	out, err := sb.Exec(ctx, "getent", []string{"hosts", "denied.example.org"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("a name that is not allowed is found:", out.Success())
}
