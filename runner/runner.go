// Package runner makes a program its own msb-runner: with it, sandboxes need no program but msb-agent beside the caller's. Its
// main calls [Main] before anything else:
//
//	//go:debug containermaxprocs=0
//	package main
//
//	func main() {
//		runner.Main()
//		…
//	}
//
// The SDK then starts the program itself, in the roles of the supervisor of a sandbox and of its children, and in those Main
// does not return. The comment spares each of them some open files. The program has to be built with CGO_ENABLED=0, becomes
// some 30 MB larger, and pays in each sandbox for its own package initialisation; without this package nothing of gVisor is
// linked into it.
package runner

import (
	"os"

	"github.com/microsandbox-go/microsandbox/internal/config"
	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor"
	"github.com/microsandbox-go/microsandbox/internal/runner"
)

// Main answers the roles of a runner, in which it does not return; otherwise it says that this program is one.
// Processes whose name (argument 0) is msb-runner, runsc-sandbox, runsc-gofer, runsc[…] or, with arguments, /proc/self/exe
// are taken for such a role.
func Main() {
	gvisor.Child()
	if len(os.Args) == 1 && os.Args[0] == config.Runner {
		os.Exit(runner.Main(gvisor.Driver{}))
	}
	config.Embedded = true
}
