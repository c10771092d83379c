package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
	"github.com/microsandbox-go/microsandbox/internal/sandboxfile"
	"github.com/microsandbox-go/microsandbox/sandbox"
)

// projectFlags are those of commands about a project (contract server-v0.2 §5; ADR 18 says which names they share with others).
type projectFlags struct {
	file  string
	quiet bool
}

func (p *projectFlags) declare(f *flags) {
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	var kind bool
	f.toggle("s", "sandbox", "The names are those of sandboxes, which they are anyway", &kind)
	f.hide("sandbox")
	f.refuse("b", "build", "", "The names are those of builds", "not supported here", "make images of builds with: msb build NAME")
	f.hide("build")
}

// declareFile declares --file, with a letter where that is free.
func (p *projectFlags) declareFile(f *flags, short string) {
	f.value(short, "file", "PATH", "Sandboxfile, or its directory (default that of this directory)", func(v string) error {
		if v == "" {
			return fmt.Errorf("it is empty")
		}
		p.file = v
		return nil
	})
}

// project reads the Sandboxfile that the flags mean, and warns of what is in it and means nothing.
func (a *app) project(file string) (*project.Project, error) {
	p, err := project.Open(file, a.namespace)
	if err != nil {
		return nil, err
	}
	set, err := a.settings()
	if err != nil {
		return nil, err
	}
	p.Defaults = func(s *sandbox.Spec) {
		set.File.Defaults.Apply(s)
		if set.File.DeploymentProfile == sandbox.MultiTenant {
			s.DeploymentProfile = sandbox.MultiTenant
		}
	}
	for _, w := range p.File.Warnings {
		a.warn(w)
	}
	return p, nil
}

// here is the project of this directory if it has the sandbox NAME; nil otherwise, also where the file cannot be read.
func (a *app) here(name string) *project.Project {
	p, err := project.Open("", a.namespace)
	if err != nil {
		return nil
	}
	name, _, _ = strings.Cut(name, "~")
	if !p.Has(name) {
		return nil
	}
	if p, err = a.project(""); err != nil {
		return nil
	}
	return p
}

// locked does something to a project that nobody else may do at the same time.
func (a *app) locked(ctx context.Context, p *project.Project, do func() error) error {
	unlock, err := p.Lock(ctx, func() { a.warn("another msb is busy with this project: waiting for it") })
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

// teller prints what is done to a project. end has to be called.
func (a *app) teller(quiet bool) (tell func(project.Event), end func(error) error) {
	a.spinFor(quiet, "Looking")
	tell = func(e project.Event) {
		switch {
		case e.Err != nil:
			a.above(func() { a.fail(e.Err) })
		case e.Verb != "":
			if !quiet {
				a.above(func() {
					fmt.Fprintf(a.err, "   %s %-12s %s\n", styleOf(a.err).green("✓"), e.Verb, oneLine(e.Name))
				})
			}
		default:
			a.spin.say(e.Text)
		}
	}
	return tell, func(err error) error {
		a.settle()
		var failed *project.Failed
		if !errors.As(err, &failed) {
			return err
		}
		for _, one := range failed.Errs { // the others were told of
			if errors.Is(one, project.ErrLeftOut) {
				a.fail(one)
			}
		}
		return exitCode(exitError)
	}
}

func (a *app) initCommand() *cobra.Command {
	var p projectFlags
	c := a.command(&cobra.Command{Use: "init", Short: "Make a Sandboxfile",
		Long:    "One that is there already stays as it is.",
		Example: "msb init\nmsb init -f ./shop"})
	f := flagsOf(c, false)
	p.declareFile(f, "f")
	f.quiet(&p.quiet)
	c.RunE = func(*cobra.Command, []string) error {
		path, err := project.Find(p.file)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			return &sandbox.Error{Kind: sandbox.AlreadyExists, Message: path + " is there already"}
		}
		if err == nil {
			_, err = file.WriteString(sandboxfile.Empty)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return &sandbox.Error{Kind: sandbox.IO, Message: err.Error()}
		}
		a.did(p.quiet, "Made", path)
		return nil
	}
	return c
}

