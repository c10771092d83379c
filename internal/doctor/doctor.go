// Package doctor looks at this machine and says whether sandboxes can run on it, how they would be held, and what to
// change. Its findings come from trying things, not from names of files: a device that opens may still not work. What
// could hang or crash is tried in a child process with a deadline ([Child]), and nothing is left behind.
package doctor

import (
	"context"
	"time"
)

// Status is how well a check went.
type Status string

// The states of a check. Fail means that no sandbox can run.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`           // what was found and what it means
	Remedy string `json:"remedy,omitempty"` // what to do about it
}

// Report is all checks.
type Report struct {
	Checks []Check `json:"checks"`
}

// Ready reports whether a sandbox can run.
func (r Report) Ready() bool {
	for _, c := range r.Checks {
		if c.Status == Fail {
			return false
		}
	}
	return true
}

// Machine is what is looked at. Home is MSB_HOME; HomeErr and Missing say why there is none, and which binaries cannot be
// found.
type Machine struct {
	Home    string
	HomeErr error
	Missing []error
}

// How long a child may take, all in all: one that is expected to hang on some machines, and one that is not, on a machine that is busy.
const (
	hangTimeout  = 500 * time.Millisecond
	probeTimeout = 5 * time.Second
)

// Examine makes all checks. It takes less than two seconds where nothing hangs.
func Examine(ctx context.Context, m Machine) Report {
	var checks []Check
	checks = append(checks, binaries(m)...)
	checks = append(checks, kernel(), namespaces(ctx), systrap(ctx), kvm(ctx))
	checks = append(checks, groups(m)...)
	checks = append(checks, sockets(), erofs(), disk(m), files(), clock())
	return Report{checks}
}

func ok(name, detail string) Check { return Check{Name: name, Status: OK, Detail: detail} }

func warn(name, detail, remedy string) Check {
	return Check{Name: name, Status: Warn, Detail: detail, Remedy: remedy}
}

func fail(name, detail, remedy string) Check {
	return Check{Name: name, Status: Fail, Detail: detail, Remedy: remedy}
}
