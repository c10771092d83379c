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
}

func (a *app) runCommand() *cobra.Command {
	r := runFlags{detachKeys: []byte(defaultDetach)}
	c := a.command(&cobra.Command{Use: "run", Short: "Make a sandbox and run a command in it",
		Long: `The image "host" is this machine's own programs, read-only; any other is pulled when it is not here; a directory or a tar
(./rootfs) is taken as it is now, and stays as it is. The sandbox ends with the command, and nothing of it is
left; one that is there already (--name) is used as it is and stays. The exit code is the command's, 128 and the
number of the signal that killed it, 127 or 126 if it could not be run, 1 after any other error, and 255 when the
session was left with --detach-keys, which ends the sandbox, too, if this command made it.`,
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
	c.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		names, directive := a.completeImages(c, args, typed)
		return append(names, sandbox.HostImage), directive &^ cobra.ShellCompDirectiveNoFileComp // or a path
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.refuseLater(); err != nil {
			return err
		}
		image, command := split(c, args)
		return a.run(c, &r, image, command)
	}
	return c
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
	case len(image) == 0 && r.name == "":
		return usageErrorf("for example: msb run host -- uname -a", "msb run needs an image")
	}
	return nil
}

func (a *app) run(c *cobra.Command, r *runFlags, image, command []string) error {
	if err := r.check(image); err != nil {
		return err
	}
	ref := sandbox.Ref{Namespace: sandbox.DefaultNamespace, Name: sandbox.Name(r.name)}
	if r.name == "" {
		ref.Name = sandbox.GenerateName()
	} else if err := ref.Validate(); err != nil {
		return err
	}
	var spec sandbox.Spec
	if len(image) > 0 {
		var err error
		if spec, err = r.spec(ref.Name, image[0]); err != nil {
			return err
		}
		spec.Runtime.Cmd = command
	}
	b, err := a.backend(UseCreate)
	if err != nil {
		return err
	}
	s := a.catchSignals(c.Context())
	defer s.stop()
	if r.name != "" {
		info, err := a.existing(s.ctx, b, ref, r)
		switch {
		case err != nil:
			return s.explain(err)
		case info != nil:
			return a.reuse(s, b, r, *info, command)
		case len(image) == 0:
			return &sandbox.Error{Op: "run", Kind: sandbox.NotFound, Message: r.name, Hint: "to make it, name an image: msb run --name " + r.name + " host -- COMMAND"}
		}
	}
	if r.detach {
		return s.explain(a.runDetached(s.ctx, b, r, ref, spec))
	}
	return a.runAttached(s, b, r, ref, spec)
}

// existing returns the running sandbox of that name, or nil if there is none, or none any more because of --replace.
func (a *app) existing(ctx context.Context, b backend.Backend, ref sandbox.Ref, r *runFlags) (*sandbox.Info, error) {
	info, err := b.Get(ctx, ref)
	switch {
	case sandbox.KindOf(err) == sandbox.NotFound:
		return nil, nil
	case err != nil:
		return nil, err
	case r.replace && !info.Status.Terminal():
		opt := backend.StopOptions{Timeout: r.replaceGrace, Force: r.graceGiven && r.replaceGrace == 0}
		a.spinFor(r.quiet, "Stopping "+string(ref.Name))
		if err := b.Stop(ctx, ref, opt); err != nil && !slices.Contains([]sandbox.Kind{sandbox.NotFound, sandbox.NotRunning}, sandbox.KindOf(err)) {
			return nil, err
		}
		return nil, nil
	case info.Status.Terminal():
		return nil, nil
	case r.detach:
		return nil, &sandbox.Error{Op: "run", Ref: ref, Kind: sandbox.AlreadyExists, Hint: "run a command in it with: msb exec " + string(ref.Name) + " -- COMMAND"}
	case info.Status != sandbox.Running:
		return nil, &sandbox.Error{Op: "run", Ref: ref, Kind: sandbox.NotRunning,
			Message: fmt.Sprintf("sandbox '%s' is not running (status: %s)", ref.Name, info.Status.Title())}
	}
	return &info, nil
}

// reuse runs the command in a sandbox that is there already; it stays.
func (a *app) reuse(s *signals, b backend.Backend, r *runFlags, info sandbox.Info, command []string) error {
	if given := r.given(); len(given) > 0 {
		a.warn(fmt.Sprintf("sandbox %q is running already: %s ignored", info.Ref.Name, strings.Join(given, ", ")),
			"to make it anew, add --replace")
	}
	if len(command) == 0 {
		command = commandOf(info.Spec)
	} else {
		command = append(slices.Clone(info.Spec.Runtime.Entrypoint), command...)
	}
	return a.execIn(s, b, info, a.jobOf(&r.execFlags, r.detachKeys, command, r.env, r.workdir, r.user))
}

// runDetached starts a sandbox that outlives this process and prints its name.
func (a *app) runDetached(ctx context.Context, b backend.Backend, r *runFlags, ref sandbox.Ref, spec sandbox.Spec) error {
	spec.Rlimits = r.rlimits
	req := backend.CreateRequest{Ref: ref, Spec: spec, Startup: true}
	if _, err := a.create(ctx, b, req, r.quiet); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, ref.Name)
	return err
}

// runAttached makes a sandbox, runs its command in it and ends it.
func (a *app) runAttached(s *signals, b backend.Backend, r *runFlags, ref sandbox.Ref, spec sandbox.Spec) error {
	info, err := a.create(s.ctx, b, backend.CreateRequest{Ref: ref, Spec: spec, Attached: true}, r.quiet)
	if err != nil {
		return s.explain(err)
	}
	err = a.execIn(s, b, info, a.jobOf(&r.execFlags, r.detachKeys, commandOf(info.Spec), nil, "", ""))
	ctx, cancel := context.WithTimeout(context.Background(), teardown)
	defer cancel()
	begin := time.Now()
	defer func() { a.log.Debug("stop", "sandbox", ref.Name, "took", time.Since(begin)) }()
	if stop := b.Stop(ctx, ref, backend.StopOptions{Force: true}); stop != nil {
		if k := sandbox.KindOf(stop); k != sandbox.NotFound && k != sandbox.NotRunning {
			a.warn(fmt.Sprintf("sandbox %q may still be running: %v", ref.Name, stop), "stop it with: msb stop -f "+string(ref.Name))
		}
	}
	return err
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
