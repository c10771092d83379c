package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// defaultDetach is ctrl-].
const defaultDetach = "\x1d"

// runFlags are the flags of msb run.
type runFlags struct {
	sandboxFlags
	execFlags
	detach     bool
	detachKeys []byte
	project    projectFlags
	exec       string // of a project's sandbox
	installed  bool   // msb install has made the command line
}

func (a *app) runCommand() *cobra.Command {
	r := runFlags{detachKeys: []byte(defaultDetach)}
	c := a.command(&cobra.Command{Use: "run", Short: "Make a sandbox and run a command in it",
		Long: `The image "host" is this machine's own programs, read-only; any other is pulled when it is not here; a directory or a tar
(./rootfs) is taken as it is now, and stays as it is. The sandbox ends with the command, and nothing of it is
left unless it has a name (--name): then its files stay, and the next run of that name has them, as it is. The exit code is the command's, 128 and the
number of the signal that killed it, 127 or 126 if it could not be run, 1 after any other error, and 255 when the
session was left with --detach-keys, which ends the sandbox, too, if this command made it.
With --file, or where the Sandboxfile of this directory has a sandbox of that name, it is that sandbox, and what follows ~ its script.`,
		Example: `msb run host -- python3 -c 'print(1 + 1)'
msb run -t python:3.12
msb run ./rootfs -- /bin/sh -c 'id; ls /'
echo hello | msb run --no-net -m 128M --timeout 10s host -- tr a-z A-Z
msb run -d --name work host -- sleep 600`},
		positional{"[IMAGE]", "Image to start from: host, a reference, or the path of a directory or a tar"},
		positional{"[-- COMMAND...]", "Command to run, in place of the image's own"})
	f := flagsOf(c, false)
	f.group("Session")
	f.toggle("d", "detach", "Leave it running in the background and print its name", &r.detach)
	r.execFlags.declare(f)
	f.value("", "detach-keys", "KEYS", "Keys that leave the session, e.g. ctrl-p,ctrl-q (default ctrl-])", setParsed(&r.detachKeys, sandbox.ParseDetachKeys))
	r.sandboxFlags.declare(f)
	f.toggle("", "installed", "The flags are those that the sandbox was made with", &r.installed)
	f.hide("installed")
	f.group("Project")
	r.project.declareFile(f, "f")
	f.value("", "exec", "COMMAND", "Command of a project's sandbox, which is not split into words", setString(&r.exec))
	c.ValidArgsFunction = a.completeTargets(&r.project)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		image, command := split(c, args)
		if p, err := a.runProject(c, &r, image); p != nil || err != nil {
			if err == nil {
				err = a.runEntry(c, p, image[0], r.exec, command, &r.execFlags, r.detach, r.quiet)
			}
			return err
		}
		return a.run(c, &r, image, command)
	}
	return c
}

// runProject is the project that msb run is about: that of --file, or of this directory where the Sandboxfile has a sandbox of that name
// (ADR 18); nil for none.
func (a *app) runProject(c *cobra.Command, r *runFlags, image []string) (*project.Project, error) {
	var p *project.Project
	switch {
	case r.project.file != "":
		if len(image) == 0 {
			return nil, usageErrorf("for example: msb run --file . web", "msb run --file needs the name of a sandbox")
		}
		var err error
		if p, err = a.project(r.project.file); err != nil {
			return nil, err
		}
	case len(image) == 1:
		p = a.here(image[0])
	}
	if p == nil {
		if r.exec != "" {
			return nil, usageErrorf("put the command after --", "--exec is for the sandboxes of a Sandboxfile")
		}
		return nil, nil
	}
	if err := r.execFlags.check(); err != nil {
		return nil, err
	}
	if given := r.given(); len(given) > 0 || r.name != "" || r.replace {
		if r.name != "" {
			given = append(given, "--name")
		}
		if r.replace {
			given = append(given, "--replace")
		}
		return nil, usageErrorf("say it in the file; an image of that name is meant by: "+image[0]+":latest", "%s is a sandbox of %s, which %s cannot change", image[0], p.Path, strings.Join(given, ", "))
	}
	return p, nil
}

