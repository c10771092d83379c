package sandbox

import "time"

// Info is what is recorded of a sandbox.
type Info struct {
	Ref    Ref    `json:"ref"`
	ID     string `json:"id"`            // opaque, never used twice
	Seq    int64  `json:"seq,omitempty"` // order of creation; 0 of ephemeral ones
	Status Status `json:"status"`
	Spec   Spec   `json:"spec"` // what its next start gets
	// Startup is the command that each run does by itself; nil is none.
	Startup []string `json:"startup,omitempty"`
	// Active is what it runs with where that is not Spec; see Effective.
	Active    *Spec     `json:"active,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	RunnerPID int       `json:"runner_pid,omitempty"`
	// Confinement says how the running sandbox is held; nil before it first ran.
	Confinement *Confinement `json:"confinement,omitempty"`
	// Ports are those that the running sandbox publishes, with the host's ports that were taken where any would do.
	Ports []Port `json:"ports,omitempty"`
	// Booted says that it has been running, so what is on its root disk counts. It is not known of ephemeral ones.
	Booted bool `json:"booted,omitempty"`
	// End says how the last run ended; nil while it runs.
	End *End `json:"end,omitempty"`
}

// Effective is the spec of the present run, or of the next one.
func (i Info) Effective() Spec {
	if i.Active != nil {
		return *i.Active
	}
	return i.Spec
}

// NotRunning is the error of what takes a sandbox that runs (contract msb-0.6 §2.10).
func (i Info) NotRunning(op string) *Error {
	err := &Error{Op: op, Ref: i.Ref, Kind: NotRunning, Message: "sandbox '" + string(i.Ref.Name) + "' is not running (status: " + i.Status.Title() + ")"}
	if i.Status.Terminal() {
		err.Hint = "start it with: msb start " + string(i.Ref.Name)
	}
	return err
}

// Gone reports whether nothing is left of a sandbox but its record: it was ephemeral, or never became ready.
func (i Info) Gone() bool {
	return i.Status.Terminal() && i.Status != Created && (i.Spec.Lifecycle.Ephemeral || !i.Booted && i.End != nil && i.End.Reason == ReasonFailed)
}

// Confinement says what keeps a sandbox within its bounds, in honest words.
type Confinement struct {
	Driver  string `json:"driver"`  // "gvisor": a user-space kernel, not a VM
	Memory  string `json:"memory"`  // "cgroup" or "watchdog"
	CPU     string `json:"cpu"`     // "cgroup" or "affinity"
	Network string `json:"network"` // "gateway" or "none"
	User    string `json:"user"`    // "root" or "userns": whom the runner runs as
}

// End says how a run ended.
type End struct {
	Reason   Reason    `json:"reason"`
	Message  string    `json:"message,omitempty"` // what happened, in the reader's words
	ExitCode *int      `json:"exit_code,omitempty"`
	Signal   *int      `json:"signal,omitempty"`
	At       time.Time `json:"at"`
}
