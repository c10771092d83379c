package microsandbox

import (
	"maps"
	"slices"
	"time"

	"github.com/microsandbox-go/microsandbox/internal/agentclient"
	"github.com/microsandbox-go/microsandbox/internal/guest"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// command is one to be run in a sandbox.
type command struct {
	req     agentclient.ExecRequest
	env     []sandbox.EnvVar
	what    guest.What
	timeout time.Duration
}

func commandOf(name string, args []string, opts []ExecOption) (command, ExecConfig, error) {
	c := ExecConfig{}
	for _, o := range opts {
		o(&c)
	}
	cmd := command{req: agentclient.ExecRequest{Cmd: name, Args: args, Cwd: c.Cwd, User: c.User, TTY: c.TTY}}
	if c.Timeout > 0 {
		cmd.timeout = roundUp(c.Timeout, time.Second)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Env)) {
		cmd.env = append(cmd.env, sandbox.EnvVar{Key: key, Value: c.Env[key]})
	}
	for _, v := range cmd.env {
		if err := sandbox.ValidateEnv(v); err != nil {
			return cmd, c, err
		}
	}
	return cmd, c, sandbox.ValidateUser(c.User)
}

// complete adds what the sandbox's configuration says.
func (c *command) complete(spec sandbox.Spec) error {
	return guest.Complete(&c.req, c.what, spec, c.env)
}
