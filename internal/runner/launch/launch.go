// Package launch holds what passes between a backend and the runner it spawns: the [Config] in, the [Ready] word and the
// final [Status] out. It has no logic, so that msb need not link the runner.
package launch

import (
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// File descriptors of a runner. What is said on them is in the comments.
const (
	ConfigFD = 3 // one JSON Config, then EOF
	LockFD   = 4 // the run directory's lock, held for the runner's life
	ReadyFD  = 5 // the runner writes one JSON Ready and closes it
	WatchFD  = 6 // attached: EOF ends the sandbox; the byte Detach releases it
	// TableFD is only there to make the FD table large before the runner has threads: growing it later costs an RCU grace
	// period, some 11 ms. The sentry inherits the size.
	TableFD = 1000
)

// Detach, written to WatchFD, lets the sandbox live on when its creator ends.
const Detach = 'd'

// Files in a run directory (MSB_HOME/run/<short id>/).
const (
	LockFile   = "lock"
	InfoFile   = "info.json"   // a sandbox.Info, written before the runner starts and when it is ready
	StatusFile = "status.json" // a sandbox.End, written when the runner ends
	SocketFile = "agent.sock"
	LogFile    = "runner.log"
)

// Config is all that a runner needs to know. Secrets may be in it: it travels on a file descriptor only.
type Config struct {
	Info     sandbox.Info
	RunDir   string // absolute
	Home     string // MSB_HOME
	Root     Root
	Agent    string // EROFS file with the guest agent
	Startup  []string
	Attached bool
	LogLevel string
}

// Root is the sandbox's root file system as the image part prepared it.
type Root struct {
	Image   string // EROFS file
	Binds   []Bind // read-only
	Env     []string
	User    string
	Workdir string
}

// Bind mounts a host path in the guest.
type Bind struct{ Source, Target string }

// Ready is the runner's one word to its creator: the confinement of a sandbox whose agent answers, or why there is none.
type Ready struct {
	Confinement *sandbox.Confinement `json:",omitempty"`
	Failure     *Failure             `json:",omitempty"`
}

// Failure is an error that crossed a process boundary.
type Failure struct {
	Kind    sandbox.Kind
	Message string
	Hint    string
}
