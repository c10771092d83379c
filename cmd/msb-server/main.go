// Msb-server is msb with all that a server links. Msb becomes it for the commands that serve, so that the others need not wait for what
// only those use.
package main

import (
	"os"

	"github.com/microsandbox-go/microsandbox/internal/cli"
	"github.com/microsandbox-go/microsandbox/internal/compose"
	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

func main() {
	doctor.Child()
	os.Exit(cli.Main(cli.Env{Backend: compose.Open, Server: serve, MCP: tools}, os.Args[1:]))
}
