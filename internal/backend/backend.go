// Package backend is the waist of microsandbox: everything above it (CLI, SDK, servers) speaks to a [Backend];
// everything below it says where sandboxes live. A sandbox is created, dialled any number of times, stopped and removed,
// in that order; every method may be called concurrently.
//
// What only some backends can do is a second interface, found by assertion; asking for what is missing gives the typed
// sandbox.Unsupported error.
package backend

import (
	"context"
	"net"
	"time"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

// Backend is where sandboxes live.
type Backend interface {
	// Create makes a sandbox and starts it, unless the request says otherwise; it returns when the guest agent answers. Of a
	// sandbox that is kept and whose start failed the record stays, for its logs; making it anew replaces that. Kinds:
	// AlreadyExists, InvalidConfig, ImageNotFound, LibraryNotLoaded (the runner is missing), BootFailed, IO.
	Create(ctx context.Context, req CreateRequest) (sandbox.Info, error)
	// Start starts a sandbox that was stopped, with its files; one that runs it returns as it is, and one that somebody else is
	// just starting when it runs. Kinds: NotFound, BootFailed, LibraryNotLoaded, IO.
	Start(ctx context.Context, ref sandbox.Ref, opt StartOptions) (sandbox.Info, error)
	// Get returns what is recorded of one sandbox, after looking whether it still runs. Kind: NotFound.
	Get(ctx context.Context, ref sandbox.Ref) (sandbox.Info, error)
	// List returns the sandboxes of a namespace, newest first.
	List(ctx context.Context, namespace string) ([]sandbox.Info, error)
	// Stop ends a running sandbox and returns when it has ended. Kinds: NotFound, NotRunning.
	Stop(ctx context.Context, ref sandbox.Ref, opt StopOptions) error
	// Remove forgets a sandbox and its files. Kinds: NotFound; StillRunning, unless force is set, which kills it first.
	Remove(ctx context.Context, ref sandbox.Ref, force bool) error
	// Dial connects to the guest agent's relay (contract msb-0.6 §4.3). Kinds: NotFound, NotRunning.
	Dial(ctx context.Context, ref sandbox.Ref) (net.Conn, error)
}

// CreateRequest says what to create. Spec.Name names it; Ref.Name is the same.
type CreateRequest struct {
	Ref  sandbox.Ref
	Spec sandbox.Spec
	// Attached sandboxes end with the process that created them.
	Attached bool
	// Startup has the command of Spec, which the image may have completed, run in the guest once it is ready (msb run -d), and
	// at each start; its end ends the sandbox. Where there is no command, and of the image host none that was not asked for,
	// nothing is run.
	Startup bool
	// Prepare leaves the sandbox where it can be started. One that is ephemeral cannot be left so.
	Prepare bool
	// Replace removes what has the name, which is given Grace to end if it runs; 0 kills it at once.
	Replace bool
	Grace   time.Duration
	// Generated says that the name is a new one of sandbox.GenerateName, which nobody can have.
	Generated bool
	// Resolved says that the paths of this machine in Spec were looked at already and lead through no link: one that does by now is refused.
	Resolved bool
	// Pulled says that the image was got just now: where Spec wants its registry asked each time, it was.
	Pulled bool
	// Registry is what the image's registry knows the user by, in the place of what is stored and configured; nil is that. It is not kept.
	Registry *RegistryAuth
	// Proven images are only those that the registry gives to Registry, or anybody: not what is there for credentials of others.
	Proven bool
	// Progress is called with what is being done, from one goroutine at a time; nil is silence.
	Progress func(Event)
}

// ReplaceGrace is how long what is replaced gets to end by default (contract msb-0.6 §2.1).
const ReplaceGrace = 10 * time.Second

// StartOptions say how to start a sandbox that is there.
type StartOptions struct {
	// Attached sandboxes end with the process that started them.
	Attached bool
	// Sole has the call fail with AlreadyExists where the sandbox runs, or somebody else is starting it.
	Sole bool
	// Quiet leaves out the command that the sandbox was made to run by itself (CreateRequest.Startup).
	Quiet    bool
	Progress func(Event)
}

// Event is a step of a long operation, for people to read.
type Event struct {
	Step string // "image", "boot"
	Text string
	Pull *PullEvent // how far the image is; nil otherwise
}

// StopOptions bound a stop. The zero value asks politely and kills after 10 s (contract msb-0.6 §2.1).
type StopOptions struct {
	Force   bool          // kill at once
	Timeout time.Duration // 0: 10 s
}

// StartChecker is a backend that knows before a start what would keep it from working.
type StartChecker interface {
	// CheckStart returns the error that the sandbox's next start would fail with for what is missing outside of it, such as the value of
	// a secret. Kinds: InvalidConfig, Unsupported.
	CheckStart(ctx context.Context, info sandbox.Info) error
}

// Owner is a backend that can let a sandbox's life end with this process (CreateRequest.Attached, StartOptions.Attached).
type Owner interface {
	// Disown lets a sandbox that this process owns live on. It does nothing if the one with that ID is not owned.
	Disown(ctx context.Context, ref sandbox.Ref, id string) error
}

// Finder is a backend that knows sandboxes by their IDs.
type Finder interface {
	// Find returns what Get does, of the sandbox with an ID, whatever its namespace. Kind: NotFound.
	Find(ctx context.Context, id string) (sandbox.Info, error)
}
