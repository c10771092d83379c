package cli

import (
	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/sandbox"
)

func (a *app) execCommand() *cobra.Command {
	var (
		e             execFlags
		env           []sandbox.EnvVar
		workdir, user string
		quiet, stream bool
	)
	c := a.command(&cobra.Command{Use: "exec", Short: "Run a command in a sandbox",
		Long: `Input and output are always streamed. The command ends with this process; ctrl-] ends the session (exit code 255).
A sandbox that was stopped is started for the command, and stopped again after it. The exit code is as that of msb run.`,
		Example: `msb exec work -- ps aux
msb exec -e DEBUG=1 -w /tmp work -- sh -c 'env; pwd'
msb exec -t work`},
		positional{"<NAME>", "Sandbox to run it in"},
		positional{"[-- COMMAND...]", "Command to run; without it, and on a terminal, the sandbox's shell"})
	f := flagsOf(c, false)
	f.value("e", "env", "KEY=VALUE", "Environment variable; repeatable", setAppend(&env, sandbox.ParseEnv))
	f.value("w", "workdir", "PATH", "Working directory", setString(&workdir))
	f.value("u", "user", "USER", "Run as NAME or UID, and :GROUP or :GID after it", setString(&user))
	e.declare(f)
	f.quiet(&quiet)
	f.toggle("", "stream", "Pipes both ways, which is what happens without a terminal anyway", &stream)
	c.ValidArgsFunction = a.completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		names, command := split(c, args)
		if err := e.check(); err != nil {
			return err
		}
		if stream && e.tty {
			return usageErrorf("", "--stream and --tty exclude each other")
		}
		e.noTTY = e.noTTY || stream
		for _, v := range env {
			if err := sandbox.ValidateEnv(v); err != nil {
				return err
			}
		}
		if err := sandbox.ValidateUser(user); err != nil {
			return err
		}
		b, info, err := a.getFor(c.Context(), UseManage, names[0])
		if err == nil && info.Status.Terminal() {
			b, err = a.backend(UseCreate) // it is started
		}
		if err != nil {
			return err
		}
		job := a.jobOf(&e, []byte(defaultDetach), command, env, workdir, user)
		if len(command) == 0 && !job.req.TTY {
			if !quiet {
				a.warn("no command provided and stdin is not a terminal")
			}
			return nil
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return a.execStarted(s, b, info, quiet, job)
	}
	return c
}
