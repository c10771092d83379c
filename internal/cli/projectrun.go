package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// commandFor is what a sandbox of a Sandboxfile runs, the arguments args in the place of its own (contract server-v0.2 §3.3); nil leaves
// it to the image.
func commandFor(name, script, exec string, entry sandboxfile.Sandbox, args []string) ([]string, error) {
	switch {
	case exec != "" && script != "":
		return nil, usageErrorf("", "a script and --exec exclude each other")
	case exec != "":
		return append([]string{exec}, args...), nil
	case script != "":
		command := entry.Script(script)
		if command == nil {
			return nil, &sandbox.Error{Kind: sandbox.NotFound, Message: fmt.Sprintf("script '%s' not found in sandbox configuration '%s'", script, name)}
		}
		return append(command, args...), nil
	}
	if len(entry.Entrypoint)+len(entry.Cmd) > 0 { // they are the sandbox's own
		return nil, nil
	}
	command := entry.Startup()
	if len(command) > 0 && len(args) > 0 {
		if _, start := entry.Scripts[sandboxfile.StartScript]; !start && entry.Exec == "" {
			command = command[:1]
		}
		command = append(command, args...)
	}
	return command, nil
}

// withArgs is a sandbox's own command with those arguments, if there are any, in the place of its own. Without an entrypoint the command's
// first word is the program (contract server-v0.2 §3.3).
func withArgs(spec sandbox.Spec, args []string) []string {
	command := spec.Command()
	if len(args) == 0 {
		return command
	}
	if entrypoint := spec.Entrypoint(); len(entrypoint) > 0 {
		return append(slices.Clone(entrypoint), args...)
	}
	return append(command[:min(len(command), 1)], args...)
}

// runEntry runs a command in a project's sandbox, which is made and started for it if need be, and then stopped again.
func (a *app) runEntry(c *cobra.Command, p *project.Project, target, exec string, args []string, e *execFlags, detach, quiet bool) error {
	name, script, _ := strings.Cut(target, "~")
	entry, ok := p.File.Sandboxes[name]
	if !ok {
		_, err := p.Select([]string{name})
		return err
	}
	command, err := commandFor(name, script, exec, entry, args)
	if err != nil {
		return err
	}
	if detach && (script != "" || exec != "" || len(args) > 0) {
		return usageErrorf("run it in the foreground, or make it the script start", "--detach starts what the Sandboxfile says: it takes no script, --exec or arguments")
	}
	if detach {
		flags := planned{projectFlags: projectFlags{file: p.Path, quiet: quiet}, detach: true}
		return a.bring(c, &flags, project.Options{Names: []string{name}})
	}
	o, err := a.openProject(c.Context(), p, UseCreate)
	if err != nil {
		return err
	}
	defer o.close()
	var info sandbox.Info
	err = o.change(true, func(tell func(project.Event)) (err error) {
		a.spinFor(quiet, "Starting "+name)
		info, err = p.Ready(o.s.ctx, o.b, name, tell)
		return err
	})
	if err != nil {
		return err
	}
	if info.Status == sandbox.Created { // it was made just now, for this
		info.Status = sandbox.Stopped
	}
	if len(command) == 0 {
		command = withArgs(info.Effective(), args)
	}
	if len(command) == 0 {
		command = entry.Script(sandboxfile.ShellScript)
	}
	return o.s.explain(a.execStarted(o.s, o.b, info, quiet, a.jobOf(e, []byte(defaultDetach), command, nil, "", "")))
}

func (a *app) shellCommand() *cobra.Command {
	var (
		p projectFlags
		e execFlags
	)
	c := a.command(&cobra.Command{Use: "shell", Short: "Open the shell of a project's sandbox",
		Long:    "A sandbox that does not run is started for it, without its command, and stopped again.",
		Example: "msb shell web\nmsb shell web -- -c 'id; pwd'"},
		positional{"<NAME>", "Sandbox of the Sandboxfile"}, positional{"[-- ARGS...]", "Arguments of the shell"})
	f := flagsOf(c, false)
	e.declare(f)
	p.declare(f)
	c.ValidArgsFunction = a.completeEntries(&p)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		names, rest := split(c, args)
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		return a.runEntry(c, proj, names[0]+"~"+sandboxfile.ShellScript, "", rest, &e, false, p.quiet)
	}
	return c
}
