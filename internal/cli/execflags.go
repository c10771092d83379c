package cli

import (
	"time"

	"github.com/microsandbox-go/microsandbox/internal/console"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// execFlags are the flags that say how one command meets this terminal; run and exec have them.
type execFlags struct {
	tty, noTTY bool
	timeout    time.Duration
	rlimits    []sandbox.Rlimit
}

func (e *execFlags) declare(f *flags) {
	f.group("Session")
	f.toggle("t", "tty", "Give the command a terminal, also where this is none", &e.tty)
	f.toggle("", "no-tty", "Give it pipes, also where this is a terminal", &e.noTTY)
	f.value("", "timeout", "DURATION", "Kill the command after this time, e.g. 30s, 5m or 1h", setDuration(&e.timeout))
	f.value("", "rlimit", "RESOURCE=SOFT[:HARD]", "Resource limit of the command, e.g. nofile=1024; repeatable",
		setAppend(&e.rlimits, sandbox.ParseRlimit))
}

// check refuses what contradicts itself.
func (e *execFlags) check() error {
	if e.tty && e.noTTY {
		return usageErrorf("", "--tty and --no-tty exclude each other")
	}
	return nil
}

// wantTTY says whether the command gets a terminal: when it was asked for, or when this is one at both ends and ours.
func (e *execFlags) wantTTY(a *app) bool {
	return e.tty || !e.noTTY && isTerminal(a.in) && isTerminal(a.out) && console.Foreground(a.in)
}
