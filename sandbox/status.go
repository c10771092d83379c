package sandbox

import "fmt"

// Status is where a sandbox is in its life (contract msb-0.6 §2.3).
type Status string

// The states of a sandbox.
const (
	Created  Status = "created"
	Starting Status = "starting"
	Running  Status = "running"
	Draining Status = "draining"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
	Crashed  Status = "crashed"
)

// Terminal reports whether a sandbox in this state has no processes.
func (s Status) Terminal() bool { return s == Created || s == Stopped || s == Crashed }

// Reachable reports whether a sandbox in this state has an agent that takes requests.
func (s Status) Reachable() bool { return s == Running || s == Draining }

// Title is the state as the CLI's JSON and tables print it: "Running".
func (s Status) Title() string {
	if s == "" {
		return ""
	}
	return string(s[0]-'a'+'A') + string(s[1:])
}

// Move returns nil if a sandbox may go from one state to the other. This switch is the only list of legal moves.
func Move(from, to Status) error {
	ok := false
	switch from {
	case Created:
		ok = to == Starting
	case Starting:
		ok = to == Running || to == Stopped || to == Crashed
	case Running:
		ok = to == Draining || to == Paused || to == Stopped || to == Crashed
	case Draining:
		ok = to == Stopped || to == Crashed
	case Paused:
		ok = to == Running || to == Draining || to == Stopped || to == Crashed
	case Stopped, Crashed:
		ok = to == Starting
	}
	if !ok {
		return &Error{Kind: Internal, Message: fmt.Sprintf("a sandbox cannot go from %s to %s", from, to)}
	}
	return nil
}

// Reason says why a sandbox ended (contract msb-0.6 §5.1; OOM is ours).
type Reason string

// The reasons for an end.
const (
	ReasonCompleted   Reason = "completed"             // its startup command ended, or its owner stopped it
	ReasonFailed      Reason = "failed"                // it never became ready
	ReasonMaxDuration Reason = "max-duration-exceeded" // its wall-clock limit
	ReasonIdle        Reason = "idle-timeout"
	ReasonShutdown    Reason = "shutdown-requested"
	ReasonDrain       Reason = "drain-requested"
	ReasonParentGone  Reason = "parent-exited"    // the process that owned it ended
	ReasonOOM         Reason = "oom"              // it went over its memory limit
	ReasonViolation   Reason = "secret-violation" // a secret's placeholder was sent where it may not go
	ReasonSignal      Reason = "signal"           // the sentry was killed from outside
	ReasonLost        Reason = "lost"             // the runner was killed; found by a reader
	ReasonInternal    Reason = "internal-error"
)
