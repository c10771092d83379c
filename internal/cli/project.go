package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/microsandbox-go/microsandbox/internal/backend"
	"github.com/microsandbox-go/microsandbox/internal/project"
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
	p, err := a.openFile(file)
	if err != nil {
		return nil, err
	}
	a.namespace = p.Namespace
	if p.Defaults, err = a.projectDefaults(); err != nil {
		return nil, err
	}
	for _, w := range p.File.Warnings {
		a.warn(w)
	}
	return p, nil
}

// openFile reads a Sandboxfile. -N comes over the namespace that it names.
func (a *app) openFile(file string) (*project.Project, error) {
	namespace := ""
	if a.namespaced {
		namespace = a.namespace
	}
	return project.Open(file, namespace)
}

// projectDefaults are what the settings say about the sandboxes of projects.
func (a *app) projectDefaults() (func(*sandbox.Spec), error) {
	set, err := a.settings()
	return func(s *sandbox.Spec) {
		set.File.Defaults.Apply(s)
		if set.File.DeploymentProfile == sandbox.MultiTenant {
			s.DeploymentProfile = sandbox.MultiTenant
		}
	}, err
}

// here is the project of this directory if it has the sandbox NAME; nil otherwise, also where the file cannot be read.
func (a *app) here(name string) *project.Project {
	p, err := a.openFile("")
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

// opened is a project that a command is about, where its sandboxes live, and the signals that come meanwhile.
type opened struct {
	*project.Project
	app *app
	b   backend.Backend
	s   *signals
}

// open begins a command about the project of the Sandboxfile that file means. close has to be called.
func (a *app) open(ctx context.Context, file string, use Use) (*opened, error) {
	p, err := a.project(file)
	if err != nil {
		return nil, err
	}
	return a.openProject(ctx, p, use)
}

// openProject is open of a project that was read.
func (a *app) openProject(ctx context.Context, p *project.Project, use Use) (*opened, error) {
	b, err := a.backend(use)
	if err != nil {
		return nil, err
	}
	return &opened{Project: p, app: a, b: b, s: a.catchSignals(ctx)}, nil
}

func (o *opened) close() { o.s.stop() }

// change does something to the project that nobody else may do at the same time, and prints what is done.
func (o *opened) change(quiet bool, do func(tell func(project.Event)) error) error {
	unlock, err := o.Lock(o.s.ctx, func() { o.app.warn("another msb is busy with this project: waiting for it") })
	if err == nil {
		defer unlock()
		tell, end := o.app.teller(quiet)
		err = end(do(tell))
	}
	return o.s.explain(err)
}

// completeEntries completes the names of a Sandboxfile's sandboxes.
func (a *app) completeEntries(p *projectFlags) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completeFile(p, func(p *project.Project) []string { names, _ := p.Select(nil); return names })
}

// completeTargets completes what msb run and exe take: a Sandboxfile's sandboxes with their scripts and, without -f, images.
func (a *app) completeTargets(flags *projectFlags) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	entries := a.completeFile(flags, func(p *project.Project) (all []string) {
		names, _ := p.Select(nil)
		for _, name := range names {
			all = append(all, name)
			for _, script := range slices.Sorted(maps.Keys(p.File.Sandboxes[name].Scripts)) {
				all = append(all, name+"~"+script)
			}
		}
		return all
	})
	return func(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
		all, directive := entries(c, given, typed)
		if flags.file != "" {
			return all, directive
		}
		roots, directive := a.completeRoots(c, given, typed)
		return append(all, roots...), directive
	}
}

func (a *app) completeFile(flags *projectFlags, names func(*project.Project) []string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := a.openFile(flags.file)
		if all := positionals(c); err != nil || len(given) > 0 && !all[0].many() {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.DeleteFunc(names(p), func(n string) bool { return slices.Contains(given, n) }), cobra.ShellCompDirectiveNoFileComp
	}
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
