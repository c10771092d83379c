package guest

import (
	"cmp"
	"fmt"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// What says which program a command is.
type What int

// The programs.
const (
	Given   What = iota // Cmd and Args
	Default             // what the sandbox runs by itself: its entrypoint and its command
	Shell               // its shell
	Line                // a line for its shell, which is Cmd
)

// Complete adds to a command what the sandbox's spec says; the side that runs commands has to (contract msb-0.6 §2.4). env is over the
// spec's variables. Kind: NoDefaultCommand.
func Complete(r *agentclient.ExecRequest, what What, spec sandbox.Spec, env []sandbox.EnvVar) error {
	switch what {
	case Default:
		if words := spec.Command(); len(words) > 0 {
			r.Cmd, r.Args = words[0], words[1:]
		}
	case Shell:
		r.Cmd, r.Args = spec.Shell(), nil
	case Line:
		r.Cmd, r.Args = spec.Shell(), []string{"-c", r.Cmd}
	}
	if r.Cmd == "" && (what == Default || len(r.Args) == 0) {
		return &sandbox.Error{Op: "exec", Kind: sandbox.NoDefaultCommand, Message: fmt.Sprintf("the image %q has no command of its own", cmp.Or(spec.Image.String(), "?")),
			Hint: "give one after --, or use -t for a shell"}
	}
	r.Complete(spec, env)
	return nil
}