func (r *runFlags) check(image []string) error {
	if err := r.execFlags.check(); err != nil {
		return err
	}
	switch {
	case r.detach && (r.tty || r.timeout > 0):
		return usageErrorf("to bound a sandbox in the background, use --max-duration", "--detach excludes --tty and --timeout")
	case r.replace && r.name == "":
		return usageErrorf("name the sandbox to replace: --name NAME", "--replace needs --name")
	case len(image) == 0 && r.name == "" && !r.conf.whole():
		return usageErrorf("for example: msb run host -- uname -a", "msb run needs an image")
	}
	return nil
}

func (a *app) run(c *cobra.Command, r *runFlags, image, command []string) error {
	if err := r.check(image); err != nil {
		return err
	}
	ref, generated, err := a.newRef(r.name)
	if err != nil {
		return err
	}
	r.ephemeral = generated
	var spec sandbox.Spec
	if len(image) > 0 || r.conf.whole() {
		if spec, err = a.spec(&r.sandboxFlags, ref.Name, first(image)); err != nil {
			return err
		}
		if len(command) > 0 {
			spec.Runtime.Cmd = command
		}
	}
	b, err := a.backend(UseCreate)
	if err != nil {
		return err
	}
	s := a.catchSignals(c.Context())
	defer s.stop()
	req := backend.CreateRequest{Ref: ref, Spec: spec, Registry: r.registry, Attached: !r.detach, Startup: r.detach, Replace: r.replace, Grace: r.grace(), Generated: generated}
	if !generated && !r.replace {
		info, err := b.Get(s.ctx, ref)
		switch {
		case err == nil && !info.Gone():
			return s.explain(a.reuse(s, b, r, info, command))
		case err != nil && sandbox.KindOf(err) != sandbox.NotFound:
			return s.explain(err)
		case len(image) == 0 && !r.conf.whole():
			return &sandbox.Error{Op: "run", Kind: sandbox.NotFound, Message: r.name, Hint: "to make it, name an image: msb run --name " + r.name + " host -- COMMAND"}
		}
	}
	if r.detach {
		return s.explain(a.runDetached(s.ctx, b, r, req))
	}
	return a.runAttached(s, b, r, req)
}

// reuse runs the command in a sandbox that is there already, and leaves it as it was: started if it was stopped, for the time
// of the command.
func (a *app) reuse(s *signals, b backend.Backend, r *runFlags, info sandbox.Info, command []string) error {
	if r.detach {
		hint := "run a command in it with: msb exec " + string(info.Ref.Name) + " -- COMMAND"
		if info.Status.Terminal() {
			hint = "start it with: msb start " + string(info.Ref.Name) + ", or make it anew with --replace"
		}
		return &sandbox.Error{Op: "run", Ref: info.Ref, Kind: sandbox.AlreadyExists, Hint: hint}
	}
	if given := r.given(); len(given) > 0 && !r.installed {
		a.warn(fmt.Sprintf("sandbox %q is there already: %s ignored", info.Ref.Name, strings.Join(given, ", ")),
			"to make it anew, add --replace")
	}
	if len(command) == 0 {
		command = info.Effective().Command()
	} else {
		command = append(slices.Clone(info.Effective().Entrypoint()), command...)
	}
	return a.execStarted(s, b, info, r.quiet, a.jobOf(&r.execFlags, r.detachKeys, command, r.env, r.workdir, r.user))
}