func (a *app) addCommand() *cobra.Command {
	var (
		p       projectFlags
		s       sandboxfile.Sandbox
		cpus    int
		memory  int
		scripts []string
		start   string
		imports []string
		exports []string
		schema  bool
	)
	c := a.command(&cobra.Command{Use: "add", Short: "Add sandboxes to a Sandboxfile",
		Long: "Everything else in the file stays as it is, comments, too.",
		Example: `msb add web -i python:3.12 -p 8080:80 --start 'python3 -m http.server 80'
msb add db -i postgres:17 -v data:/var/lib/postgresql/data --env-file db.env`},
		positional{"[NAMES...]", "Names of the sandboxes"})
	f := flagsOf(c, false)
	f.value("i", "image", "IMAGE", "Image, a directory (./DIR) or the name of a build", setString(&s.Image))
	f.value("", "memory", "MIB", "Memory in MiB (default 1024)", setInt(&memory, 1, 1<<31-1))
	f.value("", "cpus", "N", "CPUs (default 1)", setInt(&cpus, 1, 255))
	f.value("", "cpu", "N", "The same as --cpus", setInt(&cpus, 1, 255))
	f.hide("cpu")
	f.value("v", "volume", "HOST:GUEST", "Directory of this machine, or a volume; repeatable", setAppend(&s.Volumes, verbatim))
	f.value("p", "port", "HOST:GUEST", "Port to publish; repeatable", setAppend(&s.Ports, verbatim))
	f.value("", "env", "KEY=VALUE", "Environment variable; repeatable", setAppend(&s.Envs, verbatim))
	f.value("", "env-file", "PATH", "File with environment variables", setString(&s.EnvFile))
	f.value("", "depends-on", "NAME", "Sandbox that has to be up before; repeatable", setAppend(&s.DependsOn, verbatim))
	f.value("", "workdir", "PATH", "Working directory", setString(&s.Workdir))
	f.value("", "shell", "SHELL", "Shell of scripts (default /bin/sh)", setString(&s.Shell))
	f.value("", "script", "NAME=TEXT", "Script; repeatable", setAppend(&scripts, verbatim))
	f.value("", "start", "TEXT", "The script that it runs when it starts", setString(&start))
	f.value("", "import", "NAME=PATH", "Kept in the file, and of no effect; repeatable", setAppend(&imports, verbatim))
	f.value("", "export", "NAME=PATH", "The same; repeatable", setAppend(&exports, verbatim))
	f.value("", "scope", "SCOPE", "What it may reach: none, group, public (default) or any", func(v string) error {
		return setWord(&s.Scope, "none", "group", "public", "any")(strings.ToLower(v))
	})
	p.declare(f)
	f.toggle("", "schema", "Print the JSON Schema of a Sandboxfile, and add nothing", &schema)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		if schema {
			text, err := sandboxfile.Schema()
			if err == nil {
				_, err = fmt.Fprintf(a.out, "%s\n", text)
			}
			return err
		}
		if len(names) == 0 || s.Image == "" {
			return usageErrorf("for example: msb add web --image python:3.12", "msb add needs NAMES and --image")
		}
		if memory > 0 {
			m := uint32(memory)
			s.Memory = &m
		}
		if cpus > 0 {
			n := uint8(cpus)
			s.CPUs = &n
		}
		var err error
		if s.Scripts, err = pairs(scripts); err != nil {
			return err
		}
		if start != "" {
			if s.Scripts == nil {
				s.Scripts = map[string]string{}
			}
			s.Scripts[sandboxfile.StartScript] = start
		}
		if s.Imports, err = pairs(imports); err != nil {
			return err
		}
		if s.Exports, err = pairs(exports); err != nil {
			return err
		}
		s.Shell = cmp.Or(s.Shell, sandbox.DefaultShell)
		path, err := project.Find(p.file)
		if err != nil {
			return err
		}
		check := s
		check.EnvFile = "" // it may be written later
		for _, name := range names {
			if err := sandbox.Name(name).Validate(); err != nil {
				return err
			}
			if _, err := check.Spec(name, sandboxfile.Rules{Dir: filepath.Dir(path)}); err != nil {
				return err
			}
		}
		if err := sandboxfile.Add(path, names, s); err != nil {
			return err
		}
		for _, name := range names {
			a.did(p.quiet, "Added", name)
		}
		return nil
	}
	return c
}

