// Command msb-agent is PID 1 of a sandbox. The host gives it one end of a stream socket as file descriptor 3.
//
// The number of CPUs does not change; an idle agent does not look whether it has.
//
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/microsandbox-go/microsandbox/internal/agent"
)

// version is set by the linker.
var version = "dev"

// controlFD is the connection to the host.
const controlFD = 3

func main() {
	started := time.Now()
	if len(os.Args) > 2 && os.Args[1] == agent.Archive {
		if err := agent.WriteArchive(os.Stdout, os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "error: archive:", err)
			os.Exit(1)
		}
		return
	}
	runtime.GOMAXPROCS(1) // the CPUs are for the commands; a second thread to wake only delays what the first one does
	syscall.CloseOnExec(controlFD)
	_ = syscall.SetNonblock(controlFD, true) // so that waiting for the host takes no thread
	var boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	a := &agent.Agent{
		Conn:      os.NewFile(controlFD, "control"),
		Init:      os.Getpid() == 1,
		TakesOver: len(os.Args) == 2 && os.Args[1] == agent.HandedOver,
		Version:   version,
		Started:   started,
		Boot:      time.Duration(boot.Nano()),
	}
	if err := a.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "error: msb-agent:", err)
		os.Exit(1)
	}
}
