// Go's runtime would keep files of the caller's control group open in every child:
//go:debug containermaxprocs=0

// Command msb-runner supervises one sandbox. It is started by msb and by programs that use the SDK, never by hand.
package main

import (
	"fmt"
	"os"

	"github.com/microsandbox-go/microsandbox/internal/driver/gvisor"
	"github.com/microsandbox-go/microsandbox/internal/runner"
	"github.com/microsandbox-go/microsandbox/internal/version"
)

func main() {
	gvisor.Child()
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("msb-runner", version.Version)
		return
	}
	os.Exit(runner.Main(gvisor.Driver{}))
}
