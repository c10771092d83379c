// Go's runtime would keep files of the caller's control group open in every child:
//go:debug containermaxprocs=0

// Command msb-runner supervises one sandbox. It is started by msb and by programs that use the SDK, never by hand.
package main

import (
	"os"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor"
	"github.com/microsandbox-go/microsandbox/internal/runner"
)

func main() {
	gvisor.Child()
	os.Exit(runner.Main(gvisor.Driver{}))
}
