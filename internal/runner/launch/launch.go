// Package launch holds what passes between a backend and the runner it spawns: the [Config] in, [Word]s out. It has no logic, so that msb need not link the runner.
package launch

import (
	"errors"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// File descriptors of a runner. What is said on them is in the comments.
const (
	ConfigFD = 3 // one JSON Config, then EOF
	LockFD   = 4 // the run directory's lock, held for the runner's life
	ReadyFD  = 5 // the runner writes its Words here
	WatchFD  = 6 // EOF ends the sandbox, unless the byte Detach came before
	ImageFD  = 7 // the root's file with a lease on it (see image.Root.Lease): open for the runner's life, and nobody else's
	// TableFD is only there to make the FD table large before the runner has threads: growing it later costs an RCU grace
	// period, some 11 ms. The sentry, which uses numbers up to 255 at its start, inherits the size.
	TableFD = 511
)

// Detach, written to WatchFD, lets the sandbox live on when its creator ends.
const Detach = 'd'

// Files in a run directory (MSB_HOME/run/<short id>/). A sandbox runs while its lock is held and RunningFile is there; it
// is starting while the lock is held and the file is not.
const (
	LockFile    = "lock"
	InfoFile    = "info.json"    // a sandbox.Info, written by the creator before it spawns the runner
	RunningFile = "running.json" // a Running, written by the runner when the agent answers
	EndFile     = "end.json"     // a sandbox.End, written by the runner as its last act
	SocketFile  = "agent.sock"
	LogFile     = "runner.log"
	ControlFile = "control.sock" // requests to the runner itself (see ControlRequest)
	FlowFile    = "net.jsonl"    // the flow log: a sandbox.Flow per line; what is older is in FlowFile + ".1"
)

// Running is what a runner says of itself while its sandbox runs.
type Running struct {
	PID         int                 `json:"pid"`
	StartedAt   time.Time           `json:"started_at"`
	Confinement sandbox.Confinement `json:"confinement"`
	Draining    bool                `json:"draining,omitempty"` // it begins no new sessions
	Ports       []sandbox.Port      `json:"ports,omitempty"`    // published, with the host's ports that were had
}

// Config is all that a runner needs to know. Secrets may be in it: it travels on a file descriptor only.
type Config struct {
	Info      sandbox.Info
	RunDir    string // absolute
	LogDir    string // absolute; it is there: exec.log, runner.log, boot-error.json (package execlog), metrics (package metering)
	Home      string // MSB_HOME
	Root      Root
	Mounts    []Mount
	Proxy     *Proxy // nil: nothing is needed of this machine
	Agent     string // EROFS file with the guest agent
	Startup   []string
	Attached  bool
	SpawnedAt time.Time // when the creator started the runner, for the log of where the time of a start goes
	Group     string    // name of the control group, where one can be had
	UserNS    bool      // the runner is root of a user namespace of its own
	LogLevel  string
}

// Root is the sandbox's root file system as the image part prepared it.
type Root struct {
	Image   string // EROFS file
	Disk    *Disk  // what is written goes there; nil: to the sentry's memory
	Binds   []Bind // read-only
	Env     []string
	User    string
	Workdir string
}

// Disk is the writable layer of a root.
type Disk struct {
	Source  string // directory of the host; "": the sandbox's memory
	SizeMiB int
	Used    bool // it has what an earlier run wrote, the image's devices and the patches among it
}

// Mount is a bind or a volume of the spec, with its source found: absolute, and no link on the way is followed again.
type Mount struct {
	Source, Target string
	Options        sandbox.MountOptions
	Stat           string // as of sandbox.Mount; off leaves all to the host's file system
	Mirror         bool
	Owner          sandbox.Owner
	QuotaMiB       int
}

// Bind mounts a host path in the guest.
type Bind struct{ Source, Target string }

// Word is what a runner writes to ReadyFD, as lines of JSON: first Running or Failure, at the end End. The creator may
// stop listening after the first.
type Word struct {
	Running *Running      `json:"running,omitempty"`
	Failure *Failure      `json:"failure,omitempty"`
	End     *sandbox.End  `json:"end,omitempty"`
	CPUTime time.Duration `json:"cpu_time,omitempty"` // that the guest computed; with End
}

// ControlRequest is a line of JSON on ControlFile; a [ControlResponse] is the answer, and the connection is over.
//
// To add an operation: 1. its Op here, 2. its case in package runner, control.go, 3. who asks for it in backend/local.
type ControlRequest struct {
	Op       string                 `json:"op"`
	Limits   *Limits                `json:"limits,omitempty"`   // of OpLimits
	Defaults *Defaults              `json:"defaults,omitempty"` // of OpDefaults
	Policy   *sandbox.NetworkPolicy `json:"policy,omitempty"`   // of OpPolicy
	Strict   *bool                  `json:"strict,omitempty"`   // of OpPolicy; nil leaves it as it is
	Secrets  *Secrets               `json:"secrets,omitempty"`  // of OpSecrets
}

// Defaults are what commands get that say nothing else.
type Defaults struct {
	Env     []sandbox.EnvVar `json:"env"`
	Workdir string           `json:"workdir"`
}

// Limits are what a sandbox may use; both are set.
type Limits struct {
	CPUs      int `json:"cpus"`
	MemoryMiB int `json:"memory_mib"`
}

// The operations of a runner.
const (
	OpCapabilities = "capabilities" // what it can be asked for
	OpLimits       = "limits"       // hold it to other limits
	OpDefaults     = "defaults"     // give commands to come other variables and another directory
	OpDrain        = "drain"        // begin no new session, and end with the last one
	OpNetwork      = "network"      // what goes on in its network
	OpPolicy       = "policy"       // put another network policy in the place of the one there is
	OpSecrets      = "secrets"      // put other secrets in the place of those there are
	OpMetrics      = "metrics"      // the last sample of what it uses
)

// ControlResponse answers a [ControlRequest].
type ControlResponse struct {
	OK           bool                  `json:"ok"`
	Failure      *Failure              `json:"error,omitempty"`
	Capabilities []string              `json:"capabilities,omitempty"`
	Network      *sandbox.NetworkState `json:"network,omitempty"` // of OpNetwork
	Metrics      []byte                `json:"metrics,omitempty"` // of OpMetrics: a metering.Sample, encoded
}

// Failure is an error that crossed a process boundary.
type Failure struct {
	Kind    sandbox.Kind `json:"kind"`
	Message string       `json:"message"`
	Hint    string       `json:"hint,omitempty"`
}

// FailureOf packs an error.
func FailureOf(err error) *Failure {
	f := &Failure{Kind: sandbox.KindOf(err), Message: err.Error(), Hint: sandbox.HintOf(err)}
	var e *sandbox.Error
	if errors.As(err, &e) && e == err {
		f.Message = e.Detail()
	}
	return f
}

// Err unpacks it.
func (f *Failure) Err(ref sandbox.Ref) error {
	return &sandbox.Error{Op: "start", Ref: ref, Kind: f.Kind, Message: f.Message, Hint: f.Hint}
}