// execStarted runs the job in a sandbox that may have to be started for it, and is stopped again then.
func (a *app) execStarted(s *signals, b backend.Backend, info sandbox.Info, quiet bool, j job) error {
	// Somebody else may be making or starting it; for him Start waits.
	begins := (info.Status == sandbox.Created || info.Status == sandbox.Starting) && !info.Spec.Lifecycle.Ephemeral
	if !begins && info.Status != sandbox.Stopped && info.Status != sandbox.Crashed {
		if info.Status != sandbox.Running {
			return info.NotRunning("exec")
		}
		client, err := a.connect(s, b, info)
		if err == nil {
			return a.execOver(s, b, client, info, j)
		}
		if sandbox.KindOf(err) != sandbox.NotRunning || info.Spec.Lifecycle.Ephemeral {
			return err
		} // it was about to end, and of the command it knows nothing
	}
	a.spinFor(quiet, "Starting "+string(info.Ref.Name))
	ref, ours := info.Ref, true
	info, err := b.Start(s.ctx, ref, backend.StartOptions{Attached: true, Quiet: true, Sole: true})
	if sandbox.KindOf(err) == sandbox.AlreadyExists { // somebody else has started it, and it is for him to stop it
		ours = false
		info, err = b.Start(s.ctx, ref, backend.StartOptions{Attached: true, Quiet: true})
	}
	a.settle()
	if err != nil {
		return s.explain(err)
	}
	if ours {
		defer a.stopAfter(b, info)
	}
	return a.execIn(s, b, info, j)
}

// stopAfter ends the sandbox of a command that has ended. One that is kept is asked to, so that it syncs its disks.
func (a *app) stopAfter(b backend.Backend, info sandbox.Info) {
	ctx, cancel := context.WithTimeout(context.Background(), teardown)
	defer cancel()
	begin := time.Now()
	err := b.Stop(ctx, info.Ref, backend.StopOptions{Force: info.Spec.Lifecycle.Ephemeral, Timeout: teardown - 5*time.Second})
	if k := sandbox.KindOf(err); err != nil && k != sandbox.NotFound && k != sandbox.NotRunning {
		a.warn(fmt.Sprintf("sandbox %q may still be running: %v", info.Ref.Name, err), "stop it with: msb stop -f "+string(info.Ref.Name))
	}
	a.log.Debug("stop", "sandbox", info.Ref.Name, "took", time.Since(begin))
}

// runDetached starts a sandbox that outlives this process and prints its name.
func (a *app) runDetached(ctx context.Context, b backend.Backend, r *runFlags, req backend.CreateRequest) error {
	req.Spec.Rlimits = r.rlimits
	if _, err := a.create(ctx, b, req, r.quiet); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, req.Ref.Name)
	return err
}

// runAttached makes a sandbox, runs its command in it and ends it.
func (a *app) runAttached(s *signals, b backend.Backend, r *runFlags, req backend.CreateRequest) error {
	info, err := a.create(s.ctx, b, req, r.quiet)
	if err != nil {
		return s.explain(err)
	}
	defer a.stopAfter(b, info)
	return a.execIn(s, b, info, a.jobOf(&r.execFlags, r.detachKeys, info.Spec.Command(), nil, "", ""))
}

// teardown is how long the end of a sandbox may take before it is said that it did not end.
const teardown = 15 * time.Second

func (a *app) create(ctx context.Context, b backend.Backend, req backend.CreateRequest, quiet bool) (sandbox.Info, error) {
	a.spinFor(quiet, "Starting "+string(req.Ref.Name))
	spin, view := a.spin, a.viewPull(quiet, pulling, imageOf(req.Spec))
	req.Progress = func(e backend.Event) {
		if e.Pull == nil {
			spin.say(e.Text)
		} else {
			view(*e.Pull)
		}
	}
	begin := time.Now()
	info, err := b.Create(ctx, req)
	a.settle()
	a.log.Debug("create", "sandbox", req.Ref.Name, "took", time.Since(begin), "err", err)
	return info, suggestPath(err, req.Spec.Image)
}

// suggestPath says how to name a directory that was taken for an image of a registry.
func suggestPath(err error, i sandbox.Image) error {
	var e *sandbox.Error
	if i.OCI == nil || !errors.As(err, &e) || e.Kind != sandbox.ImageNotFound && e.Kind != sandbox.ImagePullFailed {
		return err
	}
	if _, missing := os.Stat(i.OCI.Reference); missing != nil {
		return err
	}
	hinted := *e
	hinted.Hint = "the directory or file of that name is: ./" + i.OCI.Reference
	return &hinted
}
