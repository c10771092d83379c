// Msb runs untrusted code in sandboxes. It is the command line; `msb --help` says what it can do.
package main

import (
	"os"

	"github.com/microsandbox-go/microsandbox/internal/cli"
	"github.com/microsandbox-go/microsandbox/internal/compose"
	"github.com/microsandbox-go/microsandbox/internal/doctor"
)

func main() {
	doctor.Child()
	os.Exit(cli.Main(cli.Env{Backend: compose.Open}, os.Args[1:]))
}