// pairs reads NAME=TEXT; nil for none.
func pairs(all []string) (map[string]string, error) {
	var m map[string]string
	for _, one := range all {
		k, v, ok := strings.Cut(one, "=")
		if !ok || k == "" {
			return nil, usageErrorf("", "%q is not of the form NAME=TEXT", clip(one))
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}

// removeEntries takes sandboxes out of a Sandboxfile (msb remove --file). What was made of them stays.
func (a *app) removeEntries(file string, names []string, quiet bool) error {
	path, err := project.Find(file)
	if err != nil {
		return err
	}
	dropped, err := sandboxfile.Drop(path, names)
	if errors.Is(err, os.ErrNotExist) {
		return &sandbox.Error{Kind: sandbox.NotFound, Message: "there is no " + path, Hint: "make one with: msb init"}
	}
	if err != nil {
		return err
	}
	for _, name := range dropped {
		a.did(quiet, "Dropped", name)
	}
	return nil
}

// planned are the flags of what brings a project up.
type planned struct {
	projectFlags
	dryRun, detach bool
	format         string
}

func (a *app) upCommand() *cobra.Command {
	var p planned
	c := a.command(&cobra.Command{Use: "up", Short: "Start a project's sandboxes",
		Long: `Those that do not run are started as the Sandboxfile says now, what they depend on first; those that run stay as they are (msb apply
restarts what has changed). Without -d their output is shown until ctrl-C, which stops them again.`,
		Example: "msb up -d\nmsb up -d web\nmsb up --dry-run"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	f.toggle("d", "detach", "Leave them running in the background", &p.detach)
	f.toggle("", "dry-run", "Print what would be done, and do nothing", &p.dryRun)
	f.format(&p.format)
	p.declare(f)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		return a.bring(c, &p, project.Options{Names: names})
	}
	return c
}

func (a *app) applyCommand() *cobra.Command {
	p := planned{detach: true}
	c := a.command(&cobra.Command{Use: "apply", Short: "Make a project's sandboxes what its Sandboxfile says",
		Long: `It starts those that do not run, restarts those that have changed and only those, and stops those that the file has no more.
They run in the background.`,
		Example: "msb apply\nmsb apply --dry-run\nmsb apply --dry-run --format json"})
	f := flagsOf(c, false)
	f.toggle("d", "detach", "Leave them running in the background, which happens anyway", &p.detach)
	f.toggle("", "dry-run", "Print what would be done, and do nothing", &p.dryRun)
	f.format(&p.format)
	p.declare(f)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		p.detach = true
		return a.bring(c, &p, project.Options{Converge: true})
	}
	return c
}

func (a *app) bring(c *cobra.Command, flags *planned, opt project.Options) error {
	if flags.format != "" && !flags.dryRun {
		return usageErrorf("", "--format needs --dry-run")
	}
	p, err := a.project(flags.file)
	if err != nil {
		return err
	}
	b, err := a.backend(UseCreate)
	if err != nil {
		return err
	}
	s := a.catchSignals(c.Context())
	defer s.stop()
	if flags.dryRun {
		plan, err := p.Plan(s.ctx, b, opt)
		if err != nil {
			return s.explain(err)
		}
		return a.printSteps(plan, flags.format)
	}
	err = a.locked(s.ctx, p, func() error {
		tell, end := a.teller(flags.quiet)
		plan, err := p.Plan(s.ctx, b, opt)
		if err == nil {
			for _, step := range plan.Steps {
				if step.Action == project.Keep && step.Why != "" {
					a.warn(step.Name + ": " + step.Why)
				}
			}
			if plan.Nothing() && !flags.quiet {
				a.above(func() { fmt.Fprintln(a.err, "Nothing to do.") })
			}
			err = p.Run(s.ctx, b, plan, tell)
		}
		return end(err)
	})
	if err != nil || flags.detach {
		return s.explain(err)
	}
	names, err := p.Select(opt.Names)
	if err != nil {
		return err
	}
	err = a.projectLogs(s.ctx, b, p, names, &logsFlags{follow: true, color: "auto"})
	if s.ctx.Err() == nil {
		return err
	}
	// ctrl-C: they are stopped, with a second one at once.
	stopping := a.catchSignals(context.Background())
	defer stopping.stop()
	return a.down(stopping, p, b, opt.Names, backend.StopOptions{}, flags.quiet)
}

func (a *app) printSteps(plan project.Plan, format string) error {
	if format == "json" {
		return printJSON(a.out, each(plan.Steps, func(s project.Step) any {
			return map[string]any{"action": s.Action, "name": s.Name, "why": s.Why, "after": append([]string{}, s.After...)}
		}))
	}
	if plan.Nothing() {
		fmt.Fprintln(a.err, "Nothing to do.")
	}
	if len(plan.Steps) == 0 {
		return nil
	}
	return printTable(a.out, []string{"NAME", "ACTION", "WHY"}, each(plan.Steps, func(s project.Step) []string { return []string{s.Name, string(s.Action), s.Why} }))
}

func (a *app) downCommand() *cobra.Command {
	var (
		p    projectFlags
		stop stopFlags
	)
	c := a.command(&cobra.Command{Use: "down", Short: "Stop a project's sandboxes",
		Long:    "What depends on a sandbox is stopped before it. Their files stay.",
		Example: "msb down\nmsb down web"},
		positional{"[NAMES...]", "Sandboxes of the Sandboxfile; without any, all"})
	f := flagsOf(c, false)
	stop.seconds = 10
	f.toggle("", "force", "Kill at once; what was not synced may be lost", &stop.force)
	f.value("t", "timeout", "SECONDS", "How long they may take before they are killed (default 10)", setInt(&stop.seconds, 0, 1<<20))
	p.declare(f)
	c.RunE = func(c *cobra.Command, names []string) error {
		if err := f.refusal(); err != nil {
			return err
		}
		proj, err := a.project(p.file)
		if err != nil {
			return err
		}
		b, err := a.backend(UseManage)
		if err != nil {
			return err
		}
		s := a.catchSignals(c.Context())
		defer s.stop()
		return a.down(s, proj, b, names, stop.options(), p.quiet)
	}
	return c
}

func (a *app) down(s *signals, p *project.Project, b backend.Backend, names []string, opt backend.StopOptions, quiet bool) error {
	return s.explain(a.locked(s.ctx, p, func() error {
		tell, end := a.teller(quiet)
		return end(p.Down(s.ctx, b, names, opt, tell))
	}))
}
